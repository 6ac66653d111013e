"""The settings of a FacT adapter, as they stand in `adapter_config.json`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from rlrr.tuners.config import TunerConfig, check_choice, check_factor, check_number


@dataclass
class FacTConfig(TunerConfig):
    """One decomposition of the updates of all linears of all blocks (Jie & Deng, AAAI 2023, arXiv 2212.03145).

    Each of q, k, v, proj, fc1 and fc2 gains `scale * V dropout(M U h)`, with h its input. U and V are shared by all; M
    is each linear's own, or made of factors that all share. `TunerConfig` describes the settings that choose modules.

    Args:
        target_modules: Linears of blocks to adapt: a regex, a list of name endings, or None for all of them.
        parts: Parts of the default targets to adapt: "attn.qkv", "attn.proj", "mlp.fc1" and "mlp.fc2"; None for all.
        decomposition: "tt" (tensor train) has an M for each linear; "tk" (Tucker) makes them all of one core and a
            vector for each.
        rank: Rank of the decomposition: 16 at most in the authors' runs with "tt", 32 at most with "tk".
        scale: Fixed factor of the updates, chosen per task from 0.01 to 100 by the authors.
        dropout: Dropout before V while training.
        init_weights: True starts at the pre-trained function: V is zero, M, U and the factors are random. False draws
            V as U is drawn, so that an untrained adapter shows (for tests).
    """

    method = "fact"

    decomposition: Literal["tt", "tk"] = "tt"
    rank: int = 16
    scale: float = 1.0
    dropout: float = 0.1
    init_weights: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("decomposition", self.decomposition, ("tt", "tk"))
        check_factor("scale", self.scale)
        check_number("rank", self.rank, 1)
        check_number("dropout", self.dropout, 0, 1)
