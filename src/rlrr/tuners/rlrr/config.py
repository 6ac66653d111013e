"""The settings of an RLRR adapter, as they stand in `adapter_config.json`."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Literal

from peft import PeftConfig

from rlrr.errors import RLRRError, did_you_mean

SIDES = ("both", "in", "out")
INITS = ("paper", "identity", "normal", "uniform", "constant", True, False)
CONVOLUTIONS = ("scale", "rescale")


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
            family (timm ViT, DeiT, DINOv2, Swin, ResNet; transformers ViT, DeiT, DINOv2).
        exclude_modules: Modules to leave out, written likewise.
        modules_to_save: Modules to train whole. None is the model's classifier if `target_modules` is None too.
        parts: Parts of the default targets to adapt, None for all (Fig. 2): "attn", "mlp", "norm" (with the final one)
            and "patch_embed" of a ViT; Swin has "downsample" in place of the last; a ResNet has "conv" (in the
            blocks), "downsample" and "stem".
        layers_to_transform: Indices of the blocks to adapt. With default targets, what lies outside the blocks is
            adapted all the same, unless `parts` leaves it out.
        layers_pattern: Name of the list of blocks, for `layers_to_transform` with a list of `target_modules`.
        rank: Rank r of the rescaling (supplement F); 1 is the method.
        sides: Which singular bases are rescaled (Table 6): "both", "in" or "out".
        residual: Keep the frozen weight beside its rescaled copy (Table 6).
        multiply_weight: False is the paper's "without W": `W + scale_out scale_in` (Table 11).
        shift: Learn a shift of the output.
        init_weights: "paper" as in the paper's code, where training does not start at the pre-trained function (for
            variants that the code does not have, see docs/methods.md); "identity", or True as PEFT has it, starts at
            it. "normal", "uniform" and "constant" are the other starts of Table 10. The paper does not give their
            spread: here S = scale_out scale_in has the root mean square that the paper's start has, 2/√in, so that
            the distribution alone differs (without the residual S is 1, to within 0.02 on each side). False draws at
            random, so that an untrained adapter shows (for tests).
        fused_blocks: Number of projections stacked in one linear, each with its own input vectors, by name ending,
            as {"qkv": 3}, or one number for qkv. None is the family's: 3 in a ViT, 1 in Swin, as in the paper's code.
        convolutions: "scale" and shift the output of a convolution, or "rescale" its kernel as a linear's weight, seen
            as a matrix (supplement G). None is the family's: "rescale" in a ResNet, else "scale".
        gradient_tokens: Share of the tokens from which a linear's scale_out and scale_in get their gradient in
            training, from above 0 to 1. Below 1 it is an unbiased estimate, which needs less time and memory, as only
            those tokens are kept: see docs/performance.md.
    """

    target_modules: list[str] | str | None = None
    exclude_modules: list[str] | str | None = None
    modules_to_save: list[str] | None = None
    parts: list[str] | None = None
    layers_to_transform: list[int] | int | None = None
    layers_pattern: list[str] | str | None = None
    rank: int = 1
    sides: Literal["both", "in", "out"] = "both"
    residual: bool = True
    multiply_weight: bool = True
    shift: bool = True
    init_weights: bool | Literal["paper", "identity", "normal", "uniform", "constant"] = "paper"
    fused_blocks: dict[str, int] | int | None = None
    convolutions: Literal["scale", "rescale"] | None = None
    gradient_tokens: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = RLRRType.RLRR
        for name in ("target_modules", "exclude_modules"):
            value = getattr(self, name)
            setattr(self, name, set(value) if isinstance(value, list) else value)
        if isinstance(self.parts, str):
            self.parts = [self.parts]
        if isinstance(self.fused_blocks, int):
            self.fused_blocks = {"qkv": self.fused_blocks}
        self._check_values()
        self._check_targets()
        if self.init_weights == "identity":
            self.init_weights = True

    def _check_values(self) -> None:
        if self.rank < 1:
            raise RLRRError(f"rank must be 1 or more, not {self.rank}.")
        if not 0 < self.gradient_tokens <= 1:
            raise RLRRError(f"gradient_tokens must be above 0 and at most 1, not {self.gradient_tokens}.")
        _check_choice("sides", self.sides, SIDES)
        if self.init_weights == "zero":
            raise RLRRError(
                'With both sides at zero neither gets a gradient: init_weights="identity" starts one there.'
            )
        _check_choice("init_weights", self.init_weights, INITS)
        if self.convolutions is not None:
            _check_choice("convolutions", self.convolutions, CONVOLUTIONS)
        if self.fused_blocks and min(self.fused_blocks.values()) < 1:
            raise RLRRError(f"fused_blocks must be 1 or more, not {min(self.fused_blocks.values())}.")
        if self.sides != "both" and (self.rank > 1 or not self.multiply_weight):
            raise RLRRError(f'rank > 1 and multiply_weight=False need sides="both", not {self.sides!r}.')
        if not (self.residual or self.multiply_weight):
            raise RLRRError(
                "residual=False and multiply_weight=False together leave out the frozen weight, and with it all that "
                "was pre-trained: set one of them to True."
            )
        if self.init_weights == "constant" and self.rank > 1:
            raise RLRRError(
                f'init_weights="constant" needs rank 1: the {self.rank} terms would start equal, get equal gradients '
                "and stay equal."
            )

    def _check_targets(self) -> None:
        if self.parts is not None and self.target_modules is not None:
            raise RLRRError("parts chooses among the default targets: leave out target_modules, or parts.")
        if self.parts == []:
            raise RLRRError("parts is empty: name at least one part, or leave it out for all.")
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


def _check_choice(name: str, value: Any, choices: tuple) -> None:
    if value not in choices:
        words = [str(choice) for choice in choices]
        raise RLRRError(f"{name} must be one of {', '.join(words)}, not {value!r}.{did_you_mean(str(value), words)}")
