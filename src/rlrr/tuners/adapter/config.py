"""The settings of an Adapter, as they stand in `adapter_config.json`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from rlrr.tuners.adapter.variants import VARIANTS
from rlrr.tuners.config import RLRRError, TunerConfig, check_choice, check_factor, check_number


@dataclass
class AdapterConfig(TunerConfig):
    """A bottleneck behind attention, MLP or block (Houlsby et al., ICML 2019, arXiv 1902.00751).

    The output o of what the adapter stands behind becomes `o + Up(act(Down(o)))`, with biases in both projections.
    `TunerConfig` describes the settings that choose modules.

    Args:
        target_modules: Modules to stand behind: a regex, a list of name endings, or None for those of the variant.
        parts: Parts of the variant's own to stand behind, None for all: "attn.module" and "mlp.module" of both forms of
            Houlsby, "mlp.module" of "pfeiffer" and "noah", "block" of "pfeiffer_norm".
        variant: The form. "houlsby" (Adapter+'s code) stands behind attention and MLP, with GELU. "houlsby_osu" (the
            OSU study's) has ReLU, a factor and dropout. "pfeiffer" (VPT's) stands behind the MLP and starts at zero.
            "pfeiffer_norm" (Adapter+'s code) stands behind the block, with a LayerNorm of its own. "noah" (NOAH's)
            stands behind the MLP, with QuickGELU and dropout; most tables of VTAB-1k have it as "Adapter".
        bottleneck: Width of the bottleneck.
        scale: Fixed factor of Up's output, of "houlsby_osu" alone: the study chooses it from 0.01, 0.1, 1 and 10.
        dropout: Dropout on the bottleneck while training, of "houlsby_osu" and "noah" alone; None for their 0.1.
        init_weights: Start of the projections: "paper" as in the variant's code, of which "pfeiffer" alone starts at
            the pre-trained function; True makes Up zero, so that all do; False is random (for tests).
    """

    method = "adapter"

    variant: Literal["houlsby", "houlsby_osu", "pfeiffer", "pfeiffer_norm", "noah"] = "houlsby"
    bottleneck: int = 8
    scale: float = 1.0
    dropout: float | None = None
    init_weights: bool | Literal["paper"] = "paper"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("variant", self.variant, VARIANTS)
        check_choice("init_weights", self.init_weights, ("paper", True, False))
        check_number("bottleneck", self.bottleneck, 1)
        variant = VARIANTS[self.variant]
        check_factor("scale", self.scale)
        if self.scale != 1 and not variant.scaled:
            raise RLRRError(f"The Adapter's variant {self.variant} has no factor: leave out scale.")
        if self.dropout is None:
            self.dropout = variant.dropout
        elif variant.dropout is None:
            raise RLRRError(f"The Adapter's variant {self.variant} has no dropout: leave out dropout.")
        else:
            check_number("dropout", self.dropout, 0, 1)
