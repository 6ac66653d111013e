"""Changes to a backbone's preprocessing, in timm's words, checked before a run starts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from rlrr.errors import UsageError, did_you_mean
from rlrr.hints import fits

_CHOICES = {
    "crop_mode": ("center", "squash", "border"),
    "interpolation": ("bicubic", "bilinear", "nearest", "box", "hamming", "lanczos"),
}
_KEYS = (*_CHOICES, "crop_pct", "mean", "std")
_TYPES = {
    "input_size": list[int],
    "mean": list[float],
    "std": list[float],
    "crop_pct": float,
    "crop_mode": str,
    "interpolation": Literal["bicubic", "bilinear", "nearest", "box", "hamming", "lanczos", "random"],
}


def override(data_config: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return preprocessing with some entries replaced.

    Args:
        data_config: preprocessing, as `timm.data.resolve_model_data_config` gives it.
        changes: any of `crop_mode` ("center" keeps the aspect ratio and crops, "squash" ignores it, "border" keeps it
            and pads), `crop_pct` (image size divided by the size before cropping, above 0 to 1), `interpolation`, and
            `mean` and `std` (per channel, on the scale 0 to 1).

    Raises:
        RLRRError: there is no such entry, or it cannot have this value.
    """
    channels = data_config["input_size"][0]
    changed = dict(data_config)
    for key, value in changes.items():
        if key not in _KEYS:
            raise UsageError(f"preprocessing has no {key!r}: give {', '.join(_KEYS)}.{did_you_mean(key, _KEYS)}")
        if wanted := _misfit(key, value, channels):
            raise UsageError(f"preprocessing.{key} is {value!r}: give {wanted}.")
        changed[key] = tuple(value) if key in ("mean", "std") else value
    return changed


def is_data_config(content: Mapping[str, Any]) -> bool:
    """Tell whether names with values, as read from a file, are a data config of timm that images can be prepared by."""
    if not all(name in content and fits(content[name], hint) for name, hint in _TYPES.items()):
        return False
    size, crop = content["input_size"], content["crop_pct"]
    channels = len(size) == 3 and len(content["mean"]) == len(content["std"]) == size[0]
    return channels and min(size) > 0 and 0 < crop < math.inf and content["crop_mode"] in _CHOICES["crop_mode"]


def _misfit(key: str, value: Any, channels: int) -> str:
    """Describe the valid values of an entry; "" if this value is valid."""
    if key in _CHOICES:
        return "" if value in _CHOICES[key] else f"one of {', '.join(_CHOICES[key])}"
    if key == "crop_pct":
        return "" if _is_share(value) and value > 0 else "a number above 0, up to 1"
    if not isinstance(value, Sequence) or len(value) != channels or not all(map(_is_share, value)):
        return f"{channels} numbers on the scale 0 to 1"
    if key == "std" and 0 in value:
        return f"{channels} numbers above 0, up to 1"
    return ""


def _is_share(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= 1
