"""The settings of an Adapter+, as they stand in `adapter_config.json`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from rlrr.tuners.config import TunerConfig, check_choice, check_number


@dataclass
class AdapterPlusConfig(TunerConfig):
    """A bottleneck behind each block, with a learned scale for each channel (Steitz & Roth, arXiv 2406.06820).

    The output x of a block becomes `x + c * drop_path(Up(GELU(Down(x))))`. `TunerConfig` describes the settings that
    choose modules.

    Args:
        target_modules: Modules to stand behind: a regex, a list of name endings, or None for all blocks.
        parts: Parts of the default targets: there is one, "block".
        bottleneck: Width of the bottleneck: 1 to 32 in the paper, 8 and 16 in most tables.
        drop_path: Share of the samples that do without the update while training.
        init_weights: Start: "paper" draws both projections from a normal of 0.01 cut at two deviations, with biases of
            zero and c of one, so that training starts near the pre-trained function; True starts at it, with Up zero;
            False draws the projections Xavier-uniform (for tests).
    """

    method = "adapter_plus"

    bottleneck: int = 8
    drop_path: float = 0.1
    init_weights: bool | Literal["paper"] = "paper"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("bottleneck", self.bottleneck, 1)
        check_number("drop_path", self.drop_path, 0, 1)
        check_choice("init_weights", self.init_weights, ("paper", True, False))
