"""Compiling a model for training, block by block where its blocks are alike."""

from __future__ import annotations

import torch
from torch import nn

from rlrr.errors import UsageError
from rlrr.methods.trainable import plain_model


def compile_model(model: nn.Module) -> None:
    """Have torch compile a model, in place, when it is called; what it is saved as does not change.

    The blocks of a ViT are compiled one by one: alike as they are, they share what is made for the first, and to start
    takes as long whatever their number. Where blocks differ, be it by their drop path, they could not share: then the
    model is compiled as a whole.

    A last batch that is smaller is compiled once more, for any size. What a model draws at random, such as drop path,
    is drawn in another way than without.

    Raises:
        RLRRError: nothing can be compiled on this machine.
    """
    _check_compiler()
    plain = plain_model(model)
    blocks = getattr(plain, "blocks", None)
    parts = list(blocks) if isinstance(blocks, (nn.Sequential, nn.ModuleList)) else []
    alike = len({repr(part) for part in parts}) == 1
    for part in parts if alike else [model]:
        part.compile()


def _check_compiler() -> None:
    """Compile something small: on a machine that cannot, that is found here, before an earlier run is deleted."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.compile(nn.Hardtanh())(torch.zeros(8, device=device))
    except RuntimeError as error:  # of which kind depends on what is missing
        reason = str(error).split("\n", 1)[0]
        needed = "Triton and a C compiler" if device == "cuda" else "a C++ compiler, such as g++"
        raise UsageError(
            f"--compile needs {needed}, and torch cannot compile here ({reason}): install that, or leave it out.",
        ) from error
