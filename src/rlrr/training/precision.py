"""The precision of a training, and the form of attention that trains fastest in this precision."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from rlrr.errors import UsageError


def resolve_precision(precision: str) -> str:
    """Replace "auto" by the fastest precision of this machine, and keep any other.

    "auto" is bf16 only where the hardware multiplies in bf16, since emulation is slower than fp32.

    Raises:
        UsageError: `precision` is "fp16" and there is no GPU.
    """
    on_gpu = torch.cuda.is_available()
    if precision == "fp16" and not on_gpu:
        raise UsageError("`precision` fp16 needs a GPU: use bf16 or fp32 on a CPU.")
    if precision != "auto":
        return precision
    if on_gpu:
        has_bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        has_bf16 = any(torch.cpu.get_capabilities().get(unit, False) for unit in ("amx_bf16", "avx512_bf16"))
    return "bf16" if has_bf16 else "fp32"


@contextmanager
def fastest_attention(model: nn.Module, precision: str) -> Iterator[None]:
    """Switch timm's fused attention off, inside the block, where unfused attention trains faster.

    That is the case in bf16 on a CPU, where the backward pass of PyTorch's fused attention takes twice that of plain
    matrix products (docs/performance.md). Elsewhere, and in transformers' models, nothing is changed.

    Args:
        model: Any model. Its modules with timm's `fused_attn` are switched.
        precision: The precision of the training.
    """
    is_slow = precision == "bf16" and not torch.cuda.is_available()
    fused = [module for module in model.modules() if is_slow and getattr(module, "fused_attn", False)]
    for module in fused:
        module.fused_attn = False  # type: ignore[assignment]
    try:
        yield
    finally:
        for module in fused:
            module.fused_attn = True  # type: ignore[assignment]
