"""Compiling a model for training, block by block where its blocks are alike."""

from __future__ import annotations

import torch
from torch import nn

from rlrr.backbones.families import block_names
from rlrr.errors import UsageError
from rlrr.methods.trainable import plain_model


def compile_model(model: nn.Module, device: torch.device) -> None:
    """Compile a model with torch in place, at the first call; the saved tensors keep their names.

    The blocks of a ViT are compiled one by one: alike, they share one graph, so that the time of compilation does not
    grow with their number. Blocks that differ, if only by their drop path, cannot share a graph: then the model is
    compiled as a whole.

    A smaller last batch is compiled once more, for any size. Random numbers, such as in drop path, are drawn
    differently than without compilation.

    Args:
        model: The model to train.
        device: Device on which it will be trained.

    Raises:
        RLRRError: nothing can be compiled on this machine.
    """
    _check_compiler(device)
    plain = plain_model(model)
    blocks = [plain.get_submodule(name) for name in block_names(plain)]
    alike = len({repr(block) for block in blocks}) == 1
    for module in blocks if alike else [model]:
        module.compile()


def _check_compiler(device: torch.device) -> None:
    """Compile a small module, so that a machine that cannot compile is noticed before an earlier run is deleted."""
    try:
        torch.compile(nn.Hardtanh())(torch.zeros(8, device=device))
    except RuntimeError as error:  # the subclass depends on the missing tool
        reason = str(error).split("\n", 1)[0]
        needed = "Triton and a C compiler" if device.type == "cuda" else "a C++ compiler, such as g++"
        raise UsageError(
            f"`compile` needs {needed}, and torch cannot compile here ({reason}): install it, or leave `compile` out.",
        ) from error
