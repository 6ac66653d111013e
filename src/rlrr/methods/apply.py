"""The ways to fine-tune, each a function that makes a model trainable in its way.

Ours are PEFT tuners; what PEFT has is used from PEFT.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from peft import LoraConfig, get_peft_model
from peft.tuners.tuners_utils import NoMatchingPeftModuleError
from torch import nn

from rlrr.backbones.families import block_linears, call_fused_linears, classifier_names
from rlrr.errors import RLRRError, UsageError, did_you_mean
from rlrr.tuners import RLRRConfig


@dataclass(frozen=True)
class Method:
    """One way to fine-tune.

    Attributes:
        title: What tables and legends call it.
        summary: What is trained, in one sentence.
        learning_rate: Peak rate of AdamW when the recipe names none.
        rank: Rank when the recipe names none; None for a method that has none.
        apply: From a backbone with its classifier, a rank, a regex of modules and the settings that the user gave to
            the model to train.
        settings: Names of the further settings it has.
    """

    title: str
    summary: str
    learning_rate: float
    rank: int | None
    apply: Callable[..., nn.Module]
    settings: tuple[str, ...] = ()


def _rlrr(model: nn.Module, rank: int, targets: str | None, **settings: Any) -> nn.Module:
    heads = classifier_names(model) if targets else None
    config = RLRRConfig(rank=rank, target_modules=targets, modules_to_save=heads, **settings)
    return get_peft_model(model, config)


def _lora(model: nn.Module, rank: int, targets: str | None) -> nn.Module:
    heads = classifier_names(model)
    config = LoraConfig(r=rank, lora_alpha=rank, target_modules=targets or block_linears(model), modules_to_save=heads)
    return get_peft_model(model, config)


def _linear(model: nn.Module, rank: int, targets: str | None) -> nn.Module:
    heads = tuple(f"{name}." for name in classifier_names(model))
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith(heads))
    return model


def _full(model: nn.Module, rank: int, targets: str | None) -> nn.Module:
    return model.requires_grad_(True)


_METHODS = {
    "rlrr": Method(
        "RLRR",
        "Residual-based low-rank rescaling of every linear; scale and shift after norms and patch embedding.",
        5e-3,
        1,
        _rlrr,
        (
            "sides",
            "residual",
            "multiply_weight",
            "shift",
            "parts",
            "layers_to_transform",
            "init_weights",
            "gradient_tokens",
        ),
    ),
    "linear": Method("Linear probe", "The classifier alone, on the frozen backbone.", 1e-2, None, _linear),
    "full": Method("Full fine-tuning", "Every weight.", 5e-5, None, _full),
    "lora": Method("LoRA", "A low-rank term beside every linear of the blocks (PEFT's LoRA).", 1e-3, 8, _lora),
}


def methods() -> dict[str, Method]:
    """All methods by the name they have on the command line."""
    return dict(_METHODS)


def apply_method(
    model: nn.Module, method: str, rank: int | None = None, target_modules: str | None = None, **settings: Any
) -> nn.Module:
    """Make a backbone with its classifier trainable by one of `methods()`.

    Args:
        model: A backbone; it is changed in place.
        method: Its name.
        rank: Rank of the update; None for the method's own.
        target_modules: Regex of the full names of the modules to adapt; None for the default of the model's family.
        settings: Further settings of the method, for rlrr fields of `RLRRConfig`; None for the default.

    Raises:
        RLRRError: there is no such method or it has no such setting, the settings do not go together, or there is no
            module to adapt.
    """
    if method not in _METHODS:
        raise UsageError(f"There is no method {method!r}.{did_you_mean(method, _METHODS)}")
    chosen = _METHODS[method]
    given = {name: value for name, value in settings.items() if value is not None}
    if unknown := [name for name in given if name not in chosen.settings]:
        owners = [other for other, its in _METHODS.items() if unknown[0] in its.settings]
        hint = f": only {', '.join(owners)} has it." if owners else f".{did_you_mean(unknown[0], chosen.settings)}"
        raise UsageError(f"{method} has no setting {unknown[0]}{hint}")
    call_fused_linears(model)
    try:
        return chosen.apply(model, rank or chosen.rank or 0, target_modules, **given)
    except NoMatchingPeftModuleError as error:
        raise UsageError(
            f"{method} finds nothing to adapt in this {type(model).__name__}: say what with --target_modules, a regex "
            "of full module names.",
        ) from error
    except RLRRError as error:  # settings that do not go together, or not with this model
        raise UsageError(str(error)) from error
