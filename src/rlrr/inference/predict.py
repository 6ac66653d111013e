"""Inference with a finished run: from images to classes."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypedDict

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm.auto import tqdm

from rlrr.adapters.folder import load_adapter
from rlrr.adapters.record import Record
from rlrr.data import PreparedImages, Split, load_data, prepare_split
from rlrr.data.cache import CachedImages
from rlrr.data.pipeline import Pixels, preparation
from rlrr.errors import RLRRError, UsageError
from rlrr.hints import checked
from rlrr.inference.devices import Precision, autocast, resolve_device, resolve_precision, use_threads
from rlrr.inference.images import given_images

logger = logging.getLogger(__name__)

SAMPLE = 32  # most images of the run itself on which two forms of a model are compared
_LISTED = 20  # images named in one message


@dataclass(frozen=True)
class Prediction:
    """The most likely classes of one image.

    Attributes:
        image: Path of the image, or its position among the given images.
        classes: Class names, the likeliest first.
        probabilities: Their probabilities (softmax).
        problem: Reason why the image cannot be read; then it has no classes.
    """

    image: str
    classes: tuple[str, ...] = ()
    probabilities: tuple[float, ...] = ()
    problem: str | None = None


class Readable(Dataset[Tensor | str]):
    """The pixels of images, and in the place of an image that cannot be read its name and the reason."""

    def __init__(self, pixels: Pixels, names: Sequence[str]) -> None:
        self._pixels, self._names = pixels, names

    def __len__(self) -> int:
        return len(self._pixels)

    def __getitem__(self, index: int) -> Tensor | str:
        try:
            return self._pixels[index]["pixel_values"]
        except RLRRError as error:
            return str(error)
        except MemoryError:  # resizing the shorter side of a strip makes the longer one huge
            return f"{self._names[index]}: too long and thin to be resized"


@dataclass(frozen=True, repr=False)
class Classifier:
    """A model with its classes and preprocessing; see `load`.

    Attributes:
        model: The backbone with its adapter (a PEFT model), or a plain model; images (N, 3, H, W) to logits.
        record: Content of its `rlrr.json`.
        precision: Arithmetic of the model: fp32, bf16 or fp16.
        batch_size: Images in a batch; None for a number by device and image size.
        workers: Processes that load images; 0 loads them in the main process.
    """

    model: torch.nn.Module
    record: Record
    precision: str = "fp32"
    batch_size: int | None = None
    workers: int = 0

    def __repr__(self) -> str:
        return f"Classifier({self.record.summary}, on {self.device})"

    @property
    def classes(self) -> list[str]:
        """Names of the classes, in the order of the logits."""
        return self.record.classes

    @property
    def device(self) -> torch.device:
        """Device of the model, to which images are moved."""
        return next(self.model.parameters()).device

    def dataset(self, split: Split, cache: CachedImages | None = None) -> PreparedImages:
        """Prepare the images of a split for this model."""
        config = self.record.preprocessing
        return PreparedImages(split, preparation(config), cache=cache, mean=config["mean"], std=config["std"])

    def batches(self, images: PreparedImages) -> Iterator[Tensor]:
        """Yield the normalised pixels of all images in batches, (batch, 3, H, W), on the model's device.

        Raises:
            RLRRError: an image cannot be read.
        """
        for batch in self._read(images):
            if bad := [image for image in batch if isinstance(image, str)]:
                raise cannot_read(bad, len(images))
            yield self._transformed(images, batch)

    def logits(self, images: PreparedImages) -> Tensor:
        """Compute the logits of all images, (N, classes), float32 on the CPU.

        Raises:
            RLRRError: an image cannot be read.
        """
        with _bar(len(images), "Evaluating") as bar:
            outputs = []
            for batch in self.batches(images):
                outputs.append(self._forward(batch))
                bar.update(len(batch))
        return torch.cat(outputs)

    @checked
    def predict(
        self, images: Any, top_k: int = 5, *, bad_images: Literal["error", "skip"] = "error"
    ) -> list[Prediction]:
        """Classify one image or many.

        Args:
            images: A path, a folder, a pattern such as "photos/*.jpg", a PIL image, a uint8 array (H, W), (H, W, 3) or
                (H, W, 4), the bytes of a file, an open file, or any number of these; an array (N, H, W, 3) is N images.
            top_k: Number of most likely classes to return for each image; all if there are fewer.
            bad_images: "skip" leaves out the images that cannot be read, and names them in a warning.

        Returns:
            A prediction for each image, also for a single one.

        Raises:
            RLRRError: images cannot be read, a folder holds none, or something else than images is given.
        """
        predictions = list(self.classify(images, top_k))
        bad = [f"{one.image}: {one.problem}" for one in predictions if one.problem]
        if bad and (bad_images == "error" or len(bad) == len(predictions)):
            raise cannot_read(bad, len(predictions))
        if bad:
            logger.warning("skipped %d of %d images that cannot be read:%s", len(bad), len(predictions), _lines(bad))
        return [one for one in predictions if not one.problem]

    def classify(self, images: Any, top_k: int = 5) -> Iterator[Prediction]:
        """Classify images as `predict` does, one by one as they are read; a bad one has a `problem` and no classes.

        Raises:
            RLRRError: a folder holds no images, or something else than images is given.
        """
        if top_k < 1:
            raise UsageError(f"`top_k` must be 1 or more, not {top_k}.")
        split = given_images(images)
        prepared, names = self.dataset(split), iter(split.names)
        with _bar(len(split), "Predicting") as bar:
            for batch in self._read(prepared):
                readable = [image for image in batch if isinstance(image, Tensor)]
                best = iter(self._best(self._transformed(prepared, readable), top_k) if readable else ())
                for image in batch:
                    name = next(names)
                    if isinstance(image, str):
                        yield Prediction(name, problem=image.removeprefix(f"{name}: "))
                    else:
                        yield Prediction(name, *next(best))
                bar.update(len(batch))

    def _best(self, batch: Tensor, top_k: int) -> list[tuple[tuple[str, ...], tuple[float, ...]]]:
        """Find the likeliest classes of each image of a batch, with their probabilities."""
        best = self._forward(batch).softmax(-1).topk(min(top_k, len(self.classes)))
        pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
        return [(tuple(self.classes[index] for index in indices), tuple(values)) for indices, values in pairs]

    def _read(self, images: PreparedImages) -> DataLoader[Any]:
        size = self.batch_size or evaluation_batch(self.device, self.record.preprocessing["input_size"])
        readable = Readable(images.pixels, images.split.names)
        return DataLoader(readable, size, num_workers=self.workers, collate_fn=list)

    def _transformed(self, images: PreparedImages, batch: Sequence[Tensor]) -> Tensor:
        return images.transform(torch.stack([*batch]).to(self.device))

    @torch.inference_mode()
    def _forward(self, batch: Tensor) -> Tensor:
        """Compute the logits of one batch, float32 on the CPU."""
        if self.model.training:  # not always: eval() discards the effective weights that adapted layers have cached
            self.model.eval()
        try:
            with autocast(self.device, self.precision):
                return self.model(batch).float().cpu()
        except torch.OutOfMemoryError:
            raise RLRRError(f"The GPU has too little memory for {len(batch)} images: lower `batch_size`.") from None


def cannot_read(bad: Sequence[str], total: int) -> RLRRError:
    """Name the images that cannot be read, each as "name: reason"."""
    if len(bad) == 1:
        return RLRRError(f"Cannot read {bad[0]}.")
    return RLRRError(f"{len(bad)} of {total} images cannot be read:{_lines(bad)}")


def _lines(bad: Sequence[str]) -> str:
    more = [f"and {len(bad) - _LISTED} more"] if len(bad) > _LISTED else []
    return "".join(f"\n  {line}" for line in [*bad[:_LISTED], *more])


def _bar(total: int, title: str) -> tqdm:
    return tqdm(total=total, desc=title, unit="image", disable=None, leave=False, delay=1)


def evaluation_batch(device: torch.device, input_size: Sequence[int]) -> int:
    """Choose a batch size for inference, which is smaller for images larger than 224 pixels square.

    Args:
        device: Device of the model. More than 64 images are not faster on a CPU.
        input_size: Shape of an image, (3, H, W).
    """
    most, pixels = 256 if device.type == "cuda" else 64, math.prod(input_size[-2:])
    return max(1, most * 224**2 // max(224**2, pixels))


class Loading(TypedDict, total=False):
    """The options of `load`, for functions that load a run."""

    weights: str | Path | None
    device: str | torch.device
    precision: Precision
    batch_size: int | None
    workers: int
    threads: int | None


@checked
def load(
    run: str | Path,
    *,
    weights: str | Path | None = None,
    device: str | torch.device = "auto",
    precision: Precision = "fp32",
    batch_size: int | None = None,
    workers: int = 0,
    threads: int | None = None,
) -> Classifier:
    """Load a finished run.

    Args:
        run: The folder that `train` wrote.
        weights: File or folder with the backbone's weights, if they have moved since training.
        device: Device of the model: auto (a GPU if there is one), cpu, cuda, a GPU by number such as cuda:1, or mps.
        precision: Arithmetic; auto is bf16 where the device has it in hardware, else fp32.
        batch_size: Images in a batch; None for a number by device and image size.
        workers: Processes that load images; 0 loads them in the main process.
        threads: Threads for computing on the CPU, in this whole process; None leaves their number as it is.

    Raises:
        RLRRError: the folder is incomplete or damaged, the backbone cannot be loaded or is another one, or there is no
            such device.

    Example:
        >>> classifier = rlrr.load("run")
        >>> classifier.predict("photo.jpg")[0].classes[0]
        'tulip'
    """
    for name, value, least in (("batch_size", batch_size, 1), ("workers", workers, 0)):
        if value is not None and value < least:
            raise UsageError(f"`{name}` must be {least} or more, not {value}.")
    place = resolve_device(device)
    arithmetic = resolve_precision(precision, place)
    use_threads(threads)
    model, record = load_adapter(Path(run), None if weights is None else str(weights))
    return Classifier(model.to(place), record, arithmetic, batch_size, workers)


def sample_images(classifier: Classifier, images: Sequence[str | Path] = ()) -> Split | None:
    """Take images on which two forms of a model can be compared.

    Args:
        classifier: The run.
        images: Paths of images; if none are given, the first validation images of the run's own data are taken.

    Returns:
        The images; None, with a warning, if none are given and the images of the run cannot be read.
    """
    if images:
        return Split([Path(image) for image in images], [0] * len(images), [str(image) for image in images])
    recipe, source = classifier.record.recipe, classifier.record.data.get("source")
    if source is None:
        logger.warning("No images to compare on (the run names no data): give some as `images`.")
        return None
    try:
        val = load_data(source, val_fraction=recipe["val_fraction"], seed=recipe["seed"]).val
        return prepare_split(val.subset(range(min(SAMPLE, len(val)))), None, bad_images="skip", what="val")[0]
    except (KeyError, RLRRError) as error:  # without images a model can be merged all the same
        logger.warning("No images to compare on (%s): give some as `images`.", error)
        return None
