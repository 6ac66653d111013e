"""Which parameters decay."""

from __future__ import annotations

from typing import Any

from torch import nn


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """The paper's weight-decay groups, for AdamW.

    In the paper's code nothing decays whose official name holds `bias` or `norm`: the shifts and the classifier's
    bias, and the scales and shifts after norms. What decays are the scales of linears, the scale and shift of the
    patch embedding, and the classifier's weight. Other methods follow the same rule with timm's names: no decay
    for one-dimensional parameters.
    """
    trained = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    decays = [parameter for name, parameter in trained if _decays(name, parameter)]
    rest = [parameter for name, parameter in trained if not _decays(name, parameter)]
    return [{"params": decays, "weight_decay": weight_decay}, {"params": rest, "weight_decay": 0.0}]


def _decays(name: str, parameter: nn.Parameter) -> bool:
    return parameter.ndim > 1 or ("patch_embed" in name and ".rlrr_" in name)
