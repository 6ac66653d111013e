"""The abilities of a method, before there is a model of the user's: those of a small adapted ViT."""

from __future__ import annotations

import torch
from timm.models.vision_transformer import VisionTransformer

from rlrr.methods.apply import apply_method
from rlrr.methods.capabilities import can_combine, can_merge, can_mix, can_split


def abilities(method: str) -> dict[str, bool]:
    """Ask a small ViT under a method what it can do, by the names of `rlrr.methods.capabilities`.

    Raises:
        RLRRError: there is no such method.
    """
    model = apply_method(_small(), method)
    return {ask.__name__: ask(model) for ask in (can_merge, can_mix, can_combine, can_split)}


@torch.no_grad()
def starts_at_pretraining(method: str) -> bool:
    """Tell whether a small ViT gives the same logits before and after an untrained adapter of a method is added.

    Raises:
        RLRRError: there is no such method.
    """
    model, images = _small().eval(), torch.rand(2, 3, 32, 32)
    before = model(images)
    return torch.allclose(apply_method(model, method).eval()(images), before, atol=1e-5)


def _small() -> VisionTransformer:
    return VisionTransformer(img_size=32, patch_size=16, embed_dim=192, depth=2, num_heads=3, num_classes=2)
