"""Preprocessing that is not the backbone's own."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data import create_transform
from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Normalize, Resize, ToTensor

from rlrr.backbones.preprocessing import override
from rlrr.errors import RLRRError, UsageError

OWN = {
    "input_size": (3, 224, 224),
    "interpolation": "bicubic",
    "mean": (0.5, 0.5, 0.5),
    "std": (0.5, 0.5, 0.5),
    "crop_pct": 0.9,
    "crop_mode": "center",
}
BICUBIC = InterpolationMode.BICUBIC


@pytest.mark.parametrize("size", [(300, 200), (120, 500)])
@pytest.mark.parametrize(
    ("crop_pct", "resize"),
    [(1.0, [Resize((224, 224), BICUBIC)]), (0.875, [Resize((256, 256), BICUBIC), CenterCrop(224)])],
    ids=["VTAB", "FGVC"],
)
def test_squash_is_the_resize_of_the_benchmarks(crop_pct: float, resize: list, size: tuple[int, int]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    expected = Compose([*resize, ToTensor(), Normalize(OWN["mean"], OWN["std"])])(Image.fromarray(pixels))
    changed = override(OWN, {"crop_mode": "squash", "crop_pct": crop_pct})
    prepared = create_transform(**changed, is_training=False)(Image.fromarray(pixels))
    assert torch.equal(prepared, expected)
    assert not torch.equal(create_transform(**OWN, is_training=False)(Image.fromarray(pixels)), expected)


def test_what_is_not_named_stays_and_lists_become_tuples() -> None:
    changed = override(OWN, {"mean": [0, 0.5, 1], "interpolation": "bilinear"})
    assert changed == {**OWN, "mean": (0, 0.5, 1), "interpolation": "bilinear"}
    assert OWN["interpolation"] == "bicubic"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"crop_percent": 1.0}, "no 'crop_percent'.*Did you mean crop_pct"),
        ({"input_size": (3, 32, 32)}, "no 'input_size'"),
        ({"crop_mode": "stretch"}, "crop_mode is 'stretch': give one of center, squash, border"),
        ({"interpolation": "cubic"}, "interpolation is 'cubic': give one of bicubic"),
        ({"crop_pct": 0}, "crop_pct is 0: give a number above 0"),
        ({"crop_pct": 87.5}, "crop_pct is 87.5"),
        ({"crop_pct": "1.0"}, "crop_pct is '1.0'"),
        ({"crop_pct": True}, "crop_pct is True"),
        ({"mean": (0.5, 0.5)}, r"mean is \(0.5, 0.5\): give 3 numbers"),
        ({"mean": (123.7, 116.3, 103.5)}, "on the scale 0 to 1"),
        ({"mean": 0.5}, "mean is 0.5: give 3 numbers"),
        ({"std": (0.5, 0.0, 0.5)}, "give 3 numbers above 0"),
        ({"std": "abc"}, "std is 'abc'"),
        ({"crop_mode": ["squash"]}, "crop_mode is"),
    ],
)
def test_a_value_that_cannot_be_is_refused(changes: dict, words: str) -> None:
    with pytest.raises(RLRRError, match=words) as caught:
        override(OWN, changes)
    assert isinstance(caught.value, UsageError)
