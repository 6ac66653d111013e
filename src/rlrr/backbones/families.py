"""Which modules RLRR adapts in each model family when the user does not say.

The default is the paper's: all linears of the blocks, their norms, the final norm and, but for Swin, the patch
embedding; of a ResNet all convolutions. The classifier is trained whole. Families are told by class or `model_type`,
never by weights.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import nn

from rlrr.errors import RLRRError, did_you_mean

# What may stand where another model of the family has something to adapt.
NEVER_ADAPTED = (nn.Identity, nn.Sequential, nn.AvgPool2d, nn.BatchNorm2d, nn.GroupNorm)


@dataclass(frozen=True)
class Family:
    """How the modules of one family of backbones are called."""

    inside: tuple[str, ...]
    """Names of the module the backbone may lie in: transformers' TimmWrapper has it in `timm_model`."""
    block: str
    """Regex of the path of a block, with `{index}` for its index."""
    parts: dict[str, tuple[str, ...]]
    """Regexes of what is adapted, by part; `{block}` stands for the path of a block."""
    heads: tuple[str, ...]
    """Full names of the classifiers."""
    fused_blocks: dict[str, int] = field(default_factory=dict)
    """Projections stacked in one linear, each with input vectors of its own."""
    convolutions: Literal["scale", "rescale"] = "scale"
    """Whether convolutions gain a scale and a shift of their output, or their kernels are rescaled as linears are."""

    @property
    def prefix(self) -> str:
        """Regex of what may stand before all other paths."""
        return f"(?:(?:{'|'.join(self.inside)})\\.)?"

    def target_modules(
        self, model: nn.Module, layers: Sequence[int] | None = None, parts: Sequence[str] | None = None
    ) -> str:
        """One regex for all that is adapted in `model`.

        Args:
            model: A model of this family.
            layers: Adapt only the blocks with these indices (in Swin and ResNet, of each stage).
            parts: Adapt only these parts.

        Raises:
            RLRRError: the model has no block of that index, or no such part.
        """
        names = [name for name, module in model.named_modules() if not isinstance(module, NEVER_ADAPTED)]
        for layer in layers or ():
            block = self.prefix + self.block.replace("{index}", str(layer))
            if not any(re.match(block, name) for name in names):
                raise RLRRError(f"layers_to_transform names block {layer}, which this {type(model).__name__} has not.")

        def present(regexes: Sequence[str], index: str) -> list[str]:
            paths = [regex.replace("{block}", self.block.replace("{index}", index)) for regex in regexes]
            return [path for path in paths if any(re.fullmatch(self.prefix + path, name) for name in names)]

        there = [part for part, regexes in self.parts.items() if present(regexes, r"\d+")]
        if unknown := [part for part in parts or () if part not in there]:
            raise RLRRError(
                f"parts names {unknown[0]!r}, which this {type(model).__name__} has not: it has {', '.join(there)}."
                f"{did_you_mean(unknown[0], there)}"
            )
        index = r"\d+" if layers is None else "(?:" + "|".join(map(str, layers)) + ")"
        chosen = [path for part in there if parts is None or part in parts for path in present(self.parts[part], index)]
        return self.prefix + "(?:" + "|".join(chosen) + ")"


_TIMM_VIT = Family(
    inside=("timm_model",),
    block=r"blocks\.{index}\.",
    parts={
        "attn": (r"{block}attn\.(?:qkv|proj)",),
        "mlp": (r"{block}mlp\.fc\w+",),
        "norm": (r"{block}norm[12]", "norm", "fc_norm"),
        "patch_embed": (r"patch_embed\.proj",),
    },
    heads=("head", "head_dist"),
    fused_blocks={"qkv": 3},
)
_TIMM_SWIN = Family(
    inside=("timm_model",),
    block=r"layers\.\d+\.blocks\.{index}\.",
    parts={
        "attn": (r"{block}attn\.(?:qkv|proj)",),
        "mlp": (r"{block}mlp\.fc[12]",),
        "norm": (r"{block}norm[12]", "norm"),
        "downsample": (r"layers\.\d+\.downsample\.reduction",),
    },
    heads=("head.fc",),
)
_TIMM_RESNET = Family(
    inside=("timm_model",),
    block=r"layer\d+\.{index}\.",
    parts={
        "conv": (r"{block}conv[123]",),
        "downsample": (r"{block}downsample\.0", r"{block}downsample\.1"),  # in ResNet-D after a pooling
        "stem": ("conv1", r"conv1\.[036]"),
    },
    heads=("fc",),
    convolutions="rescale",
)
_MODEL_TYPES = ("vit", "deit", "dinov2", "dinov2_with_registers")
_HF_VIT = Family(
    inside=_MODEL_TYPES,
    block=r"(?:encoder\.)?layers?\.{index}\.",
    parts={
        "attn": (r"{block}attention\.[qkvo]_proj",),
        "mlp": (r"{block}mlp\.(?:fc[12]|\w+_proj)",),
        "norm": (r"{block}(?:layernorm_before|layernorm_after|norm[12])", "layernorm"),
        "patch_embed": (r"embeddings\.patch_embeddings\.projection",),
    },
    heads=("classifier", "cls_classifier", "distillation_classifier"),
)
_BY_CLASS = {
    "VisionTransformer": _TIMM_VIT,
    "VisionTransformerDistilled": _TIMM_VIT,
    "SwinTransformer": _TIMM_SWIN,
    "ResNet": _TIMM_RESNET,
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
    """The full names of all linears (in a ResNet: convolutions) among the default targets.

    For an unknown family, PEFT's "all-linear".
    """
    family, modules = family_of(model), dict(model.named_modules())
    kind = nn.Conv2d if family and family.convolutions == "rescale" else nn.Linear
    return [name for name in default_targets(model) if isinstance(modules[name], kind)] or "all-linear"


def block_names(model: nn.Module) -> list[str]:
    """The full names of the blocks, in order and through all stages.

    Of an unknown family the members of every outermost list of like modules that have modules of their own.
    """
    if family := family_of(model):
        block = re.compile(family.prefix + family.block.replace("{index}", r"\d+").removesuffix(r"\."))
        return [name for name, _ in model.named_modules() if block.fullmatch(name)]
    found: list[str] = []
    for name, module in model.named_modules():
        if not isinstance(module, (nn.Sequential, nn.ModuleList)) or name.startswith(tuple(f"{its}." for its in found)):
            continue
        members = dict(module.named_children())
        alike = len(members) > 1 and len({type(member) for member in members.values()}) == 1
        if alike and all(list(member.children()) for member in members.values()):
            found += [f"{name}.{member}".removeprefix(".") for member in members]
    return found


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
