"""FacT's layer: an update of a linear by factors that all layers share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rlrr.tuners.fact.config import FacTConfig
from rlrr.tuners.update import UpdateLayer

FIRST_SLOTS = {"q": 0, "k": 1, "v": 2, "proj": 3, "fc1": 4, "fc2": 8}
"""First of the 12 slots of a block that each linear takes; those of the MLP take four."""
SLOTS = 12
RATIO = 4
"""Width of the MLP's hidden layer, in widths of the block."""


class FacTLayer(UpdateLayer):
    """A linear that gains `scale * V dropout(M U h)` (arXiv 2212.03145).

    fc1's output is four groups of features, each made by V from a quarter of M U h, and fc2's input four groups, each
    of which U reads. For each adapter, with r the rank: with "tt" `fact_q`, `fact_k`, `fact_v`, `fact_proj`, (r, r),
    `fact_fc1`, (4 r, r), or `fact_fc2`, (r, 4 r): the M of what the linear holds. The tuner holds for all layers
    `fact_down`, U, (r, D), `fact_up`, V, (D, r), and with "tk" `fact_core`, (r, r, r), and `fact_mix`, (r, 12 blocks).
    """

    prefix = "fact_"
    adapter_layer_names = (
        *(f"fact_{name}" for name in FIRST_SLOTS),
        "fact_down",
        "fact_up",
        "fact_core",
        "fact_mix",
    )
    neutral = {"up": 0}  # noqa: RUF012

    def describe(self, base_layer: nn.Module, held: tuple[str, ...] = (), block: int = 0, **options: Any) -> None:
        """Set what the linear holds, and its block.

        Args:
            base_layer: The linear.
            held: Names of what its rows hold, of `FIRST_SLOTS`.
            block: Index of its block.
            **options: Unused.
        """
        super().describe(base_layer)
        self.held, self.block = held, block
        self.outputs, self.inputs = (RATIO if name in held else 1 for name in ("fc1", "fc2"))

    def start(self, config: FacTConfig) -> Mapping[str, Tensor]:
        if config.decomposition == "tk":
            return {}
        shape = self.outputs * config.rank, self.inputs * config.rank
        return {f"fact_{name}": nn.init.kaiming_uniform_(torch.empty(shape), a=5**0.5) for name in self.held}

    def reweight(
        self, weight: Tensor | None, bias: Tensor | None, config: FacTConfig, learned: Mapping[str, Tensor]
    ) -> tuple[Tensor, Tensor | None]:
        assert weight is not None, "a linear has a weight"
        down, up = learned["down"], learned["up"]
        changes = []
        for name in self.held:
            groups = self._core(name, learned).view(self.outputs, config.rank, self.inputs, config.rank)
            change = torch.einsum("or,grhs,si->gohi", up, groups, down)
            changes.append(change.reshape(-1, self.in_features))
        return weight + config.scale * torch.cat(changes), bias

    def update(self, x: Tensor, config: FacTConfig, learned: Mapping[str, Tensor]) -> Tensor:
        lowered = F.linear(x.unflatten(-1, (self.inputs, -1)), learned["down"]).flatten(-2)
        updates = []
        for name in self.held:  # each with a draw of its own
            hidden = F.dropout(F.linear(lowered, self._core(name, learned)), config.dropout, self.training)
            updates.append(F.linear(hidden.unflatten(-1, (self.outputs, -1)), learned["up"]).flatten(-2))
        return config.scale * torch.cat(updates, -1)

    def _core(self, name: str, learned: Mapping[str, Tensor]) -> Tensor:
        """Give M, (outputs * r, inputs * r)."""
        if name in learned:
            return learned[name]
        first, count = SLOTS * self.block + FIRST_SLOTS[name], self.outputs * self.inputs
        # (r, r, count), of which the last two axes are read as one: the slots interleave, as in the authors' code
        mixed = (learned["core"] @ learned["mix"][:, first : first + count]).flatten(1)
        return mixed if name == "fc2" else mixed.T
