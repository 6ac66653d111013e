"""Which form of attention a model is trained with."""

from __future__ import annotations

import torch
from torch import nn


def choose_attention(model: nn.Module, precision: str) -> None:
    """Have timm's attention written out where that is faster than PyTorch's fused one: in bf16 on a CPU.

    Forward and backward of ViT-B's at 224 pixels then take half the time (docs/performance.md), and it keeps the
    matrix of attention for the backward pass. Elsewhere, and in transformers' models, nothing is changed.

    Args:
        model: Any model; what timm calls `fused_attn` in its modules is switched off.
        precision: What it is trained in.
    """
    if precision != "bf16" or torch.cuda.is_available():
        return
    for module in model.modules():
        if hasattr(module, "fused_attn"):
            module.fused_attn = False  # type: ignore[assignment]
