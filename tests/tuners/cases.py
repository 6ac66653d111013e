"""The table of methods under uniform laws: a method adds its rows here, and nothing else in this folder's tests."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import timm
import torch
from peft import PeftConfig
from tests.tuners.toys import TOYS
from torch import nn

from rlrr import RLRRConfig


class Block(nn.Module):
    """A residual block with a norm, as in a ViT."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.attn, self.norm, self.mlp = nn.Linear(width, width), nn.LayerNorm(width), nn.Linear(width, width)

    def forward(self, x):
        x = x + self.attn(x).tanh()
        return x + self.mlp(self.norm(x)).tanh()


def blocks() -> nn.Module:
    """Make two blocks; its input is (images, tokens, 8)."""
    torch.manual_seed(0)
    return nn.Sequential(Block(), Block())


def vit() -> nn.Module:
    """Make a timm ViT of two blocks; its input is (images, 3, 16, 16)."""
    torch.manual_seed(0)
    return timm.create_model(
        "vit_tiny_patch16_224", img_size=16, patch_size=8, depth=2, embed_dim=24, num_heads=2, num_classes=3
    )


@dataclass(frozen=True)
class Case:
    """One method on one model.

    Attributes:
        config: Makes the settings of an adapter whose tensors are random, so that each has its part in the output.
        model: Makes the model.
        shape: Shape of an input without the number of images.
        denied: Capabilities that the method does not have, of merge and combine.
    """

    config: Callable[..., PeftConfig]
    model: Callable[[], nn.Module] = vit
    shape: tuple[int, ...] = (3, 16, 16)
    denied: frozenset[str] = frozenset()


def _toy(name: str, targets: list[str], **settings: Any) -> Case:
    denied = {"combine"} if name == "shared" else {"merge", "combine"}
    config = lambda: TOYS[name][0](target_modules=targets, **settings)  # noqa: E731
    return Case(config, blocks, (5, 8), frozenset(denied))


CASES = {
    "rlrr": Case(RLRRConfig),
    "rlrr, rank 3": Case(lambda: RLRRConfig(rank=3)),
    "rlrr, inputs only": Case(lambda: RLRRConfig(sides="in")),
    "shared tensors": _toy("shared", ["attn", "mlp"]),
    "beside": _toy("beside", ["mlp"]),
    "behind": _toy("behind", ["mlp"]),
    "before": _toy("before", ["attn"]),
    "stream": _toy("stream", ["0", "1"]),
}
