"""Entries of a config that name modules: each must find one, as a misspelt entry would be dropped without a word."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterable, Iterator
from copy import copy
from typing import Any

from peft import PeftConfig
from peft.tuners.tuners_utils import BaseTunerLayer, check_target_module_exists
from torch import nn

from rlrr.errors import RLRRError, did_you_mean

# Words of a regex that stand in a group as alternatives, as in "blocks.*(qkv|proj)".
_ALTERNATIVES = re.compile(r"\((?:\?:)?([\w\\.]+(?:\|[\w\\.]+)+)\)")


def targeted(config: PeftConfig, model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield the full name and the module of all that a config adapts in a model.

    Args:
        config: Settings with `target_modules`, of a PEFT tuner.
        model: A model, without adapters or with some already.
    """
    modules = _own_modules(model)
    yield from ((name, module) for name, module in modules.items() if check_target_module_exists(config, name))


def check_entries(config: PeftConfig, model: nn.Module) -> None:
    """Refuse names in a config that no module of a model has; a loaded adapter's config is warned of only.

    The alternatives of a regex are looked at one by one, and warned of. Where nothing at all is found to adapt, PEFT
    has an error of its own.

    Args:
        config: Settings of a PEFT tuner, ours or PEFT's, as the user gave them.
        model: The model that is to be adapted.

    Raises:
        RLRRError: naming the entry and the nearest name.
    """
    names = list(_own_modules(model))
    targets: Any = getattr(config, "target_modules", None)
    if isinstance(targets, (list, set, tuple)):
        dead = _dead(targets, names, _ends_with)
        if len(dead) < len(targets):
            _tell(config, "target_modules", dead, names)
    elif isinstance(targets, str):
        for word in _dead_alternatives(targets, names):
            warnings.warn(_sentence("target_modules", word, names), stacklevel=2)
    for setting in ("exclude_modules", "feedforward_modules"):
        entries = getattr(config, setting, None)
        if isinstance(entries, (list, set, tuple)):
            _tell(config, setting, _dead(entries, names, _ends_with), names)
    to_save: Any = getattr(config, "modules_to_save", None)
    _tell(config, "modules_to_save", _dead(to_save or (), names, str.endswith), names)
    _check_layers(config, names)


def check_patterns(setting: str, patterns: Iterable[str], model: nn.Module) -> None:
    """Warn of patterns of PEFT's `get_pattern_key` that match no module of a model, and name the nearest."""
    names = list(_own_modules(model))
    for pattern in _dead(patterns, names, lambda name, pattern: re.match(rf"(.*\.)?({pattern})$", name) is not None):
        warnings.warn(_sentence(setting, pattern, names), stacklevel=2)


def _check_layers(config: Any, names: list[str]) -> None:
    """Refuse indices of blocks in which nothing is adapted, and names of lists of blocks that are none."""
    if not isinstance(getattr(config, "target_modules", None), (list, set)):
        return  # with default targets the families look at the indices
    indices = getattr(config, "layers_to_transform", None)
    patterns = getattr(config, "layers_pattern", None) or []
    patterns = [patterns] if isinstance(patterns, str) else patterns
    _tell(
        config,
        "layers_pattern",
        _dead(patterns, names, lambda name, pattern: re.match(rf"(?:^|.*?\.){pattern}\.\d+\.", name) is not None),
        names,
    )
    for index in [indices] if isinstance(indices, int) else indices or []:
        one, every = copy(config), copy(config)
        one.layers_to_transform, every.layers_to_transform = [index], list(range(len(names)))
        if any(check_target_module_exists(one, name) for name in names):
            continue
        if any(check_target_module_exists(every, name) for name in names):  # else PEFT says that nothing is found
            _raise_or_warn(config, f"layers_to_transform names block {index}, in which target_modules finds nothing.")


def _own_modules(model: nn.Module) -> dict[str, nn.Module]:
    """List the modules of a model by full name, without what stands inside adapted layers."""
    modules = dict(model.named_modules())
    layers = tuple(f"{name}." for name, module in modules.items() if isinstance(module, BaseTunerLayer))
    return {name: module for name, module in modules.items() if name and not name.startswith(layers)}


def _ends_with(name: str, entry: str) -> bool:
    return name == entry or name.endswith(f".{entry}")


def _dead(entries: Iterable[str], names: list[str], matches: Callable[[str, str], bool]) -> list[str]:
    return [entry for entry in sorted(entries) if not any(matches(name, entry) for name in names)]


def _dead_alternatives(pattern: str, names: list[str]) -> Iterator[str]:
    for group in _ALTERNATIVES.finditer(pattern):
        for word in group[1].split("|"):
            alone = re.compile(f"{pattern[: group.start()]}(?:{word}){pattern[group.end() :]}")
            if not any(alone.fullmatch(name) for name in names):
                yield word


def _tell(config: PeftConfig, setting: str, dead: list[str], names: list[str]) -> None:
    if dead:
        _raise_or_warn(config, _sentence(setting, dead[0], names))


def _sentence(setting: str, entry: str, names: list[str]) -> str:
    depth = entry.count(".") + 1
    endings = {".".join(name.split(".")[-depth:]) for name in names}
    return f"{setting} names {entry!r}, which this model has not.{did_you_mean(entry, sorted(endings))}"


def _raise_or_warn(config: PeftConfig, sentence: str) -> None:
    if not config.inference_mode:
        raise RLRRError(sentence)
    warnings.warn(sentence, stacklevel=2)
