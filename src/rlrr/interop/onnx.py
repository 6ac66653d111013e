"""Export of a run to one ONNX file with classes and preprocessing, compared with PyTorch before it is kept."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rlrr.adapters.folder import load_adapter, merged_model
from rlrr.backbones.weights import brief
from rlrr.errors import RLRRError, UsageError, require
from rlrr.files import expect_new_file, flush, scratch_folder, write_json
from rlrr.hints import checked
from rlrr.inference.predict import Classifier, sample_images
from rlrr.methods.capabilities import can_merge
from rlrr.methods.trainable import plain_model

BATCH_SIZES = (1, 3)
TOLERANCE = 1e-3  # share of the largest logit
NOISE = 6  # images of noise, where there are no real ones


@dataclass(frozen=True)
class Parity:
    """Differences between ONNX Runtime and PyTorch on the same images, on the CPU.

    Attributes:
        compared_on: Description of the images.
        images: Number of images.
        batch_sizes: Sizes of the batches; each image was run in a batch of each size.
        largest_logit: Largest absolute logit of the unmerged run in PyTorch.
        difference: Largest absolute difference of a logit.
        relative_difference: `difference` as a share of `largest_logit`.
        same_class: Number of images with the same most likely class.
        opset: Version of the ONNX operators in the file.
        merged: Whether the adapter is part of the weights in the file; if not, the adapted model was exported, because
            the method's update is no change of weights.
    """

    compared_on: str
    images: int
    batch_sizes: tuple[int, ...]
    largest_logit: float
    difference: float
    relative_difference: float
    same_class: int
    opset: int
    merged: bool


@checked
def export(
    run: str | Path,
    output: str | Path,
    *,
    images: Sequence[str | Path] = (),
    opset: int | None = None,
    weights: str | Path | None = None,
) -> Parity:
    """Write a run as ONNX, merged where possible, and the comparison with PyTorch as `OUTPUT.parity.json`.

    The input of the file is `images`, float32 (N, 3, H, W), resized and normalised as in its metadata `preprocessing`
    (timm's data config, as JSON). The output is `logits` (N, classes), in the order of its metadata `classes` (a JSON
    list). Above 2 GB, the weights are in a second file, `OUTPUT.data`.

    Args:
        run: The folder of a finished run.
        output: A file that does not exist yet.
        images: Images to compare on; by default the first validation images of the run's own data, or else noise.
        opset: Version of the ONNX operators; None for torch's own choice.
        weights: File or folder with the backbone's weights, if they have moved since training.

    Raises:
        RLRRError: a package is missing, `output` exists, the model cannot be exported, or its ONNX form differs.
            Nothing is written then.

    Example:
        >>> rlrr.export("run", "flowers.onnx").same_class
        32
    """
    path = Path(output)
    expect_new_file(path)
    require("export")
    classifier = Classifier(*load_adapter(Path(run), None if weights is None else str(weights)))
    pixels, compared_on = _images(classifier, images)
    with torch.inference_mode():
        expected = torch.cat([classifier.model(batch) for batch in pixels.split(32)])
    is_merged = can_merge(classifier.model)
    model = merged_model(classifier.model) if is_merged else plain_model(classifier.model)
    program = _program(model, pixels[:1], opset)
    record = classifier.record
    program.model.metadata_props.update(
        classes=json.dumps(record.classes, ensure_ascii=False), preprocessing=json.dumps(record.preprocessing)
    )
    with scratch_folder(path) as scratch:
        program.save(scratch / path.name)
        logits = _logits(scratch / path.name, pixels)
        parity = _compare(logits, expected, compared_on, program.model.opset_imports[""], is_merged)
        write_json(scratch / f"{path.name}.parity.json", asdict(parity))
        for file in sorted(scratch.iterdir(), reverse=True):  # the model last, after the files that belong to it
            flush(file)
            file.replace(path.parent / file.name)
    return parity


def _images(classifier: Classifier, given: Sequence[str | Path]) -> tuple[Tensor, str]:
    """Prepare the normalised images (N, 3, H, W) to compare on, with a description of them."""
    if sample := sample_images(classifier, given):
        pixels = torch.cat(list(classifier.batches(classifier.dataset(sample))))
        return pixels, "given images" if given else "validation images of the run"
    shape = classifier.record.preprocessing["input_size"]
    return torch.randn(NOISE, *shape, generator=torch.Generator().manual_seed(0)), "random noise, no images"


def _program(model: nn.Module, example: Tensor, opset: int | None) -> Any:
    batch = example.expand(2, *example.shape[1:])  # torch takes a batch size of 1 for a constant
    try:
        with _quiet_exporter():
            program: Any = torch.onnx.export(
                model.eval(),
                (batch,),
                input_names=["images"],
                output_names=["logits"],
                dynamic_shapes=({0: torch.export.Dim("batch")},),
                opset_version=opset,
                verbose=False,
            )
    except Exception as error:  # each stage of the exporter fails in its own way
        raise RLRRError(f"torch cannot export this {type(model).__name__} to ONNX: {brief(error)}.") from error
    written = program.model.opset_imports[""]
    if opset not in (None, written):
        raise UsageError(f"torch cannot write opset {opset}, only {written} here: leave out `opset`.")
    return program


def _logits(file: Path, pixels: Tensor) -> list[Tensor]:
    """Compute the logits of all images with ONNX Runtime, once for each batch size."""
    import onnxruntime

    try:
        session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    except Exception as error:  # the errors of ONNX Runtime have no other common base
        raise RLRRError(
            f"ONNX Runtime cannot open what torch exported: {brief(error)}. Try another `opset`."
        ) from error
    return [
        torch.cat([torch.from_numpy(session.run(None, {"images": batch.numpy()})[0]) for batch in pixels.split(size)])
        for size in BATCH_SIZES
    ]


def _compare(logits: Sequence[Tensor], expected: Tensor, compared_on: str, opset: int, merged: bool) -> Parity:
    largest = expected.abs().max().item()
    by_size = torch.stack(list(logits))
    difference = (by_size - expected).abs().max().item()
    same = (by_size.argmax(-1) == expected.argmax(-1)).all(0)
    if not difference <= TOLERANCE * largest:  # also if it is not a number
        raise RLRRError(
            f"The ONNX model differs from PyTorch by {difference:.1e} on {compared_on}, where the largest logit is "
            f"{largest:.1e}: nothing is written. Try another `opset`."
        )
    return Parity(
        compared_on=compared_on,
        images=len(expected),
        batch_sizes=BATCH_SIZES,
        largest_logit=largest,
        difference=difference,
        relative_difference=difference / largest if largest else 0.0,
        same_class=int(same.sum()),
        opset=opset,
        merged=merged,
    )


@contextmanager
def _quiet_exporter() -> Iterator[None]:
    """Suppress the exporter's log, which holds tracebacks. Failures are raised all the same."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
