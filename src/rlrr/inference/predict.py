"""A finished run at work: from images to classes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from rlrr.adapters.folder import load_adapter
from rlrr.adapters.record import Record
from rlrr.data import PreparedImages, Split
from rlrr.data.cache import CachedImages
from rlrr.data.decode import Source
from rlrr.data.pipeline import preparation
from rlrr.errors import RLRRError


@dataclass(frozen=True)
class Prediction:
    """The most likely classes of one image.

    Attributes:
        image: Name of the image: its path, or its place in the call.
        classes: Class names, the likeliest first.
        probabilities: Their probabilities (softmax).
    """

    image: str
    classes: tuple[str, ...]
    probabilities: tuple[float, ...]


@dataclass(frozen=True)
class Classifier:
    """A model with what is needed to use it; `load` gives one.

    Attributes:
        model: The backbone with its adapter (a PEFT model), or a plain model; images (N, 3, H, W) to logits.
        record: What `rlrr.json` says of it.
    """

    model: torch.nn.Module
    record: Record

    @property
    def classes(self) -> list[str]:
        """Class names, in the order of the logits."""
        return self.record.classes

    @property
    def device(self) -> torch.device:
        """Where the model is; images are brought there."""
        return next(self.model.parameters()).device

    def dataset(self, split: Split, cache: CachedImages | None = None) -> PreparedImages:
        """The images of a split as this model takes them."""
        config = self.record.preprocessing
        return PreparedImages(split, preparation(config), cache=cache, mean=config["mean"], std=config["std"])

    @torch.inference_mode()
    def logits(self, images: PreparedImages) -> Tensor:
        """Logits of all images, (N, classes), float32 on the CPU.

        Raises:
            RLRRError: an image cannot be read.
        """
        if self.model.training:  # else the weights that are made already would be given up
            self.model.eval()
        batches = DataLoader(images.pixels, evaluation_batch(self.device, self.record.preprocessing["input_size"]))
        pixels = (images.transform(batch["pixel_values"].to(self.device)) for batch in batches)
        try:
            return torch.cat([self.model(batch).float().cpu() for batch in pixels])
        except RLRRError as error:
            raise RLRRError(f"Cannot read {error}. Give paths of image files, such as photos/*.jpg.") from error

    def predict(self, images: Sequence[Source | str], top_k: int = 5) -> list[Prediction]:
        """Classify images.

        Args:
            images: Paths, PIL images or uint8 arrays (H, W) or (H, W, 3).
            top_k: Number of classes to give for each; all if there are fewer.

        Raises:
            RLRRError: an image cannot be read.
        """
        sources = [Path(image) if isinstance(image, str) else image for image in images]
        if not sources:
            return []
        names = [str(source) if isinstance(source, Path) else str(i) for i, source in enumerate(sources)]
        split = Split(images=sources, labels=[0] * len(sources), names=names)  # the labels are not looked at
        best = self.logits(self.dataset(split)).softmax(-1).topk(min(top_k, len(self.classes)))
        return [
            Prediction(name, tuple(self.classes[index] for index in indices), tuple(values))
            for name, indices, values in zip(names, best.indices.tolist(), best.values.tolist(), strict=True)
        ]


def evaluation_batch(device: torch.device, input_size: Sequence[int]) -> int:
    """Images to take at a time where nothing is trained: fewer if they are larger than 224 pixels square.

    Args:
        device: Where the model is. More than 64 are not faster on a CPU.
        input_size: Shape of an image, (3, H, W).
    """
    most, pixels = 256 if device.type == "cuda" else 64, math.prod(input_size[-2:])
    return max(1, most * 224**2 // max(224**2, pixels))


def load(run: str | Path, *, weights: str | None = None) -> Classifier:
    """Load a finished run, on the GPU if there is one.

    Args:
        run: The folder that `train` wrote.
        weights: Where the backbone's weights are now, if not where they were in training.

    Raises:
        RLRRError: the folder is incomplete or damaged, or the backbone is not to be had or is another one.
    """
    model, record = load_adapter(Path(run), weights)
    return Classifier(model.to("cuda" if torch.cuda.is_available() else "cpu"), record)
