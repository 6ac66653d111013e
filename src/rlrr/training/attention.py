"""Which form of attention a model is trained with."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def fastest_attention(model: nn.Module, precision: str) -> Iterator[None]:
    """Have timm's attention written out, inside the block, where that trains faster than PyTorch's fused one.

    That is in bf16 on a CPU, where the fused one's backward pass takes twice the time of the products
    (docs/performance.md). Elsewhere, and in transformers' models, nothing is changed.

    Args:
        model: Any model; what timm calls `fused_attn` in its modules is switched off.
        precision: What it is trained in.
    """
    slow = precision == "bf16" and not torch.cuda.is_available()
    fused = [module for module in model.modules() if slow and getattr(module, "fused_attn", False)]
    for module in fused:
        module.fused_attn = False  # type: ignore[assignment]
    try:
        yield
    finally:
        for module in fused:
            module.fused_attn = True  # type: ignore[assignment]
