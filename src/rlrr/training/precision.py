"""The form of attention that trains fastest in a precision."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def fastest_attention(model: nn.Module, precision: str) -> Iterator[None]:
    """Switch timm's fused attention off, inside the block, where unfused attention trains faster.

    That is the case in bf16 on a CPU, where the backward pass of PyTorch's fused attention takes twice that of plain
    matrix products (docs/performance.md). Elsewhere, and in transformers' models, nothing is changed.

    Args:
        model: Any model. Its modules with timm's `fused_attn` are switched.
        precision: The precision of the training.
    """
    is_slow = precision == "bf16" and next(model.parameters()).device.type == "cpu"
    fused = [module for module in model.modules() if is_slow and getattr(module, "fused_attn", False)]
    for module in fused:
        module.fused_attn = False  # type: ignore[assignment]
    try:
        yield
    finally:
        for module in fused:
            module.fused_attn = True  # type: ignore[assignment]
