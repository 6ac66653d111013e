"""The description of a model family's anatomy, and the search for its modules in a model, plain or adapted."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from torch import nn

from rlrr.backbones.kinds import kind_of
from rlrr.errors import RLRRError, did_you_mean

PARTS = {
    "block": "each block as one module",
    "attn": "all projections of the attention",
    "attn.module": "the attention as one module",
    "attn.qkv": "the projections to queries, keys and values, fused or not",
    "attn.proj": "the projection after the attention",
    "attn_norm": "the norm before the attention",
    "mlp": "all linears of the MLP",
    "mlp.module": "the MLP as one module",
    "mlp.fc1": "the linear or linears into the hidden layer of the MLP",
    "mlp.fc2": "the linear out of the hidden layer of the MLP",
    "mlp_norm": "the norm before the MLP",
    "norm": "the norms of the blocks and the final norm",
    "final_norm": "the norm after the last block",
    "patch_embed": "the convolution that embeds the patches",
    "downsample": "the projections between the stages, or beside a block",
    "conv": "the convolutions of the blocks",
    "stem": "the convolutions before the first block",
    "head": "the classifiers",
}
"""Names of the parts of a model, each with its meaning. No family has all of them."""

WHOLE = ("block", "attn.module", "mlp.module")
"""Parts that are modules with modules inside; every other part holds linears, norms and convolutions."""

# In some models of a family a part is one of these, with nothing to adapt.
NEVER_ADAPTED = (nn.Identity, nn.Sequential, nn.AvgPool2d, nn.BatchNorm2d, nn.GroupNorm)


class NamedModule(NamedTuple):
    """A module of the model itself, whether or not a tuner wraps it."""

    name: str
    """Full name: "blocks.0.base_layer.attn.qkv"."""
    plain_name: str
    """Full name in the model without adapters: "blocks.0.attn.qkv"."""
    module: nn.Module
    """The module that a tuner wraps, if one does: never the tuner's own layer."""


