"""Names of adapters: those with which PEFT would lose tensors on saving are refused (huggingface/peft issue 3584)."""

from __future__ import annotations

from itertools import chain

from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import AuxiliaryTrainingWrapper
from torch import nn

from rlrr.errors import RLRRError

BASE = "__base__"
"""PEFT's name for "no adapter" in a mixed batch."""

# Names that PEFT puts into the paths of a model's parameters.
_PEFT_PARTS = {"base_model", "model", "base_layer", "original_module", "modules_to_save", BASE}


def check_adapter_name(name: str, model: nn.Module, prefix: str, containers: tuple[str, ...]) -> None:
    """Refuse an adapter name that PEFT would take for a part of a parameter's path, or for part of the prefix.

    Args:
        name: Name of an adapter that is to be added.
        model: The model it is added to.
        prefix: Prefix of the tuner.
        containers: Names under which the tuner's layers hold their tensors.

    Raises:
        RLRRError: the name is part of a module path or of the prefix, holds a dot, or is an attribute of the dicts of
            tensors.
    """
    if name and name in prefix:  # PEFT only warns
        raise RLRRError(
            f"{name!r} cannot be the name of an adapter: it is part of the tuner's prefix {prefix!r}, and PEFT might "
            "start its tensors anew on loading. Choose another, such as the name of the task."
        )
    paths = chain(model.named_modules(), model.named_parameters(), model.named_buffers())
    parts = _PEFT_PARTS.union(containers, *(path.split(".") for path, _ in paths))
    adapters: set[str] = set()
    for module in model.modules():
        if isinstance(module, BaseTunerLayer):
            adapters |= module._get_available_adapters()
        elif isinstance(module, AuxiliaryTrainingWrapper):
            adapters |= set(module._adapters)
    taken = name in parts - adapters or hasattr(nn.ParameterDict(), name) or hasattr(nn.ModuleDict(), name)
    if not name or "." in name or taken:
        raise RLRRError(
            f"{name!r} cannot be the name of an adapter: it is part of a parameter's name, and its tensors would be "
            "lost on saving. Choose another, such as the name of the task."
        )
