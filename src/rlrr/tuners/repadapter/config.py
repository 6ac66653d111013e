"""The settings of a RepAdapter adapter, as they stand in `adapter_config.json`."""

from __future__ import annotations

from dataclasses import dataclass

from rlrr.tuners.config import RLRRError, TunerConfig, check_factor, check_number


@dataclass
class RepAdapterConfig(TunerConfig):
    """A linear bottleneck before qkv and before the MLP (Luo et al., arXiv 2302.08106).

    The input h of a linear becomes `h + scale * (B dropout(A h + a) + b)`, with A dense and B in blocks on the
    diagonal. Without an activation it merges into the linear. `TunerConfig` describes the settings that choose modules.

    Args:
        target_modules: Modules to adapt, all linears: a regex, a list of name endings, or None for the projections to
            queries, keys and values and the first linear of the MLP in all blocks.
        parts: Parts of the default targets to adapt: "attn.qkv" and "mlp.fc1"; None for both.
        bottleneck: Width of the bottleneck; the groups must divide it.
        groups: Number of blocks of B: outputs of the first see the first part of the bottleneck, and so on.
        scale: Fixed factor of the update with its biases, chosen per task from 0.1 to 10 by the authors.
        dropout: Dropout on the bottleneck while training.
        init_weights: True starts at the pre-trained function: A is Xavier-uniform, all else zero. False draws B as A is
            drawn, so that an untrained adapter shows (for tests).
    """

    method = "repadapter"

    bottleneck: int = 8
    groups: int = 2
    scale: float = 1.0
    dropout: float = 0.1
    init_weights: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_factor("scale", self.scale)
        check_number("bottleneck", self.bottleneck, 1)
        check_number("groups", self.groups, 1)
        check_number("dropout", self.dropout, 0, 1)
        if self.bottleneck % self.groups:
            raise RLRRError(f"groups must divide bottleneck, and {self.groups} does not divide {self.bottleneck}.")
