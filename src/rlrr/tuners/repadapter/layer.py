"""RepAdapter's layer: a linear bottleneck on the input of a linear."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rlrr.tuners.repadapter.config import RepAdapterConfig
from rlrr.tuners.update import InputLayer


class RepAdapterLayer(InputLayer):
    """A linear whose input h becomes `h + scale * (B dropout(A h + a) + b)` (arXiv 2302.08106).

    For each adapter, with D the input's width, r the bottleneck and g the groups: `repadapter_down`, A, (r, D);
    `repadapter_down_bias`, a, (r); `repadapter_up`, the blocks of B one below the other, (D, r / g);
    `repadapter_up_bias`, b, (D).
    """

    prefix = "repadapter_"
    adapter_layer_names = ("repadapter_down", "repadapter_down_bias", "repadapter_up", "repadapter_up_bias")
    neutral = {"up": 0, "up_bias": 0}  # noqa: RUF012

    def start(self, config: RepAdapterConfig) -> Mapping[str, Tensor]:
        up = torch.zeros(self.in_features, config.bottleneck // config.groups)
        return {
            "repadapter_down": nn.init.xavier_uniform_(torch.empty(config.bottleneck, self.in_features)),
            "repadapter_down_bias": torch.zeros(config.bottleneck),
            "repadapter_up": up if config.init_weights else nn.init.xavier_uniform_(up),
            "repadapter_up_bias": torch.zeros(self.in_features),
        }

    def adapt(self, x: Tensor, config: RepAdapterConfig, learned: Mapping[str, Tensor]) -> Tensor:
        hidden = F.dropout(F.linear(x, learned["down"], learned["down_bias"]), config.dropout, self.training)
        blocks = zip(hidden.chunk(config.groups, -1), learned["up"].chunk(config.groups), strict=True)
        raised = torch.cat([F.linear(part, block) for part, block in blocks], -1)
        return config.scale * (raised + learned["up_bias"])

    def matrix(self, config: RepAdapterConfig, learned: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        up = torch.block_diag(*learned["up"].chunk(config.groups))
        shift = up @ learned["down_bias"] + learned["up_bias"]
        return config.scale * up @ learned["down"], config.scale * shift
