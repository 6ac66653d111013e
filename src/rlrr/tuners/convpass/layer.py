"""Convpass's layer: a bottleneck with a convolution beside attention or MLP."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rlrr.tuners.base import RLRRError
from rlrr.tuners.branch import BranchLayer, features, quick_gelu
from rlrr.tuners.convpass.config import ConvpassConfig


class Grid:
    """The grid of patches into which the model has cut the images that it runs.

    Attributes:
        size: Its height and width; None before the first call.
    """

    size: tuple[int, int] | None = None


class ConvBottleneck(nn.Module):
    """The branch `scale * Up(dropout(QuickGELU(Conv(QuickGELU(Down(h))))))` (arXiv 2207.07039).

    Args:
        in_features: Width of h.
        out_features: Width of the output.
        leading: Number of tokens before the patches.
        grid: The grid of patches, which the tuner keeps up to date.
        config: The adapter's settings.
    """

    def __init__(self, in_features: int, out_features: int, leading: int, grid: Grid, config: ConvpassConfig) -> None:
        super().__init__()
        width = config.bottleneck
        self.down, self.up = nn.Linear(in_features, width), nn.Linear(width, out_features)
        self.conv = nn.Conv2d(width, width, 3, padding=1)
        self.leading, self.grid, self.scale, self.dropout = leading, grid, config.scale, config.dropout
        nn.init.xavier_uniform_(self.down.weight)
        if config.convolution == "xavier":
            nn.init.xavier_uniform_(self.conv.weight)
        else:
            nn.init.dirac_(self.conv.weight)
        if config.init_weights:
            nn.init.zeros_(self.up.weight)
        else:
            nn.init.xavier_uniform_(self.up.weight)
        for module in (self.down, self.conv, self.up):
            nn.init.zeros_(module.bias)

    def forward(self, h: Tensor) -> Tensor:
        """Map (batch, leading + patches, in_features) to (batch, leading + patches, out_features).

        Raises:
            RLRRError: the tokens are not those of a grid of patches behind the leading ones.
        """
        size = self.grid.size
        if size is None or h.dim() != 3 or h.shape[1] != self.leading + math.prod(size):
            raise RLRRError(
                f"Convpass needs all patches of a grid behind {self.leading} tokens, and got {tuple(h.shape)}: choose "
                "modules that take all tokens, and leave out patch dropout."
            )
        hidden = quick_gelu(self.down(h))
        patches = hidden[:, self.leading :].transpose(1, 2).unflatten(2, size)
        ahead = F.linear(hidden[:, : self.leading], self.conv.weight[:, :, 1, 1], self.conv.bias)  # a grid of one cell
        hidden = quick_gelu(torch.cat([ahead, self.conv(patches).flatten(2).transpose(1, 2)], 1))
        return self.scale * self.up(F.dropout(hidden, self.dropout, self.training))


class ConvpassLayer(BranchLayer):
    """An attention or MLP with a bottleneck beside it. For each adapter: `convpass_branch`, a `ConvBottleneck`."""

    prefix = "convpass_"
    adapter_layer_names = ("convpass_branch",)
    where = "beside"

    def describe(self, base_layer: nn.Module, leading: int = 1, grid: Grid | None = None, **options: Any) -> None:
        """Set what the branch needs of the tokens.

        Args:
            base_layer: The frozen module.
            leading: Number of tokens before the patches.
            grid: The grid of patches, which the tuner keeps up to date.
            **options: Unused.
        """
        self.in_features, self.out_features = features(base_layer)
        self.leading, self.grid = leading, grid or Grid()

    def make_branch(self, config: ConvpassConfig) -> nn.Module:
        return ConvBottleneck(self.in_features, self.out_features, self.leading, self.grid, config)
