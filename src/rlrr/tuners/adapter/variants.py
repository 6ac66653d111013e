"""The forms that the Adapter takes in the papers on vision, each as its authors' code has it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

from torch import Tensor, nn
from torch.nn import functional as F

from rlrr.tuners.branch import quick_gelu


@dataclass(frozen=True)
class Variant:
    """One form of the Adapter.

    Attributes:
        parts: Parts of a block behind which an adapter stands.
        activation: Function between the projections.
        start_weight: Fills a weight of a projection in place.
        start_bias: Fills a bias of a projection in place.
        dropout: Dropout on the bottleneck while training; None if the form has none.
        scaled: Whether the output of the bottleneck has a fixed factor.
        norm: Whether a LayerNorm of its own stands before the bottleneck.
    """

    parts: tuple[str, ...]
    activation: Callable[[Tensor], Tensor]
    start_weight: Callable[[Tensor], Tensor]
    start_bias: Callable[[Tensor], Tensor] = nn.init.zeros_
    dropout: float | None = None
    scaled: bool = False
    norm: bool = False


_TINY = partial(nn.init.normal_, std=1e-6)
_BOTH = ("attn.module", "mlp.module")

VARIANTS: Mapping[str, Variant] = {
    "houlsby": Variant(_BOTH, F.gelu, partial(nn.init.trunc_normal_, std=0.01, a=-0.02, b=0.02)),
    "houlsby_osu": Variant(_BOTH, F.relu, nn.init.xavier_uniform_, _TINY, dropout=0.1, scaled=True),
    "pfeiffer": Variant(("mlp.module",), F.gelu, nn.init.zeros_),
    "pfeiffer_norm": Variant(("block",), F.gelu, partial(nn.init.normal_, std=0.02), norm=True),
    "noah": Variant(("mlp.module",), quick_gelu, nn.init.xavier_uniform_, _TINY, dropout=0.1),
}
"""By name: of Adapter+'s repository, the OSU study, VPT, Adapter+'s repository again, and NOAH."""
