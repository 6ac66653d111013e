"""The type in which frozen weights are held while others are trained."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd

from rlrr.errors import UsageError


def hold_frozen_in_bf16(model: nn.Module, precision: str) -> None:
    """Round the frozen weights of linears and convolutions to bf16, in place.

    Biases, norms and tables of positions, which are small, and all that is trained stay in fp32.

    Args:
        model: A model as a method leaves it.
        precision: What it is trained in: only under autocast to bf16 do fp32 inputs meet bf16 weights.

    Raises:
        RLRRError: `precision` is another.
    """
    if precision != "bf16":
        raise UsageError(
            f"--frozen bf16 needs arithmetic in bf16, and --precision auto is {precision} on this machine: "
            "give --precision bf16, or leave out --frozen.",
        )
    for module in model.modules():
        if isinstance(module, (nn.Linear, _ConvNd)) and not module.weight.requires_grad:
            module.weight.data = module.weight.data.to(torch.bfloat16)
