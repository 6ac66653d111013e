"""From decoded images to what a backbone takes: resized and cropped its way, augmented, normalised."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from PIL import Image
from timm.data import create_transform
from torch.utils.data import Dataset
from torchvision.transforms import v2

from rlrr.data.dataset import Split
from rlrr.data.decode import decode


class PreparedImages(Dataset[dict[str, Any]]):
    """A split as `Trainer` takes it: `pixel_values`, float32 (3, H, W), normalised, and `labels`.

    Args:
        prepare: from an image to a uint8 tensor (3, H, W).
        cache: uint8 (N, 3, H, W), the split's images prepared before.
        augment: from a uint8 tensor (3, H, W) to another; it may write into the one it is given.
        mean: per channel, on the scale 0 to 1.
        std: per channel, on the scale 0 to 1.
    """

    def __init__(
        self,
        split: Split,
        prepare: Callable[[Image.Image], torch.Tensor],
        *,
        cache: torch.Tensor | None = None,
        augment: Callable[[torch.Tensor], torch.Tensor] | None = None,
        mean: Sequence[float],
        std: Sequence[float],
    ) -> None:
        self.split = split
        self._prepare, self._cache, self._augment = prepare, cache, augment
        self._mean, self._std = torch.tensor(mean).view(-1, 1, 1), torch.tensor(std).view(-1, 1, 1)

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, index: int) -> dict[str, Any]:
        if self._cache is not None:
            pixels = self._cache[index]
        else:
            pixels = self._prepare(decode(self.split.images[index], self.split.names[index]))
        if self._augment is not None:
            pixels = self._augment(pixels.clone())
        values = pixels.float().div_(255).sub_(self._mean).div_(self._std)
        return {"pixel_values": values, "labels": self.split.labels[index]}


def preparation(data_config: Mapping[str, Any]) -> Callable[[Image.Image], torch.Tensor]:
    """Return the backbone's own evaluation transform up to its uint8 tensor (3, H, W).

    Args:
        data_config: as `timm.data.resolve_model_data_config` gives it.
    """
    return create_transform(**data_config, is_training=False, normalize=False)


def uncropped(data_config: Mapping[str, Any]) -> Callable[[Image.Image], torch.Tensor]:
    """Return what `preparation` does before its last crop: uint8 (3, H / `crop_pct`, W / `crop_pct`)."""
    sides = (math.floor(side / data_config["crop_pct"]) for side in data_config["input_size"][-2:])  # as timm rounds
    return preparation({**data_config, "input_size": (3, *sides), "crop_pct": 1.0})


def random_resize(data_config: Mapping[str, Any], scale: tuple[float, float]) -> Callable[[Image.Image], torch.Tensor]:
    """Return a crop of random size and shape, resized, as uint8 (3, H, W); not to be cached.

    Args:
        scale: least and greatest share of the image's area in the crop.
    """
    interpolation = v2.InterpolationMode(data_config["interpolation"])
    size = data_config["input_size"][-2:]
    return v2.Compose([v2.RandomResizedCrop(size, scale, interpolation=interpolation), v2.PILToTensor()])
