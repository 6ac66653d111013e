"""Merging: from a finished run to a plain model that needs no `rlrr`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import timm

from rlrr.adapters.folder import merged_model
from rlrr.errors import UsageError
from rlrr.files import expect_new_folder
from rlrr.hints import checked
from rlrr.inference.predict import Classifier, load, sample_images
from rlrr.interop.timm_folder import write_timm_folder
from rlrr.methods.capabilities import can_merge


@dataclass(frozen=True)
class Merged:
    """A merged model, and its difference from the run.

    Attributes:
        folder: Folder of the model, in timm's format.
        difference: Largest absolute difference of a logit from the unmerged model; None if there was no image.
        largest: Largest absolute logit, as a scale for the difference.
        images: Number of images compared on.
    """

    folder: Path
    difference: float | None
    largest: float
    images: int


@checked
def merge(
    run: str | Path,
    output: str | Path,
    *,
    images: Sequence[str | Path] = (),
    weights: str | Path | None = None,
    device: str = "auto",
    threads: int | None = None,
) -> Merged:
    """Merge a run into its backbone and write the plain model as a folder in timm's format.

    Args:
        run: The folder that `train` wrote.
        output: A folder that does not exist yet.
        images: Images to compare the logits on; by default the first validation images of the run's own data.
        weights: File or folder with the backbone's weights, if they have moved since training.
        device: Device on which the logits are compared, as for `load`.
        threads: Threads for computing on the CPU, as for `load`.

    Raises:
        RLRRError: `output` exists, the run or an image cannot be read, or the method's update is no change of weights.

    Example:
        >>> rlrr.merge("run", "merged").difference
        1.9e-06
        >>> timm.create_model("local-dir:merged", pretrained=True)
    """
    folder = Path(output)
    expect_new_folder(folder)
    classifier = load(run, weights=weights, device=device, threads=threads)
    if not can_merge(classifier.model):
        raise UsageError(
            f"The update that {classifier.record.method} learns cannot be written into the weights: use `rlrr export`, "
            "which exports the adapted model as ONNX, or keep the adapter."
        )
    sample = sample_images(classifier, images)
    before = classifier.logits(classifier.dataset(sample)) if sample else None
    place = classifier.device
    write_timm_folder(merged_model(classifier.model).cpu(), folder, classifier.classes, classifier.record.preprocessing)
    if sample is None or before is None:
        return Merged(folder, None, 0.0, 0)
    plain = timm.create_model(f"local-dir:{folder.resolve()}", pretrained=True)  # opened as by any user of timm
    after = Classifier(plain.to(place), classifier.record).logits(classifier.dataset(sample))
    return Merged(folder, (after - before).abs().max().item(), before.abs().max().item(), len(sample))
