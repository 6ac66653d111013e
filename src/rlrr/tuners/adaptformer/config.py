"""The settings of an AdaptFormer adapter, as they stand in `adapter_config.json`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rlrr.tuners.config import TunerConfig, check_factor, check_number


@dataclass
class AdaptFormerConfig(TunerConfig):
    """A bottleneck beside each MLP (Chen et al., NeurIPS 2022, arXiv 2205.13535).

    With x the residual stream after attention, a block's output `x + MLP(norm(x))` gains
    `scale * Up(dropout(ReLU(Down(x))))`. The branch stands outside the block's drop path, as in the paper's code.
    `TunerConfig` describes the settings that choose modules.

    Args:
        target_modules: Modules to adapt: a regex, a list of name endings, or None for all blocks. In a model whose
            residual stream is not known None is the MLP of each block, and the branch reads the MLP's own input.
        parts: Parts of the default targets to adapt: there is one, "block".
        bottleneck: Width of the bottleneck: 64 in the paper's runs on images, 8 in most tables of VTAB-1k.
        scale: Fixed factor of the branch, with its last bias.
        dropout: Dropout on the bottleneck while training.
        init_weights: True starts at the pre-trained function: Down is Kaiming-uniform as a linear of torch is, all
            else zero. False draws Up as Down is drawn, so that an untrained adapter shows (for tests).
    """

    method = "adaptformer"

    bottleneck: int = 64
    scale: float = 0.1
    dropout: float = 0.1
    init_weights: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_factor("scale", self.scale)
        check_number("bottleneck", self.bottleneck, 1)
        check_number("dropout", self.dropout, 0, 1)

    @property
    def stacking(self) -> tuple[Any, ...]:
        """Settings that two adapters must share for their branches to be stacked in one batch."""
        return (self.scale,)
