"""Capabilities of an adapted model, asked of the model itself.

The layers of this package answer by their class attributes `mergeable`, `mixable`, `combinable`, `splittable` and
`neutral` and by the method `weight_change`. For the layers of PEFT's own tuners the answer is found out. A model
without adapter, such as a linear probe, has nothing to merge, mix, combine or split.
"""

from __future__ import annotations

import inspect
import warnings
from collections import defaultdict
from collections.abc import Callable, Mapping
from copy import deepcopy
from typing import Any

import torch
from peft import PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import AuxiliaryTrainingWrapper, ModulesToSaveWrapper
from torch import Tensor, nn

from rlrr.methods.trainable import adapter_tensors, plain_model

_BASE = "__base__"  # PEFT's name for "no adapter" in a mixed batch


def can_merge(model: nn.Module) -> bool:
    """Tell whether all that was learned can be written into the weights; true of a model without adapter."""
    return not isinstance(model, PeftModel) or _answer(model, "mergeable", _peft_merges)


def can_mix(model: nn.Module) -> bool:
    """Tell whether each sample of a batch can have an adapter of its own (PEFT's `adapter_names`)."""
    return _answer(model, "mixable", _peft_mixes)


def can_combine(model: nn.Module) -> bool:
    """Tell whether the tuner makes one adapter, with its classifier, out of several (`add_weighted_adapter`)."""
    return _answer(model, "combinable", _peft_combines)


def can_split(model: nn.Module) -> bool:
    """Tell whether each adapted layer gives its update apart from the output of its base layer."""
    return _answer(model, "splittable", lambda model, layers: False)


def learned(model: nn.Module) -> dict[str, dict[str, Tensor]]:
    """Collect the tensors of the active adapter.

    Returns:
        By name of the adapted module, "" for those that all modules share, and name of the tensor without the
        tuner's prefix, as `scale_out` or `A`. Nothing for a model without adapter.
    """
    tensors: dict[str, dict[str, Tensor]] = defaultdict(dict)
    if isinstance(model, PeftModel):
        tuner: Any = model.base_model
        for module, name, parameter in adapter_tensors(model):
            tensors[module][name.removeprefix(tuner.prefix)] = parameter.detach()
    return dict(tensors)


def neutral_values(model: nn.Module) -> dict[str, dict[str, float]]:
    """Collect the values of learned tensors that leave a model as it was, by module and name as in `learned`.

    Modules whose layers name no such value are left out.
    """
    layers = plain_model(model).named_modules()
    return {name: dict(values) for name, layer in layers if (values := _neutral_of(layer))}


def weight_change(layer: Any) -> float | None:
    """Compute the Frobenius norm of W' - W of an adapted layer under its active adapter.

    Returns:
        The norm; None if the update is no change of the layer's weight.
    """
    if hasattr(layer, "weight_change"):
        return layer.weight_change()
    merged: Any = deepcopy(layer).float()
    weight = getattr(merged.get_base_layer(), "weight", None)
    if weight is None:
        return None
    before = weight.detach().clone()
    if not _merge(merged):
        return None
    return torch.linalg.vector_norm((merged.get_base_layer().weight - before).detach(), dtype=torch.float64).item()


def _answer(model: nn.Module, attribute: str, ask_peft: Callable[[PeftModel, list[Any]], bool]) -> bool:
    """Ask all adapted layers: those with the attribute by it, the others by `ask_peft`."""
    if not isinstance(model, PeftModel):
        return False
    layers = [module for module in model.modules() if isinstance(module, BaseTunerLayer)]
    others = [layer for layer in layers if not hasattr(layer, attribute)]
    answers = [getattr(layer, attribute) for layer in layers if hasattr(layer, attribute)]
    return bool(layers) and all(answers) and (not others or ask_peft(model, others))


def _peft_merges(model: PeftModel, layers: list[Any]) -> bool:
    """Try to merge a copy of the smallest layer of each kind: some tuners have a `merge` that only raises."""
    smallest: dict[Any, Any] = {}
    for layer in sorted(layers, key=lambda layer: -sum(parameter.numel() for parameter in layer.parameters())):
        base = layer.get_base_layer()
        smallest[type(layer), type(base), getattr(base, "groups", 1), getattr(base, "bias", None) is None] = layer
    return all(_merge(deepcopy(layer)) for layer in smallest.values())


def _merge(layer: Any) -> bool:
    """Merge a layer and tell whether that worked; PEFT's layers refuse by errors of any kind."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            layer.merge()
    except Exception:
        return False
    return True


def _peft_mixes(model: PeftModel, layers: list[Any]) -> bool:
    """Look whether the tuner hands `adapter_names` to each adapted layer and classifier, and the layers take them."""
    tuner: Any = model.base_model
    if not hasattr(type(tuner), "_enable_peft_forward_hooks"):
        return False
    if not all(_takes_names(layer, model.active_adapter) for layer in layers):
        return False
    receivers = [*layers, *(module for module in model.modules() if isinstance(module, AuxiliaryTrainingWrapper))]
    counts = [len(module._forward_pre_hooks) for module in receivers]
    training, tuner.training = tuner.training, False  # in training every tuner refuses
    try:
        with tuner._enable_peft_forward_hooks(adapter_names=[_BASE]):
            return all(len(module._forward_pre_hooks) > count for module, count in zip(receivers, counts, strict=True))
    finally:
        tuner.training = training


def _takes_names(layer: Any, adapter: str) -> bool:
    """Tell whether a layer's forward reads `adapter_names`, and does not refuse them, as LoRA's does with DoRA."""
    if "adapter_names" not in type(layer).forward.__code__.co_varnames:  # AdaLoRA inherits the rest from LoRA
        return False
    try:
        layer._check_forward_args([None], adapter_names=[adapter])  # a batch of one, of which only the length counts
    except (TypeError, ValueError):
        return False
    return True


def _peft_combines(model: PeftModel, layers: list[Any]) -> bool:
    """Look for an `add_weighted_adapter` that takes adapters; PEFT's combine no classifiers, of which ours have one."""
    combine = getattr(type(model.base_model), "add_weighted_adapter", None)
    if combine is None or "adapters" not in inspect.signature(combine).parameters:
        return False
    return not any(isinstance(module, ModulesToSaveWrapper) for module in model.modules())


def _neutral_of(layer: nn.Module) -> Mapping[str, float]:
    return getattr(layer, "neutral", {}) if isinstance(layer, BaseTunerLayer) else {}
