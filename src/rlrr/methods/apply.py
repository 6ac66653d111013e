"""Make a model trainable by a method of `METHODS`: PEFT's `get_peft_model`, or a choice of the model's own weights."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import fields
from importlib import import_module
from importlib.metadata import version
from typing import Any, get_type_hints

from peft import PeftConfig, get_peft_model
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from peft.tuners.tuners_utils import NoMatchingPeftModuleError
from torch import nn

from rlrr.backbones.anatomy import regex_of
from rlrr.backbones.families import block_linears, call_fused_linears, classifier_names, module_names
from rlrr.backbones.weights import brief
from rlrr.errors import RLRRError, UsageError, did_you_mean, shown
from rlrr.hints import expected, fits, is_plain
from rlrr.methods.table import Method, find_method
from rlrr.tuners.targets import check_entries


def apply_method(model: nn.Module, method: str, settings: Mapping[str, Any] | None = None) -> nn.Module:
    """Make a backbone with its classifier trainable by a method, with the classifier trained too.

    Example:
        >>> from rlrr.backbones import load_backbone
        >>> backbone = load_backbone("vit_small_focus", num_classes=10)
        >>> model = apply_method(backbone.model, "rlrr", {"rank": 2})

    Args:
        model: A backbone; it is changed in place.
        method: A name in `rlrr.methods.table.METHODS`, or "peft:TYPE".
        settings: Fields of the method's config; `rlrr methods NAME` lists them.

    Raises:
        RLRRError: there is no such method or it has no such setting, the settings do not go together, or there is no
            module to adapt.
    """
    config: Any = method_config(method, settings)
    if config is None:
        return _train_selection(model, find_method(method))
    call_fused_linears(model)
    if config.modules_to_save is None:
        config.modules_to_save = classifier_names(model) or None
    try:
        if type(config).__module__.startswith("peft."):  # ours look themselves
            if config.target_modules is None:
                _choose_targets(config, model, find_method(method).parts)
            check_entries(config, model)
        return get_peft_model(model, config)
    except NoMatchingPeftModuleError as error:
        raise UsageError(
            f"{method} finds nothing to adapt in this {type(model).__name__}: choose modules with the setting "
            "target_modules, a regex of full module names.",
        ) from error
    except RLRRError as error:  # settings that do not go with this model
        raise UsageError(str(error)) from error
    except Exception as error:  # PEFT refuses some settings only here, and each in its own way
        given = ", ".join(f"{name}={value}" for name, value in (settings or {}).items())
        by = f"the settings {given}" if given else "its default settings"
        raise UsageError(f"{method} cannot be applied with {by}: {brief(error)}.") from error


def method_config(method: str, settings: Mapping[str, Any] | None = None) -> PeftConfig | None:
    """Build the config of a method from its defaults and some settings; None for a method without a config.

    Raises:
        UsageError: there is no such method or setting, or a value is wrong.
    """
    kind, given = config_type(method), dict(settings or {})
    if kind is None:
        if given:
            raise UsageError(f"{method} has no settings: leave {', '.join(given)} out.", option="settings")
        return None
    known = setting_hints(kind)
    for name, value in given.items():
        if name not in known:
            raise UsageError(f"{method} has no setting {name}.{did_you_mean(name, known)}", option="settings")
        if not fits(value, known[name]) or value != value:  # NaN
            words, choices = expected(known[name])
            near = did_you_mean(str(value), choices)
            raise UsageError(f"{name} of {method} must be {words}, not {shown(value)}.{near}", option="settings")
    try:
        return kind(**deepcopy(dict(find_method(method).defaults) | given))
    except (RLRRError, ValueError, TypeError) as error:
        raise UsageError(str(error), option="settings") from error


def config_type(method: str) -> type[PeftConfig] | None:
    """Import the config class of a method; None for a method without one.

    Raises:
        UsageError: there is no such method, or this PEFT does not have it.
    """
    if (path := find_method(method).config) is None:
        return None
    module, _, name = path.partition(":")
    if not name.isupper():
        return getattr(import_module(module), name)
    kinds = {
        str(kind.value): config
        for kind, config in PEFT_TYPE_TO_CONFIG_MAPPING.items()
        if config.__module__.startswith("peft.")
    }
    if name not in kinds:
        near = did_you_mean(name.lower(), [kind.lower() for kind in kinds])
        raise UsageError(f"method {method} is unknown to PEFT {version('peft')}.{near}", option="method")
    return kinds[name]


def setting_hints(kind: type[PeftConfig]) -> dict[str, Any]:
    """Give the type hints of a config's own settings that YAML can hold, without PEFT's fields of every config."""
    bookkeeping = {field.name for field in fields(PeftConfig)}
    hints = get_type_hints(kind)
    names = [field.name for field in fields(kind) if field.init and not field.metadata.get("recorded")]
    return {name: hints[name] for name in names if name not in bookkeeping and is_plain(hints[name])}


def _train_selection(model: nn.Module, method: Method) -> nn.Module:
    """Train the classifier alone ("head") or every weight ("everything")."""
    heads = tuple(f"{name}." for name in classifier_names(model))
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(method.select == "everything" or name.startswith(heads))
    return model


def _choose_targets(config: Any, model: nn.Module, parts: tuple[str, ...]) -> None:
    """Let a config of PEFT adapt these parts; if none is named all linears of the blocks (in a ResNet: convolutions).

    They are a set, as PEFT keeps a list of targets; a regex where PEFT would take other modules of a longer name too,
    as "patch_embed.norm" for "norm"; or "all-linear" for a model of no known family. PEFT does not look at
    `layers_to_transform` where targets are full names, so that the blocks are chosen here.
    """
    names = [name for part in parts for name in module_names(model, part)] if parts else block_linears(model)
    if isinstance(names, str):
        config.target_modules = names
        return
    if (layers := getattr(config, "layers_to_transform", None)) is not None:
        blocks = module_names(model, "block", [layers] if isinstance(layers, int) else layers)
        names = [name for name in names if any(name.startswith(f"{block}.") for block in blocks)]
        config.layers_to_transform = config.layers_pattern = None
    ends = tuple(f".{name}" for name in names)
    more = [name for name, _ in model.named_modules() if name.endswith(ends) and name not in names]
    config.target_modules = regex_of(names) if more else set(names)
