"""Questions about the anatomy of a model: its family, blocks, parts, heads, prefix tokens and tables of positions.

Nothing else in the package knows how a family names its modules. timm is asked first, then the table of families.
All names are full names in the model that is asked about. A model adapted by a PEFT tuner may be asked as well (without
`PeftModel` around it): names then lead through the tuner's layers.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from rlrr.backbones.anatomy import PARTS, Family, NamedModule, check_layers, plain_backbone, walk
from rlrr.backbones.by_kind import blocks_of, family_by_kind
from rlrr.backbones.family_table import (
    BLOCK_NAME,
    BY_CLASS,
    BY_MODEL_TYPE,
    HEADS,
    KINDS,
    KNOWN_KINDS,
    POSITIONS,
    PREFIX_PARAMETERS,
    RESIZED,
    STACKED,
)
from rlrr.errors import RLRRError, did_you_mean

__all__ = [
    "HEADS",
    "PARTS",
    "Family",
    "block_linears",
    "block_name",
    "block_names",
    "call_fused_linears",
    "classifier_names",
    "default_targets",
    "family_of",
    "is_position_table",
    "is_resized",
    "module_kind",
    "module_names",
    "patch_count",
    "patch_size",
    "prefix_tokens",
    "stacked_projections",
    "stage_depth",
]


def family_of(model: nn.Module) -> Family | None:
    """Return the family of a timm or transformers model, also inside transformers' TimmWrapper.

    A model of a class without regexes, or with blocks that these do not fit, is described by the kinds of its modules.
    None for models of other libraries, and for kinds of transformers' models that are not known.
    """
    backbone = plain_backbone(model)
    model_type = getattr(getattr(backbone, "config", None), "model_type", None) or ""
    names = (*(parent.__name__ for parent in type(backbone).__mro__), model_type)
    for family in (*map(BY_CLASS.get, names), BY_MODEL_TYPE.get(model_type)):
        if family is not None and family.fits(model):  # another library may use the same class name
            return family
    known = next((KNOWN_KINDS[name] for name in names if name in KNOWN_KINDS), None)
    if hasattr(backbone, "reset_classifier") or (model_type and known):
        return family_by_kind(model, _timm_heads(model) or _named_heads(model), known)
    return None


def block_names(model: nn.Module) -> list[str]:
    """Return the full names of the blocks, in order and through all stages.

    The blocks of a timm model of no family are the groups that timm makes of its layers. Elsewhere they are the members
    of every outermost list of like modules that have modules of their own.
    """
    if family := family_of(model):
        return _matching(model, family.blocks())
    return [item.name for item in blocks_of(model)]


def stage_depth(model: nn.Module) -> int:
    """Return the number of blocks, of the longest stage if there are several."""
    stages = Counter(name.rpartition(".")[0] for name in block_names(model))
    return max(stages.values(), default=0)


def module_names(model: nn.Module, part: str, layers: Sequence[int] | None = None) -> list[str]:
    """Return the full names of the modules of one part, in the order of the model; none if it has no such part.

    Args:
        model: A model of any family; of an unknown one only blocks and heads are found.
        part: One of `PARTS`.
        layers: Only in the blocks with these indices (in Swin and ResNet, of each stage); None for all. Modules outside
            the blocks are found in any case.

    Raises:
        RLRRError: there is no part of this name, or the model has no block of that index.
    """
    if part not in PARTS:
        raise RLRRError(f"There is no part {part!r}: parts are {', '.join(PARTS)}.{did_you_mean(part, PARTS)}")
    if part == "head":
        return classifier_names(model)
    family = family_of(model)
    if family is None:
        names = block_names(model) if part == "block" else []
        return [name for name in names if layers is None or _index(name) in layers]
    check_layers(model, family, layers)
    index = r"\d+" if layers is None else "(?:" + "|".join(map(str, layers)) + ")"
    paths = family.paths(part, index)
    return _matching(model, re.compile(family.prefix + "(?:" + "|".join(paths) + ")")) if paths else []


def default_targets(model: nn.Module) -> list[str]:
    """Return the full names of the modules that the family's default adapts; none for an unknown family."""
    return [item.name for item in _default_targets(model)]


def block_linears(model: nn.Module) -> list[str] | str:
    """Return the full names of all linears (in a ResNet: convolutions) among the default targets.

    For an unknown family, return PEFT's "all-linear".
    """
    family = family_of(model)
    kind = nn.Conv2d if family and family.convolutions == "rescale" else nn.Linear
    return [item.name for item in _default_targets(model) if isinstance(item.module, kind)] or "all-linear"


def classifier_names(model: nn.Module) -> list[str]:
    """Return the full names of the modules of the classifiers that hold weights.

    The classifiers are those that timm names, else those of the family. A classifier of several modules, such as a norm
    and a linear, is named module by module, as PEFT takes back only modules with a weight. A BatchNorm in it stays as
    it is: its statistics are no trained tensors.
    """
    if hasattr(plain_backbone(model), "get_classifier"):
        return _timm_heads(model)
    family = family_of(model)
    modules = dict(model.named_modules())
    return [
        path for name in (family.heads if family else ()) if name in modules for path in _weighted(name, modules[name])
    ]


