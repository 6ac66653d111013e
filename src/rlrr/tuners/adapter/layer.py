"""The Adapter's layer: a bottleneck behind a module."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from rlrr.tuners.adapter.config import AdapterConfig
from rlrr.tuners.adapter.variants import VARIANTS
from rlrr.tuners.branch import BranchLayer


class Bottleneck(nn.Module):
    """The branch `scale * Up(dropout(act(Down(norm(o)))))`, of which a variant may have no norm, dropout or factor.

    Args:
        features: Width of o, and of the output.
        config: The adapter's settings.
    """

    def __init__(self, features: int, config: AdapterConfig) -> None:
        super().__init__()
        variant = VARIANTS[config.variant]
        self.norm = nn.LayerNorm(features, eps=1e-6) if variant.norm else nn.Identity()
        self.down, self.up = nn.Linear(features, config.bottleneck), nn.Linear(config.bottleneck, features)
        self.activation, self.scale, self.dropout = variant.activation, config.scale, config.dropout or 0.0
        start = variant.start_weight if config.init_weights else nn.init.xavier_uniform_
        for linear in (self.down, self.up):
            start(linear.weight)
            variant.start_bias(linear.bias)
        if config.init_weights is True:
            nn.init.zeros_(self.up.weight)
            nn.init.zeros_(self.up.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., features) to (..., features)."""
        hidden = F.dropout(self.activation(self.down(self.norm(x))), self.dropout, self.training)
        return self.scale * self.up(hidden)


class AdapterLayer(BranchLayer):
    """An attention, MLP or block with a bottleneck behind it. For each adapter: `adapter_branch`, a `Bottleneck`."""

    prefix = "adapter_"
    adapter_layer_names = ("adapter_branch",)
    where = "behind"

    def make_branch(self, config: AdapterConfig) -> nn.Module:
        return Bottleneck(self.out_features, config)
