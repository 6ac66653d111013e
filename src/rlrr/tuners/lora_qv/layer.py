"""The layer of LoRA on queries and values: low-rank updates of some of the projections that one linear holds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rlrr.tuners.lora_qv.config import LoRAQVConfig
from rlrr.tuners.update import UpdateLayer


class LoRAQVLayer(UpdateLayer):
    """A projection whose queries and values each gain `scale * B dropout(A h)` (arXiv 2106.09685, Eq. 3).

    For each adapter, with D the input's width and r the rank: `lora_qv_q_down`, A of the queries, (r, D);
    `lora_qv_q_up`, their B, (queries' width, r); `lora_qv_v_down` and `lora_qv_v_up`, those of the values.
    """

    prefix = "lora_qv_"
    adapter_layer_names = ("lora_qv_q_down", "lora_qv_q_up", "lora_qv_v_down", "lora_qv_v_up")
    neutral = {"q_up": 0, "v_up": 0}  # noqa: RUF012

    def describe(self, base_layer: nn.Module, projections: tuple[str, ...] = (), **options: Any) -> None:
        """Set what the linear holds.

        Args:
            base_layer: The linear.
            projections: Names of the projections that its rows hold, in order, of equal size.
            **options: Unused.
        """
        super().describe(base_layer)
        self.projections = projections

    def start(self, config: LoRAQVConfig) -> Mapping[str, Tensor]:
        tensors = {}
        for name in self._updated:
            down = torch.empty(config.rank, self.in_features)
            up = torch.zeros(self.out_features // len(self.projections), config.rank)
            tensors[f"lora_qv_{name}_down"] = nn.init.kaiming_uniform_(down, a=5**0.5)
            tensors[f"lora_qv_{name}_up"] = up if config.init_weights else nn.init.kaiming_uniform_(up, a=5**0.5)
        return tensors

    def reweight(
        self, weight: Tensor | None, bias: Tensor | None, config: LoRAQVConfig, learned: Mapping[str, Tensor]
    ) -> tuple[Tensor, Tensor | None]:
        assert weight is not None, "a linear has a weight"
        changes = {name: learned[f"{name}_up"] @ learned[f"{name}_down"] for name in self._updated}
        zeros = weight.new_zeros(len(weight) // len(self.projections), weight.shape[1])
        return weight + config.scale * torch.cat([changes.get(name, zeros) for name in self.projections]), bias

    def update(self, x: Tensor, config: LoRAQVConfig, learned: Mapping[str, Tensor]) -> Tensor:
        updates = {}
        for name in self._updated:
            hidden = F.dropout(F.linear(x, learned[f"{name}_down"]), config.dropout, self.training)
            updates[name] = F.linear(hidden, learned[f"{name}_up"])
        zeros = torch.zeros_like(next(iter(updates.values())))
        return config.scale * torch.cat([updates.get(name, zeros) for name in self.projections], -1)

    @property
    def _updated(self) -> list[str]:
        return [name for name in self.projections if name in ("q", "v")]
