"""The anatomy of a model told from its blocks and the kinds of its modules, where no family describes it by name."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from rlrr.backbones.anatomy import Family, NamedModule, plain_backbone, walk
from rlrr.backbones.family_table import (
    ATTENTION,
    BETWEEN_STAGES,
    LISTS_OF_BLOCKS,
    MLP,
    NOT_OF_IMAGES,
    PATCHES,
    STAGE,
    KnownKind,
)
from rlrr.backbones.kinds import kind_of


def family_by_kind(model: nn.Module, heads: Sequence[str], known: KnownKind | None = None) -> Family | None:
    """Describe a model by the kinds of its modules; None if it has nothing that can be adapted.

    In the blocks every linear, norm and convolution belongs to a part; outside them the norms, the convolutions, and
    the linears that embed patches or stand between stages.

    Args:
        model: A model, plain or adapted.
        heads: Plain names of the classifiers, which belong to no part.
        known: What is known of models of this class; None if nobody has looked at them.
    """
    inside = _names_inside(model)
    prefix = f"{inside[0]}." if inside else ""
    modules = {item.plain_name.removeprefix(prefix): item.module for item in walk(model)}
    plain_heads = {name.removeprefix(prefix) for name in heads}
    blocks = {item.plain_name.removeprefix(prefix) for item in blocks_of(model)}
    in_blocks: dict[str, dict[str, None]] = defaultdict(dict)  # parts with the names of their modules in a block
    elsewhere: dict[str, list[str]] = defaultdict(list)
    kinds = set()
    left_out = re.compile(known.left_out) if known and known.left_out else None
    for name, module in modules.items():
        parents = _parents(name)
        if NOT_OF_IMAGES.search(name) or plain_heads.intersection(parents) or (left_out and left_out.search(name)):
            continue
        block = next((parent for parent in parents if parent in blocks), None)
        path = name if block is None else name.removeprefix(f"{block}.")
        if kind := kind_of(module):
            part = _part_outside(path, kind, bool(blocks)) if block is None else _part_inside(path, kind)
            kinds.add(kind if block or not blocks else None)
        else:
            part = "mlp.module" if block is not None and _is_mlp(path, module) else None
        if part and block is None:
            elsewhere[part].append(name)
        elif part:
            in_blocks[part][path] = None
    adapted = [part for part in (*in_blocks, *elsewhere) if "." not in part]
    if not adapted:
        return None
    return Family(
        inside=tuple(inside),
        block=_block_regex(blocks, modules),
        modules=dict(known.parts if known else {})
        | {
            part: (
                *([rf"{{block}}\.(?:{_alternatives(list(in_blocks[part]))})"] if part in in_blocks else ()),
                *map(re.escape, elsewhere.get(part, ())),
            )
            for part in dict.fromkeys((*in_blocks, *elsewhere))
        },
        adapted=tuple(dict.fromkeys(adapted)),
        heads=tuple(heads),
        fused_blocks=known.fused_blocks if known else {},
        sequence=known is not None and known.sequence,
        convolutions="scale" if "linear" in kinds else "rescale",
        generic=known is None,
    )


def blocks_of(model: nn.Module) -> list[NamedModule]:
    """Find the blocks: the groups that a timm model makes of its layers, else the members of its lists.

    Where a group is a stage with a list of blocks, the blocks are those of the list.
    """
    modules = list(walk(model))
    if patterns := _timm_blocks(model):
        blocks = [
            item
            for item in modules
            if any(pattern.fullmatch(item.plain_name) for pattern in patterns) and any(item.module.children())
        ]
    else:
        blocks = _members_of_lists(modules)
    return [inner for block in blocks for inner in _inner_blocks(block, modules)]


def _inner_blocks(block: NamedModule, modules: Sequence[NamedModule]) -> list[NamedModule]:
    """Give the members of the list of blocks in a stage; a block itself otherwise."""
    if STAGE.search(block.plain_name) is None:
        return [block]
    inner = [
        member
        for name, child in block.module.named_children()
        if LISTS_OF_BLOCKS.fullmatch(name) and isinstance(child, (nn.Sequential, nn.ModuleList))
        for member in _members(f"{block.plain_name}.{name}.", modules)
        if any(member.module.children())
    ]
    return inner or [block]


def _timm_blocks(model: nn.Module) -> list[re.Pattern[str]]:
    """Return patterns of the names of blocks, from the groups that a timm model makes of its layers.

    In the result of `group_matcher`, a regex has a suffix where it puts a module into the group of a neighbour.
    """
    group_matcher: Any = getattr(plain_backbone(model), "group_matcher", None)
    groups = group_matcher() if group_matcher is not None else None
    if not isinstance(groups, Mapping):
        return []
    prefix = re.escape("timm_model.") if plain_backbone(model) is not model else ""
    regexes: list[str] = []
    for group, rules in groups.items():
        if group.startswith("stem") or rules is None:
            continue
        for regex, suffix in [(rules, None)] if isinstance(rules, str) else rules:
            if suffix is None and re.compile(regex).groups:  # the groups of the regex are indices
                regexes.append(regex)
    return [re.compile(prefix + regex.removeprefix("^")) for regex in regexes]


def _members_of_lists(modules: Sequence[NamedModule]) -> list[NamedModule]:
    """Return the members of every outermost list of like modules that have modules of their own."""
    blocks: list[NamedModule] = []
    for item in modules:
        inside_a_block = item.plain_name.startswith(tuple(f"{block.plain_name}." for block in blocks))
        if inside_a_block or not isinstance(item.module, (nn.Sequential, nn.ModuleList)):
            continue
        members = _members(f"{item.plain_name}." if item.plain_name else "", modules)
        named = LISTS_OF_BLOCKS.fullmatch(item.plain_name.rpartition(".")[2]) is not None
        alike = len(members) > (0 if named else 1) and len({type(member.module) for member in members}) == 1
        if alike and all(any(member.module.children()) for member in members):
            blocks += members
    return blocks


def _members(prefix: str, modules: Sequence[NamedModule]) -> list[NamedModule]:
    return [
        item
        for item in modules
        if item.plain_name.startswith(prefix) and item.plain_name and "." not in item.plain_name.removeprefix(prefix)
    ]


def _names_inside(model: nn.Module) -> list[str]:
    """Name the backbone inside a model with a classifier: of transformers' TimmWrapper, or of transformers itself."""
    if plain_backbone(model) is not model:
        return ["timm_model"]
    name = getattr(model, "base_model_prefix", "")
    return [name] if name else []


