"""The settings of Convpass, as they stand in `adapter_config.json`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from rlrr.tuners.config import TunerConfig, check_choice, check_factor, check_number


@dataclass
class ConvpassConfig(TunerConfig):
    """A bottleneck with a 3x3 convolution beside attention and MLP (Jie & Deng, arXiv 2207.07039).

    With h the input of the attention, or of the MLP, its output gains
    `scale * Up(dropout(QuickGELU(Conv(QuickGELU(Down(h))))))`. The convolution sees the patches on their grid, and each
    prefix token on a grid of its own. `TunerConfig` describes the settings that choose modules.

    Args:
        target_modules: Modules to adapt: a regex, a list of name endings, or None for attention and MLP of each block.
        parts: Parts of the default targets to adapt: "attn.module" and "mlp.module".
        bottleneck: Width of the bottleneck, r.
        scale: Fixed factor of the branch, with its last bias: 0.01 to 100 in the paper, chosen per task.
        dropout: Dropout on the bottleneck while training.
        convolution: Start of the convolution: "identity" (the centre tap), or "xavier".
        init_weights: True starts at the pre-trained function, with Up zero. False draws Up Xavier-uniform, so that an
            untrained adapter shows (for tests).
    """

    method = "convpass"

    bottleneck: int = 8
    scale: float = 1.0
    dropout: float = 0.1
    convolution: Literal["identity", "xavier"] = "identity"
    init_weights: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_factor("scale", self.scale)
        check_number("bottleneck", self.bottleneck, 1)
        check_number("dropout", self.dropout, 0, 1)
        check_choice("convolution", self.convolution, ("identity", "xavier"))
