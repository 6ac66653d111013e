"""The settings of an RLRR adapter, as they stand in `adapter_config.json`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from peft.utils.other import get_pattern_key

from rlrr.tuners.base import RLRRError
from rlrr.tuners.config import TunerConfig, check_choice, check_number

SIDES = ("both", "in", "out")
FORMS = ("residual", "product")
INITS = ("paper", "identity", "normal", "uniform", "constant", True, False)
CONVOLUTIONS = ("scale", "rescale")


@dataclass
class RLRRConfig(TunerConfig):
    """Residual-based Low-Rank Rescaling (Dong et al., CVPR 2024, arXiv 2403.19067).

    A frozen linear (W, b) becomes `W + (scale_out scale_in) ⊙ W` and `b + shift`; a norm or convolution gains a scale
    and a shift of its output, an RmsNorm a scale alone. With no argument the whole backbone is adapted as in the paper.
    `TunerConfig` describes the other settings that choose modules.

    Args:
        target_modules: Modules to adapt: a regex, a list of name endings, or None for the default of the model's
            family or, in a model without one, every module of a kind that can be adapted (docs/backbones.md).
        parts: Parts of the default targets to adapt, None for all (Fig. 2): "attn", "mlp", "norm" (with the final one)
            and "patch_embed" of a ViT; Swin has "downsample" in place of the last; a ResNet has "conv" (in the
            blocks), "downsample" and "stem".
        rank: Rank r of the rescaling (supplement F); 1 is the method.
        form: "residual" is the paper's. "product" is ours: `diag(1 + scale_out) W diag(1 + scale_in)`, which starts at
            the pre-trained function with both vectors at zero, where both get a gradient, and decays to it.
        sides: Singular bases that are rescaled (Table 6): "both", "in" or "out".
        residual: Keep the frozen weight beside its rescaled copy (Table 6).
        multiply_weight: False is the paper's "without W": `W + scale_out scale_in` (Table 11).
        shift: Learn a shift of the output.
        init_weights: Start of the vectors. "paper" is that of the paper's code, from which training does not start at
            the pre-trained function (docs/methods/rlrr.md has the variants that the code lacks); "identity", or True as
            PEFT has it, starts at the pre-trained function. "normal", "uniform" and "constant" are the other starts of
            Table 10. The paper does not give their spread: here S = scale_out scale_in has the root mean square of the
            paper's start, 2/√in, so that the distribution alone differs (without the residual S is 1, to within 0.02 on
            each side). False draws at random, so that an untrained adapter shows (for tests).
        fused_blocks: Number of projections stacked in one linear, each with input vectors of its own, by name ending,
            as {"qkv": 3}, or one number for qkv. None is the family's: 3 in a ViT, 1 in Swin, as in the paper's code.
        convolutions: "scale" and shift the output of a convolution, or "rescale" its kernel as a linear's weight, seen
            as a matrix (supplement G). None is the family's: "rescale" in a ResNet, else "scale".
        gradient_tokens: Share of the tokens from which scale_out and scale_in of a linear get their gradient in
            training, above 0 and at most 1. Below 1 the gradient is an unbiased estimate, which takes less time and
            memory, as only those tokens are kept (docs/performance.md).
    """

    method = "rlrr"

    rank: int = 1
    form: Literal["residual", "product"] = "residual"
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
        if isinstance(self.fused_blocks, int):
            self.fused_blocks = {"qkv": self.fused_blocks}
        check_number("rank", self.rank, 1)
        if not 0 < self.gradient_tokens <= 1:
            raise RLRRError(f"gradient_tokens must be above 0 and at most 1, not {self.gradient_tokens}.")
        check_choice("sides", self.sides, SIDES)
        check_choice("form", self.form, FORMS)
        if self.init_weights == "zero":
            raise RLRRError(
                'With both sides at zero neither gets a gradient: init_weights="identity" starts one there.'
            )
        check_choice("init_weights", self.init_weights, INITS)
        if self.convolutions is not None:
            check_choice("convolutions", self.convolutions, CONVOLUTIONS)
        if self.fused_blocks:
            check_number("fused_blocks", min(self.fused_blocks.values()), 1)
        self._check_combinations()
        if self.init_weights == "identity" or (self.form == "product" and self.init_weights == "paper"):
            self.init_weights = True

    def _check_combinations(self) -> None:
        if self.sides != "both" and (self.rank > 1 or not self.multiply_weight):
            raise RLRRError(f'rank > 1 and multiply_weight=False need sides="both", not {self.sides!r}.')
        if not (self.residual or self.multiply_weight):
            raise RLRRError(
                "residual=False and multiply_weight=False together leave out the frozen weight, and with it all that "
                "was pre-trained: set one of them to True."
            )
        if self.form == "product":
            self._check_product()
        if self.init_weights == "constant" and self.rank > 1:
            raise RLRRError(
                f'init_weights="constant" needs rank 1: the {self.rank} terms would start equal, get equal gradients '
                "and stay equal."
            )

    def _check_product(self) -> None:
        reasons = {
            "rank above 1": (self.rank > 1, "a product has one factor on each side"),
            "residual=False": (not self.residual, "a product at its start is the frozen weight itself"),
            "multiply_weight=False": (not self.multiply_weight, "without W nothing is left to multiply"),
            "gradient_tokens below 1": (self.gradient_tokens < 1, "its gradients are sums over all tokens"),
            f'init_weights="{self.init_weights}"': (
                self.init_weights in ("normal", "uniform", "constant"),
                "the starts of Table 10 are of the residual form",
            ),
        }
        for setting, (given, reason) in reasons.items():
            if given:
                raise RLRRError(f'form="product" does not go with {setting}: {reason}.')

    @property
    def stacking(self) -> tuple[Any, ...]:
        """Settings that two adapters must share for their vectors to be stacked in one batch."""
        return self.form, self.residual, self.multiply_weight

    @property
    def keeps_weight(self) -> bool:
        """Whether the frozen weight stands beside its copy that the factors of `rlrr.tuners.rlrr.layer` rescale."""
        return self.residual and self.form == "residual"

    def blocks_of(self, module_name: str) -> int:
        """Count the projections stacked in a module, by its full name."""
        patterns = self.fused_blocks or {}
        assert isinstance(patterns, dict), "a number was put in one on construction"
        return patterns.get(get_pattern_key(list(patterns), module_name), 1)