@dataclass(frozen=True)
class Family:
    """Anatomy of one family of backbones: a regex of full names for each part that its models may have."""

    block: str
    """Regex of the name of a block, with `{index}` for its index."""
    modules: Mapping[str, tuple[str, ...]]
    """Regexes by part, of `PARTS` without "block" and "head"; `{block}` stands for the name of a block."""
    adapted: tuple[str, ...]
    """Parts that are adapted by default: together all linears or convolutions and, of a transformer, the norms."""
    inside: tuple[str, ...] = ()
    """Names that the backbone may have inside a model with a classifier."""
    heads: tuple[str, ...] = ()
    """Full names of the classifiers in models without `get_classifier`."""
    fused_blocks: Mapping[str, int] = field(default_factory=dict)
    """Number of projections stacked in one linear, by the linear's name; each gets input vectors of its own."""
    convolutions: Literal["scale", "rescale"] = "scale"
    """Whether convolutions gain a scale and a shift of their output, or their kernels are rescaled as linears are."""
    sequence: bool = False
    """Whether a block takes (batch, prefix tokens and patches, features) and has no table of positions inside."""
    generic: bool = False
    """Whether the parts are told from the kinds of modules of a model that nobody has looked at."""

    @property
    def prefix(self) -> str:
        """Regex of the name that may stand before all others."""
        return f"(?:(?:{'|'.join(self.inside)})\\.)?"

    def blocks(self, index: str = r"\d+") -> re.Pattern[str]:
        """Return the pattern of the names of blocks whose index matches a regex."""
        return re.compile(self.prefix + self.block.replace("{index}", index))

    def paths(self, part: str, index: str = r"\d+") -> list[str]:
        """Return the regexes of a part, without the prefix, in blocks whose index matches a regex."""
        regexes = (self.block,) if part == "block" else self.modules.get(part, ())
        return [regex.replace("{block}", self.block).replace("{index}", index) for regex in regexes]

    def target_modules(
        self, model: nn.Module, layers: Sequence[int] | None = None, parts: Sequence[str] | None = None
    ) -> str:
        """Return one regex of the full names of all modules to adapt in `model`.

        Args:
            model: A model of this family.
            layers: Adapt only the blocks with these indices (in Swin and ResNet, of each stage).
            parts: Adapt only these parts; None for the family's default.

        Raises:
            RLRRError: the model has no block of that index, or no such part.
        """
        modules = [(item.plain_name, item.module) for item in walk(model)]

        def present(part: str, index: str) -> list[str]:
            names = [name for name, module in modules if part in WHOLE or kind_of(module)]
            return [path for path in self.paths(part, index) if any(re.fullmatch(self.prefix + path, n) for n in names)]

        check_layers(model, self, layers)
        known = dict.fromkeys((*self.adapted, *self.modules, "block"))
        available = [part for part in known if present(part, r"\d+")]
        for part in parts or ():
            if part not in available:
                raise RLRRError(
                    f"parts names {part!r}, which this {type(model).__name__} does not have: it has "
                    f"{', '.join(available)}.{did_you_mean(part, available)}"
                )
        chosen = [part for part in available if part in (self.adapted if parts is None else parts)]
        index = r"\d+" if layers is None else "(?:" + "|".join(map(str, layers)) + ")"
        regex = self.prefix + "(?:" + "|".join(path for part in chosen for path in present(part, index)) + ")"
        if set(chosen) & set(WHOLE):
            return regex
        hits = [(name, kind_of(module)) for name, module in modules if re.fullmatch(regex, name)]
        # in some block a module of this name may be of a kind that cannot be adapted
        return regex if all(kind for _, kind in hits) else regex_of([name for name, kind in hits if kind])

    def fits(self, model: nn.Module) -> bool:
        """Tell whether the default adapts something in every block of `model`, and nothing that cannot be adapted."""
        regex = self.prefix + "(?:" + "|".join(path for part in self.adapted for path in self.paths(part)) + ")"
        modules = [(item.plain_name, item.module) for item in walk(model)]
        blocks = [name for name, _ in modules if self.blocks().fullmatch(name)]
        hits = [
            (n, module) for n, module in modules if re.fullmatch(regex, n) and not isinstance(module, NEVER_ADAPTED)
        ]
        # a module that PEFT trains whole stands in a wrapper
        names = [name for name, module in hits if kind_of(getattr(module, "original_module", module))]
        in_every_block = all(any(name.startswith(f"{block}.") for name in names) for block in blocks)
        return bool(blocks) and len(names) == len(hits) and in_every_block


def check_layers(model: nn.Module, family: Family, layers: Sequence[int] | None) -> None:
    """Refuse an index that no block of `model` has.

    Raises:
        RLRRError: there is no such block.
    """
    for layer in layers or ():
        pattern = family.blocks(str(layer))
        if not any(pattern.fullmatch(item.plain_name) for item in walk(model)):
            raise RLRRError(f"layers_to_transform names block {layer}: this {type(model).__name__} has no such block.")


def regex_of(names: Sequence[str]) -> str:
    """Write a regex of exactly these module names."""
    return "(?:" + "|".join(map(re.escape, names)) + ")"


def plain_backbone(model: nn.Module) -> nn.Module:
    """Return the timm model inside transformers' TimmWrapper; any other model as it is."""
    backbone = getattr(model, "timm_model", model)
    return backbone if isinstance(backbone, nn.Module) else model


def walk(model: nn.Module) -> Iterator[NamedModule]:
    """Yield every module of a model in the order of `named_modules`, looking through layers of PEFT tuners.

    A tuner's layer stands for the module that it wraps. What the tuner adds beside that module is left out.
    """
    visited: set[nn.Module] = set()
    backbone = plain_backbone(model)  # no wrapper, although timm's DLA calls its stem base_layer

    def visit(name: str, plain_name: str, module: nn.Module) -> Iterator[NamedModule]:
        if module in visited:
            return
        outer_name = name
        while module is not backbone and isinstance(wrapped := getattr(module, "base_layer", None), nn.Module):
            name, module = f"{name}.base_layer", wrapped
        visited.add(module)
        yield NamedModule(outer_name, plain_name, module)
        for child_name, child in module.named_children():
            yield from visit(f"{name}.{child_name}".lstrip("."), f"{plain_name}.{child_name}".lstrip("."), child)

    yield from visit("", "", model)
