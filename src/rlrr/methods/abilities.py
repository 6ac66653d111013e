"""The abilities of a method, before there is a model of the user's: those of a small adapted ViT."""

from __future__ import annotations

from timm.models.vision_transformer import VisionTransformer

from rlrr.methods.apply import apply_method
from rlrr.methods.capabilities import can_combine, can_merge, can_mix, can_split


def abilities(method: str) -> dict[str, bool]:
    """Ask a small ViT under a method what it can do, by the names of `rlrr.methods.capabilities`.

    Raises:
        RLRRError: there is no such method.
    """
    small = VisionTransformer(img_size=32, patch_size=16, embed_dim=48, depth=1, num_heads=3, num_classes=2)
    model = apply_method(small, method)
    return {ask.__name__: ask(model) for ask in (can_merge, can_mix, can_combine, can_split)}
