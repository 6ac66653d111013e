"""The settings of an RLRR adapter, as they stand in `adapter_config.json`."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Literal

from peft import PeftConfig

from rlrr.errors import RLRRError, did_you_mean

SIDES = ("both", "in", "out")
INITS = ("paper", True, False)


class RLRRType(StrEnum):
    """PEFT's name for the method. PEFT's own enum cannot be extended from outside."""

    RLRR = "RLRR"


@dataclass
class RLRRConfig(PeftConfig):
    """Residual-based Low-Rank Rescaling (Dong et al., CVPR 2024, arXiv 2403.19067).

    A frozen linear (W, b) becomes `W + (scale_out scale_in) ⊙ W` and `b + shift`; a LayerNorm or convolution gains
    a scale and a shift of its output. With no argument the whole backbone is adapted as in the paper.

    Args:
        target_modules: Modules to adapt: a regex, a list of name endings, or None for the default of the model's
            family (timm ViT, DeiT, DINOv2, Swin; transformers ViT, DeiT, DINOv2).
        exclude_modules: Modules to leave out, written likewise.
        modules_to_save: Modules to train whole. None is the model's classifier if `target_modules` is None too.
        layers_to_transform: Indices of the blocks to adapt. With default targets, what lies outside the blocks is
            adapted all the same.
        layers_pattern: Name of the list of blocks, for `layers_to_transform` with a list of `target_modules`.
        rank: Rank r of the rescaling (supplement F); 1 is the method.
        sides: Which singular bases are rescaled (Table 6): "both", "in" or "out".
        residual: Keep the frozen weight beside its rescaled copy (Table 6).
        multiply_weight: False is the paper's "without W": `W + scale_out scale_in` (Table 11).
        shift: Learn a shift of the output.
        init_weights: "paper" as in the paper's code, where training does not start at the pre-trained function;
            True starts at it; False draws at random, so that an untrained adapter shows (for tests).
        fused_blocks: Number of projections stacked in one linear, each with its own input vectors, by name ending,
            as {"qkv": 3}, or one number for qkv. None is the family's: 3 in a ViT, 1 in Swin, as in the paper's code.
    """

    target_modules: list[str] | str | None = None
    exclude_modules: list[str] | str | None = None
    modules_to_save: list[str] | None = None
    layers_to_transform: list[int] | int | None = None
    layers_pattern: list[str] | str | None = None
    rank: int = 1
    sides: Literal["both", "in", "out"] = "both"
    residual: bool = True
    multiply_weight: bool = True
    shift: bool = True
    init_weights: bool | Literal["paper"] = "paper"
    fused_blocks: dict[str, int] | int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = RLRRType.RLRR
        for name in ("target_modules", "exclude_modules"):
            value = getattr(self, name)
            setattr(self, name, set(value) if isinstance(value, list) else value)
        if self.rank < 1:
            raise RLRRError(f"rank must be 1 or more, not {self.rank}.")
        if self.sides not in SIDES:
            raise RLRRError(
                f"sides must be one of {', '.join(SIDES)}, not {self.sides!r}.{did_you_mean(str(self.sides), SIDES)}"
            )
        if self.init_weights not in INITS:
            raise RLRRError(f'init_weights must be "paper", True or False, not {self.init_weights!r}.')
        if self.sides != "both" and (self.rank > 1 or not self.multiply_weight):
            raise RLRRError(f'rank > 1 and multiply_weight=False need sides="both", not {self.sides!r}.')
        if isinstance(self.fused_blocks, int):
            self.fused_blocks = {"qkv": self.fused_blocks}
        if self.fused_blocks and min(self.fused_blocks.values()) < 1:
            raise RLRRError(f"fused_blocks must be 1 or more, not {min(self.fused_blocks.values())}.")
        if self.init_weights is True and not (self.residual or self.multiply_weight):
            raise RLRRError(
                "init_weights=True needs residual=True or multiply_weight=True: without the frozen weight there is no "
                "start at the pre-trained function."
            )
        of_layers = (self.layers_to_transform, self.layers_pattern)
        if isinstance(self.target_modules, str) and of_layers != (None, None):
            raise RLRRError(
                "layers_to_transform and layers_pattern cannot be used with a regex in target_modules: "
                "name the blocks in the regex, as in 'blocks\\.(0|1)\\..*'."
            )
        if self.layers_pattern and self.layers_to_transform is None:
            raise RLRRError("layers_pattern needs layers_to_transform: give the indices of the blocks too.")

    def to_dict(self) -> dict[str, Any]:
        """All settings, sets as sorted lists: two runs with the same settings write the same file."""
        return {key: sorted(value) if isinstance(value, set) else value for key, value in super().to_dict().items()}
