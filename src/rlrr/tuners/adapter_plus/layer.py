"""Adapter+'s layer: a bottleneck behind a block."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rlrr.tuners.adapter_plus.config import AdapterPlusConfig
from rlrr.tuners.branch import BranchLayer


class Bottleneck(nn.Module):
    """The branch `c * drop_path(Up(GELU(Down(x))))` (arXiv 2406.06820).

    Args:
        features: Width of x, and of the output.
        config: The adapter's settings.
    """

    def __init__(self, features: int, config: AdapterPlusConfig) -> None:
        super().__init__()
        self.down, self.up = nn.Linear(features, config.bottleneck), nn.Linear(config.bottleneck, features)
        self.scale, self.drop_path = nn.Parameter(torch.ones(features)), config.drop_path
        for linear in (self.down, self.up):
            if config.init_weights:
                nn.init.trunc_normal_(linear.weight, std=0.01, a=-0.02, b=0.02)
            else:
                nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)
        if config.init_weights is True:
            nn.init.zeros_(self.up.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Map (samples, ..., features) to the same shape."""
        update = self.up(F.gelu(self.down(x)))
        if self.training and self.drop_path:
            kept = 1 - self.drop_path
            draw = update.new_empty(len(x), *(1,) * (x.dim() - 1)).bernoulli_(kept)
            update = update * (draw / kept if kept else draw)
        return self.scale * update


class AdapterPlusLayer(BranchLayer):
    """A block with a bottleneck behind it. For each adapter: `adapter_plus_branch`, a `Bottleneck`."""

    prefix = "adapter_plus_"
    adapter_layer_names = ("adapter_plus_branch",)
    where = "behind"

    def make_branch(self, config: AdapterPlusConfig) -> nn.Module:
        return Bottleneck(self.out_features, config)
