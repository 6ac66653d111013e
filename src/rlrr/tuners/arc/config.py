"""The settings of an ARC adapter, as they stand in `adapter_config.json`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from rlrr.tuners.config import TunerConfig, check_choice, check_number


@dataclass
class ARCConfig(TunerConfig):
    """Adapters re-composed from shared projections (Dong et al., NeurIPS 2023, arXiv 2310.06234).

    The input h of a linear becomes `h + U dropout(d * (U^T h)) + b`. All linears that stand before attention share
    one U, and those that stand before an MLP another; d and b are each linear's own. Without an activation it merges
    into the linear. `TunerConfig` describes the settings that choose modules.

    Args:
        target_modules: Modules to adapt, linears of one input width: a regex, a list of name endings, or None for the
            projections to queries, keys and values and the first linear of the MLP in all blocks.
        parts: Parts of the default targets to adapt: "attn.qkv" and "mlp.fc1"; None for both.
        bottleneck: Width of the bottleneck.
        dropout: Dropout on the bottleneck while training: 0.1 is the default of the authors' trainer.
        init_weights: Start of d; U is Xavier-uniform and b zero in any case. "paper" starts d at zero before attention
            and Xavier-uniform before the MLP, so that training does not start at the pre-trained function; True starts
            both at zero, at that function; False starts neither there (for tests).
    """

    method = "arc"

    bottleneck: int = 50
    dropout: float = 0.1
    init_weights: bool | Literal["paper"] = "paper"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("bottleneck", self.bottleneck, 1)
        check_number("dropout", self.dropout, 0, 1)
        check_choice("init_weights", self.init_weights, ("paper", True, False))
