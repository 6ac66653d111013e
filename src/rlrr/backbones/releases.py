"""The backbones whose names are ours: what timm's pretrained config would say of them, had it the name."""

from __future__ import annotations

from typing import Any

from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from rlrr.backbones import packaged

MOCO_V3 = "vit_base_patch16_224.moco_v3"

RELEASES: dict[str, dict[str, Any]] = {
    packaged.NAME: {"architecture": packaged.ARCHITECTURE, "license": "mit"},
    MOCO_V3: {
        "architecture": "vit_base_patch16_224",
        "url": "https://dl.fbaipublicfiles.com/moco-v3/vit-b-300ep/vit-b-300ep.pth.tar",
        "mean": IMAGENET_DEFAULT_MEAN,
        "std": IMAGENET_DEFAULT_STD,
        "interpolation": "bicubic",
        "crop_pct": 0.875,  # its linear evaluation resizes to 256 and crops 224
        "license": "cc-by-nc-4.0",
    },
}
