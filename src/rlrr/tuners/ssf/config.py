"""The settings of an SSF adapter, as they stand in `adapter_config.json`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from rlrr.tuners.config import TunerConfig, check_choice


@dataclass
class SSFConfig(TunerConfig):
    """Scaling and shifting of features (Lian et al., NeurIPS 2022, arXiv 2210.08823).

    The output z of a linear, norm or convolution becomes `z * scale + shift`. With no argument the patch
    embedding, all norms and all linears of the blocks are adapted, as in the paper.

    Args:
        target_modules: Modules to adapt: a regex, a list of name endings, or None for the default of the model's
            family.
        exclude_modules: Modules to leave out, written in the same way.
        modules_to_save: Modules to train whole. None is the model's classifier if `target_modules` is None too.
        parts: Parts of the default targets to adapt, None for all: "attn", "mlp", "norm" (with the final one) and
            "patch_embed" of a ViT; Swin has "downsample" in place of the last.
        layers_to_transform: Indices of the blocks to adapt. With default targets, modules outside the blocks are
            adapted all the same, unless `parts` leaves them out.
        layers_pattern: Name of the list of blocks, for `layers_to_transform` with a list of `target_modules`.
        init_weights: Start of the vectors. "paper" draws scales from N(1, 0.02) and shifts from N(0, 0.02), as the
            paper's code does, so that training does not start at the pre-trained function; True starts at it. False
            draws as "paper" does, but ten times as wide, so that an untrained adapter shows (for tests).
    """

    method = "ssf"

    init_weights: bool | Literal["paper"] = "paper"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("init_weights", self.init_weights, ("paper", True, False))