def call_fused_linears(model: nn.Module) -> None:
    """Make BEiT, EVA-02 and Swin V2 call their fused qkv as a module, instead of reading its weight directly."""
    for module in model.modules():
        if hasattr(module, "qkv_bias_separate"):
            setattr(module, "qkv_bias_separate", True)  # noqa: B010 - typed as a module; the output is the same


def prefix_tokens(model: nn.Module) -> int:
    """Return the number of tokens that stand before the patches: class, distillation and register tokens."""
    count: Any = getattr(plain_backbone(model), "num_prefix_tokens", None)
    if count is not None:
        return int(count)
    tokens = (value for name, value in model.named_parameters() if name.rpartition(".")[2] in PREFIX_PARAMETERS)
    return sum(token.shape[1] if token.dim() > 1 else 1 for token in tokens)  # CLIP's is one vector


def patch_size(model: nn.Module) -> tuple[int, int] | None:
    """Return height and width of a patch in pixels; None if the model has no patches, or their size is not known."""
    backbone = plain_backbone(model)
    embedding, config = getattr(backbone, "patch_embed", None), getattr(backbone, "config", None)
    while isinstance(wrapped := getattr(embedding, "base_layer", None), nn.Module):
        embedding = wrapped
    size: Any = getattr(embedding, "patch_size", None) or getattr(config, "patch_size", None)
    if not size:
        return None
    height, width = (size, size) if isinstance(size, int) else size
    return int(height), int(width)


def patch_count(model: nn.Module, height: int, width: int) -> int | None:
    """Return the number of patches into which a model cuts an image of this size; None if it is not known."""
    size = patch_size(model)
    return None if size is None else math.prod((height // size[0], width // size[1]))


def block_name(name: str) -> str | None:
    """Return the name of the block that a module lies in, by the module's own full name; None outside the blocks."""
    match = BLOCK_NAME.search(name)
    return name[: match.end()] if match else None


def module_kind(name: str) -> str:
    """Return one word for a module by its full name: "q", "k", "v", "proj", "fc1", "fc2", "patch_embed", "stem", ….

    The word is the same in every block and every family. A module of unknown kind gets the last word of its name.
    """
    block = block_name(name)
    path = name if block is None else name[len(block) + 1 :]
    if block is None and path.split(".")[0] == "conv1":  # the stem of a ResNet; its blocks have a conv1 too
        return "stem"
    for ending, kind in KINDS.items():
        if f".{path}".endswith(f".{ending}"):
            return kind
    words = [word for word in path.split(".") if not word.isdigit()]
    return words[-1] if words else path


def stacked_projections(name: str) -> tuple[str, ...]:
    """Return the kinds of the projections that a linear of this name stacks row by row; none for a plain linear."""
    return ("q", "k", "v") if STACKED.fullmatch(name) else ()


def is_position_table(name: str) -> bool:
    """Tell whether a tensor of this name is a table of positions."""
    return POSITIONS.search(name) is not None


def is_resized(name: str) -> bool:
    """Tell whether a tensor of this name, in a timm model, changes its size with the image size."""
    return RESIZED.search(name) is not None


def _matching(model: nn.Module, pattern: re.Pattern[str]) -> list[str]:
    """Return the full names of the modules whose plain names match, without placeholders."""
    return [
        item.name
        for item in walk(model)
        if pattern.fullmatch(item.plain_name) and not isinstance(item.module, nn.Identity)
    ]


def _index(block: str) -> int | None:
    """Return the index of a block by its name."""
    digits = re.search(r"\d+$", block)
    return int(digits[0]) if digits else None


def _default_targets(model: nn.Module) -> list[NamedModule]:
    family = family_of(model)
    if family is None:
        return []
    pattern = re.compile(family.target_modules(model))
    return [item for item in walk(model) if pattern.fullmatch(item.plain_name)]


def _timm_heads(model: nn.Module) -> list[str]:
    """Return the full names of the modules with weights in the classifiers of timm, with VOLO's second one."""
    backbone: Any = plain_backbone(model)
    if not hasattr(backbone, "get_classifier"):
        return []
    try:
        classifier = backbone.get_classifier()
    except AttributeError:  # of EfficientViT and SHViT without classes, whose head holds no linear then
        return []
    heads = [*(classifier if isinstance(classifier, tuple) else (classifier,)), getattr(backbone, "aux_head", None)]
    found = [(name, module) for name, module in model.named_modules() if any(module is head for head in heads)]
    return [path for name, module in found for path in _weighted(name, module)]


def _named_heads(model: nn.Module) -> list[str]:
    return [name for name, _ in model.named_children() if name in HEADS]


def _weighted(name: str, module: nn.Module) -> list[str]:
    """Return the names of the outermost modules with weights of their own, in a classifier."""
    if isinstance(module, _BatchNorm):
        return []
    if hasattr(module, "modules_to_save") or next(module.parameters(recurse=False), None) is not None:
        return [name]
    return [path for child, inner in module.named_children() for path in _weighted(f"{name}.{child}", inner)]
