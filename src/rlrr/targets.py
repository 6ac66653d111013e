"""Which modules RLRR adapts in each model family when the user does not say.

The default is the paper's: all linears of the blocks, their norms, the final norm and, but for Swin, the patch
embedding; the classifier is trained whole. Families are told by class or `model_type`, never by weights.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from rlrr.errors import RLRRError


@dataclass(frozen=True)
class Family:
    """How the modules of one family of backbones are called."""

    inside: tuple[str, ...]
    """Names of the module the backbone may lie in: transformers' TimmWrapper has it in `timm_model`."""
    blocks: str
    """Regex of the path of the blocks, with `{index}` for the index of a block."""
    in_block: str
    """Regex of what is adapted in a block."""
    outside: tuple[str, ...]
    """Regexes of what is adapted outside the blocks."""
    heads: tuple[str, ...]
    """Full names of the classifiers."""
    fused_blocks: dict[str, int] = field(default_factory=dict)
    """Projections stacked in one linear, each with input vectors of its own."""

    def target_modules(self, model: nn.Module, layers: Sequence[int] | None = None) -> str:
        """One regex for all that is adapted in `model`; with `layers`, only the blocks with these indices.

        Raises:
            RLRRError: the model has no block of that index.
        """
        index = r"\d+" if layers is None else "(?:" + "|".join(map(str, layers)) + ")"
        present = [name for name, module in model.named_modules() if not isinstance(module, nn.Identity)]
        inside = f"(?:(?:{'|'.join(self.inside)})\\.)?"
        outside = [regex for regex in self.outside if any(re.fullmatch(inside + regex, name) for name in present)]
        blocks = self.blocks.replace("{index}", index)
        for layer in layers or ():
            block = inside + self.blocks.replace("{index}", str(layer))
            if not any(re.match(block, name) for name in present):
                raise RLRRError(f"layers_to_transform names block {layer}, which this {type(model).__name__} has not.")
        return inside + "(?:" + "|".join((f"{blocks}{self.in_block}", *outside)) + ")"


_TIMM_VIT = Family(
    inside=("timm_model",),
    blocks=r"blocks\.{index}\.",
    in_block=r"(?:norm[12]|attn\.(?:qkv|proj)|mlp\.fc\w+)",
    outside=(r"patch_embed\.proj", "norm", "fc_norm"),
    heads=("head", "head_dist"),
    fused_blocks={"qkv": 3},
)
_TIMM_SWIN = Family(
    inside=("timm_model",),
    blocks=r"layers\.\d+\.blocks\.{index}\.",
    in_block=r"(?:norm[12]|attn\.(?:qkv|proj)|mlp\.fc[12])",
    outside=(r"layers\.\d+\.downsample\.reduction", "norm"),
    heads=("head.fc",),
)
_MODEL_TYPES = ("vit", "deit", "dinov2", "dinov2_with_registers")
_HF_VIT = Family(
    inside=_MODEL_TYPES,
    blocks=r"(?:encoder\.)?layers?\.{index}\.",
    in_block=r"(?:layernorm_before|layernorm_after|norm[12]|attention\.[qkvo]_proj|mlp\.(?:fc[12]|\w+_proj))",
    outside=(r"embeddings\.patch_embeddings\.projection", "layernorm"),
    heads=("classifier", "cls_classifier", "distillation_classifier"),
)
_BY_CLASS = {
    "VisionTransformer": _TIMM_VIT,
    "VisionTransformerDistilled": _TIMM_VIT,
    "SwinTransformer": _TIMM_SWIN,
}
_BY_MODEL_TYPE = {name: _HF_VIT for name in _MODEL_TYPES}


def family_of(model: nn.Module) -> Family | None:
    """The family of a timm or transformers model, also inside transformers' TimmWrapper; None if it is not known."""
    model = getattr(model, "timm_model", model)
    model_type = getattr(getattr(model, "config", None), "model_type", None)
    return _BY_CLASS.get(type(model).__name__) or _BY_MODEL_TYPE.get(model_type or "")


def call_fused_linears(model: nn.Module) -> None:
    """Have BEiT, EVA-02 and Swin V2 call their fused qkv, whose weight they otherwise read past the module."""
    for module in model.modules():
        if hasattr(module, "qkv_bias_separate"):
            setattr(module, "qkv_bias_separate", True)  # noqa: B010 - typed as a module; the output is the same


def default_targets(model: nn.Module) -> list[str]:
    """The full names of the modules that the family's default adapts; none for an unknown family."""
    family = family_of(model)
    if family is None:
        return []
    regex = re.compile(family.target_modules(model))
    return [name for name, _ in model.named_modules() if regex.fullmatch(name)]


def block_linears(model: nn.Module) -> list[str] | str:
    """The full names of all linears among the default targets; PEFT's "all-linear" for an unknown family."""
    modules = dict(model.named_modules())
    return [name for name in default_targets(model) if isinstance(modules[name], nn.Linear)] or "all-linear"


def classifier_names(model: nn.Module) -> list[str]:
    """The full names of the classifiers that hold weights: timm's own word for any timm model, else the family's."""
    get_classifier: Any = getattr(model, "get_classifier", None)
    if get_classifier is not None:
        classifier = get_classifier()
        heads = classifier if isinstance(classifier, tuple) else (classifier,)
        names = [name for name, module in model.named_modules() if any(module is head for head in heads)]
    else:
        family = family_of(model)
        wrapper = "timm_model." if hasattr(model, "timm_model") else ""
        names = [wrapper + head for head in family.heads] if family else []
    return [name for name, module in model.named_modules() if name in names and len(list(module.parameters()))]
