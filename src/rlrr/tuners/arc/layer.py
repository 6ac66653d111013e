"""ARC's layers: a bottleneck on the input of a linear, with a projection that all such layers share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rlrr.tuners.arc.config import ARCConfig
from rlrr.tuners.update import InputLayer


class ARCLayer(InputLayer):
    """A linear whose input h becomes `h + U dropout(d * (U^T h)) + b` (arXiv 2310.06234).

    For each adapter, with D the input's width and r the bottleneck: `arc_rescale`, d, (r); `arc_shift`, b, (D). The
    tuner holds U, (D, r), for all layers of a side.
    """

    prefix = "arc_"
    neutral = {"rescale": 0, "shift": 0}  # noqa: RUF012
    side: ClassVar[str]
    """Name of the shared container without prefix."""
    starts_at_zero: ClassVar[bool]
    """Whether the authors start d at zero on this side."""

    def start(self, config: ARCConfig) -> Mapping[str, Tensor]:
        zero = self.starts_at_zero if config.init_weights == "paper" else config.init_weights
        rescale = torch.zeros(1, config.bottleneck)
        rescale = rescale if zero else nn.init.xavier_uniform_(rescale)
        return {"arc_rescale": rescale[0].clone(), "arc_shift": torch.zeros(self.in_features)}

    def adapt(self, x: Tensor, config: ARCConfig, learned: Mapping[str, Tensor]) -> Tensor:
        shared = learned[self.side]
        hidden = F.dropout((x @ shared) * learned["rescale"], config.dropout, self.training)
        return F.linear(hidden, shared, learned["shift"])

    def matrix(self, config: ARCConfig, learned: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        shared = learned[self.side]
        return (shared * learned["rescale"]) @ shared.T, learned["shift"]


class AttentionLayer(ARCLayer):
    """A linear before attention, or outside blocks that are known."""

    adapter_layer_names = ("arc_rescale", "arc_shift", "arc_attn")
    side = "attn"
    starts_at_zero = True


class MLPLayer(ARCLayer):
    """The first linear of an MLP."""

    adapter_layer_names = ("arc_rescale", "arc_shift", "arc_mlp")
    side = "mlp"
    starts_at_zero = False
