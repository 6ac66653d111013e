"""AdaptFormer's layer: a bottleneck on the residual stream."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from rlrr.tuners.adaptformer.config import AdaptFormerConfig
from rlrr.tuners.branch import BranchLayer


class Bottleneck(nn.Module):
    """The branch `scale * Up(dropout(ReLU(Down(x))))` (arXiv 2205.13535, Eq. 5).

    Args:
        in_features: Width of x.
        out_features: Width of the output.
        config: The adapter's settings.
    """

    def __init__(self, in_features: int, out_features: int, config: AdaptFormerConfig) -> None:
        super().__init__()
        self.down = nn.Linear(in_features, config.bottleneck)
        self.up = nn.Linear(config.bottleneck, out_features)
        self.scale, self.dropout = config.scale, config.dropout
        if config.init_weights:
            for tensor in (self.down.bias, self.up.weight, self.up.bias):
                nn.init.zeros_(tensor)

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., in_features) to (..., out_features)."""
        hidden = F.dropout(self.down(x).relu(), self.dropout, self.training)
        return self.scale * self.up(hidden)


class AdaptFormerLayer(BranchLayer):
    """A block with a bottleneck that reads the residual stream before the norm of its MLP.

    For each adapter: `adaptformer_branch`, a `Bottleneck`.
    """

    prefix = "adaptformer_"
    adapter_layer_names = ("adaptformer_branch",)
    where = "stream"

    def make_branch(self, config: AdaptFormerConfig) -> nn.Module:
        return Bottleneck(self.in_features, self.out_features, config)
