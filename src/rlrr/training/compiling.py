"""Compiling a model for training, block by block where its blocks are alike."""

from __future__ import annotations

import torch
from torch import nn

from rlrr.backbones.families import block_names
from rlrr.errors import UsageError
from rlrr.methods.trainable import plain_model


def compile_model(model: nn.Module) -> None:
    """Have torch compile a model in place, at the first call; the saved tensors keep their names.

    The blocks of a ViT are compiled one by one: all alike, they share the graph of the first, so that start-up takes as
    long whatever their number. Where blocks differ, if only by their drop path, they could not share a graph: then the
    model is compiled as a whole.

    A smaller last batch is compiled once more, for any size. Random numbers, such as those of drop path, are drawn in
    another way than without compilation.

    Raises:
        RLRRError: nothing can be compiled on this machine.
    """
    _check_compiler()
    plain = plain_model(model)
    blocks = [plain.get_submodule(name) for name in block_names(plain)]
    alike = len({repr(block) for block in blocks}) == 1
    for module in blocks if alike else [model]:
        module.compile()


def _check_compiler() -> None:
    """Compile something small, so that a machine that cannot compile is found before an earlier run is deleted."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.compile(nn.Hardtanh())(torch.zeros(8, device=device))
    except RuntimeError as error:  # a subclass that depends on what is missing
        reason = str(error).split("\n", 1)[0]
        needed = "Triton and a C compiler" if device == "cuda" else "a C++ compiler, such as g++"
        raise UsageError(
            f"compile needs {needed}, and torch cannot compile here ({reason}): install that, or leave it out.",
        ) from error
