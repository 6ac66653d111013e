"""The settings of a selection of own weights, as they stand in `adapter_config.json`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from rlrr.tuners.base import RLRRError
from rlrr.tuners.config import TunerConfig, check_choice, check_number


@dataclass
class SelectionConfig(TunerConfig):
    """Some of the model's own weights, trained as they are: an adapter holds them, and the backbone stays frozen.

    With no argument all biases are trained (BitFit, Zaken et al., arXiv 2106.10199). `TunerConfig` describes the
    settings that choose modules.

    Args:
        parts: Parts of the default targets whose weights are trained, None for all: "attn", "mlp", "norm" (with the
            final one) and "patch_embed" of a ViT.
        tensors: What is trained of each module: "biases", or "all", with the weight.
        last_blocks: Number of blocks, counted from the last one, that are trained with the final norm; None for the
            default targets.
        init_weights: True starts at the pre-trained weights. False adds noise of 0.1 to them, so that an untrained
            adapter shows (for tests).
    """

    method = "selection"

    tensors: Literal["all", "biases"] = "biases"
    last_blocks: int | None = None
    init_weights: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("tensors", self.tensors, ("all", "biases"))
        if self.last_blocks is not None:
            check_number("last_blocks", self.last_blocks, 1)
            if self.parts is not None or self.layers_to_transform is not None:
                raise RLRRError(
                    "last_blocks names whole blocks: leave out parts and layers_to_transform, or last_blocks."
                )
