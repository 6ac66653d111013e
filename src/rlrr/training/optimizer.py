"""The weight-decay groups of a model."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Any

from torch import nn


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Split the trained parameters of a model into two groups for AdamW: with weight decay, and without.

    Matrices decay and one-dimensional parameters (biases, norms, shifts) do not, as in timm. A module may name
    exceptions in an attribute `decays`: patterns of the full names of one-dimensional parameters that decay too.
    """
    exceptions = {pattern for module in model.modules() for pattern in getattr(module, "decays", ())}
    decaying: list[nn.Parameter] = []
    constant: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            decays = parameter.ndim > 1 or any(fnmatchcase(name, pattern) for pattern in exceptions)
            (decaying if decays else constant).append(parameter)
    return [{"params": decaying, "weight_decay": weight_decay}, {"params": constant, "weight_decay": 0.0}]
