"""From a finished run to a plain model that needs no `rlrr`."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import timm

from rlrr.adapters.folder import merged_model
from rlrr.data import Split, load_data, prepare_split
from rlrr.errors import RLRRError
from rlrr.files import expect_new_folder
from rlrr.inference.predict import Classifier, load
from rlrr.interop.timm_folder import write_timm_folder

logger = logging.getLogger(__name__)

SAMPLE = 32


@dataclass(frozen=True)
class Merged:
    """What merging gave.

    Attributes:
        folder: The model, in timm's format.
        difference: Largest absolute difference of a logit to the unmerged model; None if no image was at hand.
        largest: Largest absolute logit, to compare it with.
        images: Number of images compared on.
    """

    folder: Path
    difference: float | None
    largest: float
    images: int


def merge(
    run: str | Path, output: str | Path, *, images: Sequence[str | Path] = (), weights: str | None = None
) -> Merged:
    """Merge a run into its backbone and write the plain model as a folder in timm's format.

    Args:
        run: The folder that `train` wrote.
        output: A folder that does not exist yet.
        images: Images to compare the logits on; by default the first validation images of the run's own data.
        weights: Where the backbone's weights are now, if not where they were in training.

    Raises:
        RLRRError: `output` exists, or the run or an image cannot be read.
    """
    folder = Path(output)
    expect_new_folder(folder)
    classifier = load(run, weights=weights)
    sample = sample_images(classifier, images)
    before = classifier.logits(classifier.dataset(sample)) if sample else None
    device = classifier.device
    write_timm_folder(merged_model(classifier.model).cpu(), folder, classifier.classes, classifier.record.preprocessing)
    if sample is None or before is None:
        return Merged(folder, None, 0.0, 0)
    plain = timm.create_model(f"local-dir:{folder.resolve()}", pretrained=True)  # as anyone would open it
    after = Classifier(plain.to(device), classifier.record).logits(classifier.dataset(sample))
    return Merged(folder, (after - before).abs().max().item(), before.abs().max().item(), len(sample))


def sample_images(classifier: Classifier, images: Sequence[str | Path] = ()) -> Split | None:
    """These images, or the first validation images of the run's own data, or None where they are not at hand."""
    if images:
        return Split([Path(image) for image in images], [0] * len(images), [str(image) for image in images])
    recipe = classifier.record.recipe
    if classifier.record.data.get("source") is None:
        logger.warning("No images to compare on (the run names no data): give some with --images.")
        return None
    try:
        val = load_data(classifier.record.data["source"], val_fraction=recipe["val_fraction"], seed=recipe["seed"]).val
        return prepare_split(val.subset(range(min(SAMPLE, len(val)))), None, bad_images="skip", what="val")[0]
    except (KeyError, RLRRError) as error:  # the images are not where they were, which is no reason not to merge
        logger.warning("No images to compare on (%s): give some with --images.", error)
        return None
