"""Backbones with a name of rlrr, and timm's pretrained config of any backbone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from rlrr.backbones import packaged

MOCO_V3 = "vit_base_patch16_224.moco_v3"

# Entries of a pretrained config about the origin of its weights, and about their terms.
_ORIGIN = ("tag", "hf_hub_id", "hf_hub_filename", "url")
_TERMS = ("license", "description", "origin_url", "paper_name", "paper_ids", "notes")

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


def pretrained_config(name: str, config: Mapping[str, Any], *, own_terms: bool = False) -> dict[str, Any]:
    """Return the pretrained config of the weights that `name` stands for.

    Args:
        name: name of a backbone, as in a record.
        config: timm's pretrained config of the architecture, or of the tag in the name.
        own_terms: whether `config` was written for these weights, as in a local folder, so that its licence is valid
            for them.
    """
    if name == f"{config['architecture']}.{config.get('tag')}":
        return dict(config)
    unknown = _ORIGIN if own_terms else (*_ORIGIN, *_TERMS)  # the config may be of other weights: timm's default tag
    return {**config, **dict.fromkeys(unknown), **RELEASES.get(name, {})}
