"""The settings of an SSF adapter, as they stand in `adapter_config.json`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from rlrr.tuners.config import TunerConfig, check_choice


@dataclass
class SSFConfig(TunerConfig):
    """Scaling and shifting of features (Lian et al., NeurIPS 2022, arXiv 2210.08823).

    The output z of a linear, LayerNorm or convolution becomes `z * scale + shift`. With no argument the patch
    embedding, all norms and all linears of the blocks are adapted, as in the paper. `TunerConfig` describes the
    settings that choose modules.

    Args:
        parts: Parts of the default targets to adapt, None for all: "attn", "mlp", "norm" (with the final one) and
            "patch_embed" of a ViT; Swin has "downsample" in place of the last.
        init_weights: Start of the vectors. "paper" draws scales from N(1, 0.02) and shifts from N(0, 0.02), as the
            paper's code does, so that training does not start at the pre-trained function; True starts at it. False
            draws as "paper" does, but ten times as wide, so that an untrained adapter shows (for tests).
    """

    method = "ssf"

    init_weights: bool | Literal["paper"] = "paper"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("init_weights", self.init_weights, ("paper", True, False))
