"""A module's kind is what it computes, not what it is called or derived from."""

import pytest
import torch
from timm import layers
from torch import nn

from rlrr.backbones.kinds import NORMS, kind_of


class Renamed(nn.Linear):
    """Computes what a linear computes."""


class Doubled(nn.Linear):
    def forward(self, x):
        return 2 * super().forward(x)


@pytest.mark.parametrize(
    ("module", "kind"),
    [
        (nn.Linear(2, 2), "linear"),
        (layers.Linear(2, 2), "linear"),
        (Renamed(2, 2), "linear"),
        (Doubled(2, 2), None),
        (nn.MultiheadAttention(2, 1).out_proj, None),
        (nn.Conv2d(2, 2, 1), "conv"),
        (layers.StdConv2d(2, 2, 1), None),
        (layers.Conv2dSame(2, 2, 1), None),
        (nn.LayerNorm(2), "norm"),
        (layers.RmsNorm(2), "norm"),
        (layers.LayerNorm2d(2), "norm"),
        (layers.LayerNormAct2d(2), None),
        (nn.BatchNorm2d(2), None),
        (nn.Sequential(nn.Linear(2, 2)), None),
    ],
)
def test_a_kind_is_told_from_what_a_module_computes(module, kind):
    assert kind_of(module) == kind


@pytest.mark.parametrize("norm", NORMS)
def test_every_norm_of_the_table_is_a_norm(norm):
    with torch.device("meta"):
        assert kind_of(norm(4)) == "norm"
