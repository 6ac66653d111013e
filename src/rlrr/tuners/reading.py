"""Weights that are read past their layer: modules such as nn.MultiheadAttention hand `layer.weight` to a function.

They read the weight that the adapters make. Where no one weight could act for all, in a mixed batch or for a branch,
they read a tensor that answers questions of fact and refuses to be computed with.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor

from rlrr.errors import RLRRError

MIXED: ContextVar[Sequence[str] | None] = ContextVar("adapter_names", default=None)
"""The adapters of the samples of the mixed batch that this thread runs; None if it runs none."""

_FACTS = (bool, int, float, str, torch.Size, torch.dtype, torch.device, torch.layout, type(None))


class _OnlyFacts(Tensor):
    """A tensor that tells its dtype, shape, device and the like, and takes part in no computation."""

    module_name: str

    @classmethod
    def __torch_function__(
        cls,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        result = super().__torch_function__(func, types, args, kwargs or {})
        if isinstance(result, _FACTS):
            return result
        name = next((value.module_name for value in _tensors(args, kwargs or {}) if isinstance(value, cls)), "a layer")
        raise _refusal(name)


def only_facts(tensor: Tensor, module_name: str) -> Tensor:
    """Give a tensor that tells what `tensor` is and cannot be computed with.

    Args:
        tensor: The weight or bias of a layer.
        module_name: Name of the layer, for the sentence of the error.

    Raises:
        RLRRError: the model is exported, where a computation cannot be told from a question.
    """
    if torch.compiler.is_exporting():
        raise _refusal(module_name)
    result = tensor.detach().as_subclass(_OnlyFacts)
    result.module_name = module_name
    return result


def _refusal(module_name: str) -> RLRRError:
    return RLRRError(
        f"Another module reads the weight of {module_name} and does not call it, so that no adapter of a branch or of "
        f"a mixed batch would act there: leave {module_name} out of target_modules, or give a batch one adapter."
    )


def _tensors(args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Any]:
    values = [*args, *kwargs.values()]
    return values + [inner for value in values if isinstance(value, (tuple, list)) for inner in value]
