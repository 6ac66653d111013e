"""Preparation of images: from decoded ones to resized, cropped, augmented and normalised batches."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from timm.data import create_transform
from torch.utils.data import Dataset
from torchvision.transforms import v2

from rlrr.data.cache import CachedImages
from rlrr.data.dataset import Split
from rlrr.data.decode import decode


@dataclass(frozen=True)
class Preparation:
    """A fixed transform of an image into a uint8 tensor (3, H, W); `preparation` makes one.

    Attributes:
        description: says all that it does, so that two with the same do the same.
    """

    transform: Callable[[Image.Image], torch.Tensor]
    description: str

    def __call__(self, image: Image.Image) -> torch.Tensor:
        """Prepare one image."""
        return self.transform(image)


class BatchTransform:
    """A transform of uint8 images (N, 3, H, W) into a backbone's input, on their device.

    Args:
        mean: per channel, on the scale 0 to 1.
        std: per channel, on the scale 0 to 1.
        augment: each from uint8 images (N, 3, H, W) to as many, each of them changed in its own way.
    """

    def __init__(
        self,
        mean: Sequence[float],
        std: Sequence[float],
        augment: Sequence[Callable[[torch.Tensor], torch.Tensor]] = (),
    ) -> None:
        # 255 is a tensor too: by a number, a GPU does not divide but multiplies, which is not the same to the bit
        self._constants = torch.tensor([[255.0] * len(mean), mean, std]).view(3, -1, 1, 1)
        self._augment = tuple(augment)

    def __call__(self, images: torch.Tensor, augment: bool = False) -> torch.Tensor:
        """Return the images normalised, float32 (N, 3, H, W), and first augmented if so asked."""
        for step in self._augment if augment else ():
            images = step(images)
        self._constants = self._constants.to(images.device)
        full, mean, std = self._constants
        return images.float().div_(full).sub_(mean).div_(std)


class Pixels(Dataset[dict[str, Any]]):
    """A split as a loader takes it: items with `pixel_values`, `labels` and `indices`.

    `pixel_values` are uint8 (3, H, W) and not to be written into; `indices` are positions in the split.
    """

    def __init__(
        self, split: Split, prepare: Callable[[Image.Image], torch.Tensor], cache: CachedImages | None = None
    ) -> None:
        self._split, self._prepare, self.cache = split, prepare, cache

    def __len__(self) -> int:
        return len(self._split)

    def __getitem__(self, index: int) -> dict[str, Any]:
        if self.cache is not None:
            pixels = self.cache[index]
        else:
            pixels = self._prepare(decode(self._split.images[index], self._split.names[index]))
        return {"pixel_values": pixels, "labels": self._split.labels[index], "indices": index}


class PreparedImages(Dataset[dict[str, Any]]):
    """A split as a model takes it: items with `pixel_values`, `labels` and `indices`.

    `pixel_values` are float32 (3, H, W), augmented and normalised.

    Many at a time are had faster from its two parts: batches of `pixels`, and `transform` where the model is.

    Args:
        prepare: from an image to a uint8 tensor (3, H, W).
        cache: uint8 (N, 3, H, W), the split's images prepared before.
        augment: as in `BatchTransform`.
        mean: per channel, on the scale 0 to 1.
        std: per channel, on the scale 0 to 1.
    """

    def __init__(
        self,
        split: Split,
        prepare: Callable[[Image.Image], torch.Tensor],
        *,
        cache: CachedImages | None = None,
        augment: Sequence[Callable[[torch.Tensor], torch.Tensor]] = (),
        mean: Sequence[float],
        std: Sequence[float],
    ) -> None:
        self.split = split
        self.pixels = Pixels(split, prepare, cache)
        self.transform = BatchTransform(mean, std, augment)

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, index: int) -> dict[str, Any]:
        sample = self.pixels[index]
        images = sample["pixel_values"].clone()[None]  # an augmentation may write into what it is given
        return sample | {"pixel_values": self.transform(images, augment=True)[0]}


def flip(images: torch.Tensor) -> torch.Tensor:
    """Mirror each image (N, C, H, W) left to right with a chance of one half."""
    chosen = torch.rand(len(images), 1, 1, 1, device=images.device) < 0.5
    return torch.where(chosen, images.flip(-1), images)


@dataclass(frozen=True)
class RandomCrop:
    """A cut to `height` and `width`, of each image at its own random place."""

    height: int
    width: int

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """Cut images (N, C, H, W) to (N, C, `height`, `width`)."""
        crops = images.unfold(2, self.height, 1).unfold(3, self.width, 1)  # a view: (N, C, top, left, height, width)
        count, _, tops, lefts = crops.shape[:4]
        top, left = (torch.randint(places, (count,), device=images.device) for places in (tops, lefts))
        return crops[torch.arange(count, device=images.device), :, top, left]


def preparation(data_config: Mapping[str, Any]) -> Preparation:
    """Return the backbone's own evaluation transform up to its uint8 tensor (3, H, W).

    Args:
        data_config: as `timm.data.resolve_model_data_config` gives it.
    """
    arguments = {**data_config, "is_training": False, "normalize": False}
    return Preparation(create_transform(**arguments), json.dumps(arguments, sort_keys=True))


def uncropped(data_config: Mapping[str, Any]) -> Preparation:
    """Return what `preparation` does before its last crop: uint8 (3, H / `crop_pct`, W / `crop_pct`)."""
    sides = (math.floor(side / data_config["crop_pct"]) for side in data_config["input_size"][-2:])  # as timm rounds
    return preparation({**data_config, "input_size": (3, *sides), "crop_pct": 1.0})


def random_resize(data_config: Mapping[str, Any], scale: Sequence[float]) -> Callable[[Image.Image], torch.Tensor]:
    """Return torchvision's RandomResizedCrop, as uint8 (3, H, W); not to be cached.

    Args:
        scale: least and greatest share of the image's area in the crop.
    """
    interpolation = v2.InterpolationMode(data_config["interpolation"])
    size = data_config["input_size"][-2:]
    return v2.Compose([v2.RandomResizedCrop(size, tuple(scale), interpolation=interpolation), v2.PILToTensor()])
