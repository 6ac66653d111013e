"""Inference with a finished run: from images to classes."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from rlrr.adapters.folder import load_adapter
from rlrr.adapters.record import Record
from rlrr.data import PreparedImages, Split, load_data, prepare_split
from rlrr.data.cache import CachedImages
from rlrr.data.decode import Source
from rlrr.data.pipeline import preparation
from rlrr.errors import RLRRError

logger = logging.getLogger(__name__)

SAMPLE = 32  # most images of the run itself on which two forms of a model are compared


@dataclass(frozen=True)
class Prediction:
    """The most likely classes of one image.

    Attributes:
        image: Path of the image, or its position among the given images.
        classes: Class names, the likeliest first.
        probabilities: Their probabilities (softmax).
    """

    image: str
    classes: tuple[str, ...]
    probabilities: tuple[float, ...]


@dataclass(frozen=True)
class Classifier:
    """A model with its classes and preprocessing; see `load`.

    Attributes:
        model: The backbone with its adapter (a PEFT model), or a plain model; images (N, 3, H, W) to logits.
        record: Content of its `rlrr.json`.
    """

    model: torch.nn.Module
    record: Record

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
        size = evaluation_batch(self.device, self.record.preprocessing["input_size"])
        try:
            for batch in DataLoader(images.pixels, size):
                yield images.transform(batch["pixel_values"].to(self.device))
        except RLRRError as error:
            raise RLRRError(f"Cannot read {error}. Give paths of image files, such as photos/*.jpg.") from error

    @torch.inference_mode()
    def logits(self, images: PreparedImages) -> Tensor:
        """Compute the logits of all images, (N, classes), float32 on the CPU.

        Raises:
            RLRRError: an image cannot be read.
        """
        if self.model.training:  # not always: eval() discards the effective weights that adapted layers have cached
            self.model.eval()
        return torch.cat([self.model(batch).float().cpu() for batch in self.batches(images)])

    def predict(self, images: Sequence[Source | str], top_k: int = 5) -> list[Prediction]:
        """Classify images.

        Args:
            images: Paths, PIL images or uint8 arrays (H, W) or (H, W, 3).
            top_k: Number of most likely classes to return for each image; all if there are fewer.

        Raises:
            RLRRError: an image cannot be read.
        """
        sources = [Path(image) if isinstance(image, str) else image for image in images]
        if not sources:
            return []
        names = [str(source) if isinstance(source, Path) else str(i) for i, source in enumerate(sources)]
        split = Split(images=sources, labels=[0] * len(sources), names=names)  # labels are not used
        best = self.logits(self.dataset(split)).softmax(-1).topk(min(top_k, len(self.classes)))
        return [
            Prediction(name, tuple(self.classes[index] for index in indices), tuple(values))
            for name, indices, values in zip(names, best.indices.tolist(), best.values.tolist(), strict=True)
        ]


def evaluation_batch(device: torch.device, input_size: Sequence[int]) -> int:
    """Choose a batch size for inference, which is smaller for images larger than 224 pixels square.

    Args:
        device: Device of the model. More than 64 images are not faster on a CPU.
        input_size: Shape of an image, (3, H, W).
    """
    most, pixels = 256 if device.type == "cuda" else 64, math.prod(input_size[-2:])
    return max(1, most * 224**2 // max(224**2, pixels))


def load(run: str | Path, *, weights: str | None = None) -> Classifier:
    """Load a finished run, on the GPU if there is one.

    Args:
        run: The folder that `train` wrote.
        weights: File or folder with the backbone's weights, if they have moved since training.

    Raises:
        RLRRError: the folder is incomplete or damaged, or the backbone cannot be loaded or is another one.

    Example:
        >>> classifier = rlrr.load("run")
        >>> classifier.predict(["photo.jpg"])[0].classes[0]
        'tulip'
    """
    model, record = load_adapter(Path(run), weights)
    return Classifier(model.to("cuda" if torch.cuda.is_available() else "cpu"), record)


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
