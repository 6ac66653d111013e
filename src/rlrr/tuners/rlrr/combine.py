"""Combining adapters (supplement H): which can be, and what the settings and the classifier of the result are."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import replace

from torch import nn

from rlrr.tuners.base import RLRRError
from rlrr.tuners.config import TunerConfig, check_choice
from rlrr.tuners.rlrr.config import RLRRConfig

KINDS = ("exact", "average")
MAY_DIFFER = {"rank", "init_weights", "gradient_tokens"}


def combined_config(
    configs: Mapping[str, RLRRConfig], adapters: Sequence[str], weights: Sequence[float], kind: str
) -> RLRRConfig:
    """Give the settings of the weighted sum of adapters.

    Raises:
        RLRRError: they cannot be combined in that way.
    """
    check_choice("combination_type", kind, KINDS)
    if len(adapters) != len(weights) or not adapters:
        raise RLRRError(f"There are {len(adapters)} adapters and {len(weights)} weights: give one weight for each.")
    for name in adapters:
        check_choice("adapters", name, configs)
    if not all(map(math.isfinite, weights)):
        raise RLRRError(f"The weights must be finite numbers, not {list(weights)}.")
    first, *others = (configs[name] for name in adapters)
    for name, other in zip(adapters[1:], others, strict=True):
        # only what the settings say themselves, and not PEFT's notes of where an adapter comes from
        settings = TunerConfig.__annotations__.keys() | RLRRConfig.__annotations__.keys()
        settings -= MAY_DIFFER if kind == "exact" else MAY_DIFFER - {"rank"}
        if differing := sorted(key for key in settings if getattr(first, key) != getattr(other, key)):
            raise RLRRError(f"{adapters[0]!r} and {name!r} cannot be combined: they differ in {', '.join(differing)}.")
    if not first.residual and not math.isclose(sum(weights), 1, abs_tol=1e-6):
        raise RLRRError(
            f"The weights add up to {sum(weights):g}: with residual=False they must add up to 1, or the pre-trained "
            "weights themselves would be multiplied by that."
        )
    rank, form = first.rank, first.form
    if kind == "exact":  # a sum of products is none, but it is one of residual forms
        terms = 2 if form == "product" else 1
        rank = terms * sum(config.rank for config in (first, *others)) if first.sides == "both" else rank
        form = "residual"
    return replace(first, rank=rank, form=form, init_weights=True)


def combined_module(modules: Sequence[nn.Module], weights: Sequence[float]) -> nn.Module:
    """Make a frozen module whose parameters are the weighted sums of those of modules of one kind.

    Raises:
        RLRRError: the parameters differ in shape.
    """
    result = deepcopy(modules[0]).requires_grad_(False)
    states = [module.state_dict() for module in modules]
    for name, tensor in result.state_dict().items():
        shapes = [tuple(state[name].shape) for state in states]
        if len(set(shapes)) > 1:
            raise RLRRError(f"Classifiers of different shape cannot be combined: their {name} are {shapes}.")
        if tensor.is_floating_point():
            tensor.copy_(sum(weight * state[name] for weight, state in zip(weights, states, strict=True)))
    return result