def _parents(name: str) -> list[str]:
    """List a name and the names of the modules that it lies in, the outermost first."""
    words = name.split(".")
    return [".".join(words[:count]) for count in range(1, len(words) + 1)]


def _part_inside(path: str, kind: str) -> str:
    if kind == "linear":
        return "attn" if ATTENTION.search(path) else "mlp"
    return kind


def _part_outside(name: str, kind: str, has_blocks: bool) -> str | None:
    if not has_blocks:
        return "mlp" if kind == "linear" else kind
    if kind == "norm":
        return kind
    if BETWEEN_STAGES.search(name):
        return "downsample"
    if PATCHES.search(name):
        return "patch_embed"
    return "stem" if kind == "conv" else None


def _is_mlp(path: str, module: nn.Module) -> bool:
    """Tell whether a module in a block is an MLP whose features stand in the last dimension."""
    return MLP.search(path) is not None and any(kind_of(inner) == "linear" for inner in module.children())


def _block_regex(blocks: set[str], modules: Mapping[str, nn.Module]) -> str:
    """Write a regex of the names of blocks, with `{index}` for the last number in a name."""
    if not blocks:
        return r"(?!)"
    general = {re.sub(r"\d+(?!.*\d)", "{index}", re.escape(name)) for name in blocks}
    wide = {re.sub(r"\d+", r"\\d+", name) for name in general}
    for choice in (wide, general):
        regex = _group(choice)
        matched = {name for name in modules if re.fullmatch(regex.replace("{index}", r"\d+"), name)}
        if matched == blocks:
            return regex
    return _group({re.escape(name) for name in blocks})


def _group(regexes: set[str]) -> str:
    return regexes.copy().pop() if len(regexes) == 1 else "(?:" + "|".join(sorted(regexes)) + ")"


def _alternatives(paths: Sequence[str]) -> str:
    return "|".join(map(re.escape, paths))
