"""The adapted layer that all our methods share: adapters and their tensors, and mixed batches."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from typing import Any, ClassVar

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from rlrr.errors import RLRRError
from rlrr.tuners.config import TunerConfig
from rlrr.tuners.names import BASE
from rlrr.tuners.reading import MIXED, only_facts

_PLAIN_VALUES = (bool, int, float, str, tuple)


class NotMergeableError(RLRRError, NotImplementedError):
    """An adapter that cannot be written into the weights of its backbone."""


class AdaptedLayer(nn.Module, BaseTunerLayer):
    """A base module with what each adapter has learned for it.

    A subclass names the containers of its tensors in `adapter_layer_names`, each a dict by adapter whose name begins
    with the tuner's prefix. A container that all layers share is held by the tuner and given as `shared`.

    Args:
        base_layer: The frozen module.
        adapter_name: Name of the first adapter.
        config: The settings of that adapter.
        module_name: Full name of the module in its model.
        shared: Containers held by the tuner, by name.
        **options: What the tuner's `layer_options` gives, for `describe`.
    """

    other_param_names = ("configs",)

    prefix: ClassVar[str]
    """Prefix of the tuner, such as "rlrr_"."""
    mergeable: ClassVar[bool] = False
    """Whether what is learned can be written into the base module's weights."""
    mixable: ClassVar[bool] = True
    """Whether each sample of a batch may have an adapter of its own."""
    combinable: ClassVar[bool] = False
    """Whether a weighted sum of adapters is an adapter."""
    splittable: ClassVar[bool] = True
    """Whether `delta` gives what the adapters add to the base output."""
    neutral: ClassVar[Mapping[str, float]] = {}
    """Value of each learned tensor, by its name without prefix, that leaves the module as it was."""
    decays: ClassVar[tuple[str, ...]] = ()
    """Patterns (fnmatch) of full names of one-dimensional tensors that take weight decay all the same."""

    def __init__(
        self,
        base_layer: nn.Module,
        adapter_name: str,
        config: TunerConfig,
        module_name: str = "",
        shared: Mapping[str, nn.ParameterDict] | None = None,
        **options: Any,
    ) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.module_name = module_name
        self.configs: dict[str, Any] = {}
        self.merged_adapters: list[str] = []
        self._disable_adapters = False
        self._active_adapter = adapter_name
        for name in getattr(base_layer, "__constants__", ()):  # such as eps, which other modules read
            if not hasattr(type(self), name) and isinstance(value := getattr(base_layer, name, None), _PLAIN_VALUES):
                setattr(self, name, value)
        for name in self.adapter_layer_names:
            if shared and name in shared:
                self.__dict__[name] = shared[name]  # not as a module: the tuner saves and moves it, once for all layers
            else:
                setattr(self, name, self._new_container(name))
        self.describe(base_layer, **options)
        self.update_layer(adapter_name, config)

    def describe(self, base_layer: nn.Module, **options: Any) -> None:
        """Set what `start` needs of the base module, such as `in_features` and `out_features`.

        Args:
            base_layer: The frozen module.
            **options: What the tuner's `layer_options` gives.
        """

    def update_layer(self, adapter_name: str, config: TunerConfig) -> None:
        """Add one adapter at its start."""
        self.configs[adapter_name] = config
        self._set_learned(adapter_name, self.start(config))
        self._move_adapter_to_device_of_base_layer(adapter_name)
        self.set_adapter(self.active_adapters, inference_mode=config.inference_mode)

    def start(self, config: TunerConfig) -> Mapping[str, Tensor | nn.Module | None]:
        """Make what a new adapter begins with, by container; None, or no entry, where it has nothing there."""
        raise NotImplementedError

    @classmethod
    def check_base(cls, base_layer: nn.Module, name: str) -> None:
        """Refuse a module on which this layer would give a wrong answer.

        Args:
            base_layer: The module.
            name: Its full name.

        Raises:
            RLRRError: naming the module and what to do.
        """

    def released(self) -> nn.Module:
        """Give the base module, as it was before, to stand in the layer's place."""
        return self.get_base_layer()

    def sources(self) -> list[nn.Module]:
        """List the modules whose inputs and outputs the layer splits by sample: itself, and what it reads inside."""
        return [self]

    def forward_mixed(self, x: Tensor, adapter_names: Sequence[str]) -> Tensor:
        """Run each sample under its own adapter.

        Args:
            x: (samples * k, ...): windowed attention splits each sample into k consecutive rows.
            adapter_names: (samples), adapters of this layer, at least two; `__base__` leaves a sample as it is.
        """
        raise NotImplementedError

    def forward_adapted(self, x: Tensor, adapter_names: Sequence[str], *args: Any, **kwargs: Any) -> Tensor:
        """Run the whole batch under these adapters, which act side by side."""
        raise NotImplementedError

    def delta(self, x: Tensor, adapter_names: Sequence[str] | None = None) -> Tensor:
        """Compute what adapters add to the output of `base_layer` for `x`.

        Args:
            x: Input of the layer.
            adapter_names: Adapters side by side; None for those that act: none while disabled, and none while merged,
                as the base layer has them then.
        """
        raise NotImplementedError

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Refuse, unless the method can write adapters into the base module's weights.

        Raises:
            NotMergeableError: it cannot.
        """
        raise NotMergeableError(f"What is learned at {self.module_name} cannot be written into its weights.")

    def unmerge(self) -> None:
        """Do nothing, as nothing can be merged."""

    def check_merge(self, adapter_names: list[str] | None = None) -> None:
        """Refuse adapters that must not be merged, such as those whose merged weights are not finite."""

    def forward(self, *args: Any, adapter_names: Sequence[str] | None = None, **kwargs: Any) -> Any:
        """Run the layer under the active adapters, or each sample under its own of `adapter_names`.

        Without `adapter_names` those of the mixed batch act that this thread runs, if it runs one.

        Raises:
            ValueError: adapters are merged, or rows cannot be told apart by sample, in a mixed batch.
        """
        if not args:  # as attention is called in transformers' CLIP
            first = next(iter(inspect.signature(self.base_layer.forward).parameters))
            args = (kwargs.pop(first),)
        x, *rest = args
        return self._forward(x, adapter_names, *rest, **kwargs)

    def _forward(self, x: Tensor, adapter_names: Sequence[str] | None, *args: Any, **kwargs: Any) -> Any:
        if self.disable_adapters:
            if self.merged:
                self.unmerge()
            return self.base_layer(x, *args, **kwargs)
        names = self._acting(None)
        if adapter_names is None and not torch.compiler.is_compiling():
            adapter_names = MIXED.get()
        if adapter_names is not None:
            mixed = self._checked_names(x, adapter_names)
            if len(set(mixed)) > 1:
                return self.forward_mixed(x, mixed, *args, **kwargs)
            if mixed:
                names = [name for name in mixed[:1] if name != BASE]
        if not names:
            return self.base_layer(x, *args, **kwargs)
        return self.forward_adapted(x, names, *args, **kwargs)

    @property
    def weight(self) -> Any:
        """Give the weight that the layer computes with, for a module that reads it past the layer.

        Where no one weight could act for all, it tells its dtype, shape and device and refuses all else.
        """
        return self._read("weight")

    @property
    def bias(self) -> Any:
        """Give the bias that the layer computes with, in the same way."""
        return self._read("bias")

    def _read(self, name: str) -> Any:
        tensor = getattr(self.get_base_layer(), name)
        if not isinstance(tensor, Tensor) or self._acting_on_all() == []:
            return tensor
        return only_facts(tensor, self.module_name)

    def _acting_on_all(self) -> list[str] | None:
        """List the adapters that act in this thread's call; None where its samples have different ones."""
        mixed = MIXED.get()
        if mixed is None or self.disable_adapters:
            return self._acting(None)
        names = set(self._names_here(mixed))
        return None if len(names) > 1 else [name for name in names if name != BASE]

    def learned(self, adapter_name: str) -> dict[str, Any]:
        """Collect what one adapter has learned here, by container without prefix."""
        containers = {name.removeprefix(self.prefix): getattr(self, name) for name in self.adapter_layer_names}
        return {name: values[adapter_name] for name, values in containers.items() if adapter_name in values}

    def _new_container(self, name: str) -> nn.Module:
        return nn.ParameterDict()

    def _set_learned(
        self, adapter_name: str, values: Mapping[str, Tensor | nn.Module | None], trainable: bool = True
    ) -> None:
        for name, value in values.items():
            if value is not None:
                if isinstance(value, Tensor):
                    value = nn.Parameter(value, requires_grad=trainable)
                else:
                    value.train(self.training)  # a model in evaluation mode may be given an adapter
                getattr(self, name)[adapter_name] = value

    def _present(self, adapter_names: Sequence[str] | None) -> list[str]:
        """List those of the adapters, or of the active ones, that this layer has."""
        names = self.active_adapters if adapter_names is None else adapter_names
        return [name for name in names if name in self.configs]

    def _acting(self, adapter_names: Sequence[str] | None) -> list[str]:
        """List the adapters that add to the base output: those named, or the active ones unless disabled or merged."""
        if adapter_names is None and (self.disable_adapters or self.merged):
            return []
        return self._present(adapter_names)

    def _checked_names(self, x: Tensor, adapter_names: Sequence[str]) -> list[str]:
        """Name the adapter that acts here for each sample of a mixed batch, `__base__` where there is none.

        Raises:
            ValueError: adapters are merged, or rows cannot be told apart by sample.
        """
        names = self._names_here(adapter_names)
        if len(set(names)) != 1:  # else all rows are alike
            check_rows(self, x, len(names), self.module_name)
        return names

    def _names_here(self, adapter_names: Sequence[str]) -> list[str]:
        if self.merged:
            raise ValueError(
                "Cannot pass `adapter_names` when there are merged adapters, please call `unmerge_adapter` first."
            )
        return [name if name in self.configs else BASE for name in adapter_names]

    def form(self, adapter_name: str) -> tuple[Any, ...]:
        """Tell what two adapters must have in common for their tensors to be stacked."""
        tensors = _flat(self.learned(adapter_name))
        return self.configs[adapter_name].stacking, tuple((name, tensor.shape) for name, tensor in tensors.items())

    def stacked(self, adapter_names: Sequence[str]) -> dict[str, Tensor]:
        """Stack the tensors of adapters of one form: by name without prefix, (adapters, ...)."""
        tensors = [_flat(self.learned(name)) for name in adapter_names]
        return {name: torch.stack([of_one[name] for of_one in tensors]) for name in tensors[0]}

    def _get_base_layer_device_and_dtype(self, base_layer: nn.Module) -> tuple[Any, Any]:
        """Give device and dtype also of a block, which has no weight of its own."""
        first = next(base_layer.parameters(), None)
        if isinstance(getattr(base_layer, "weight", None), Tensor) or first is None:
            return super()._get_base_layer_device_and_dtype(base_layer)
        return first.device, first.dtype

    def __repr__(self) -> str:
        return self.prefix.replace("_", ".") + super().__repr__()


def _flat(learned: Mapping[str, Any]) -> dict[str, Tensor]:
    """List tensors by name; the parameters and buffers of a module by its name and their own."""
    flat: dict[str, Tensor] = {}
    for name, value in learned.items():
        if isinstance(value, nn.Module):
            flat |= {
                f"{name}.{path}": tensor for path, tensor in chain(value.named_parameters(), value.named_buffers())
            }
        else:
            flat[name] = value
    return flat


def check_rows(module: nn.Module, x: Tensor, samples: int, name: str) -> None:
    """Refuse to split rows by sample where they do not belong to samples, in their order.

    Args:
        module: An adapted layer or another module with a copy for each adapter.
        x: What it is given.
        samples: Number of samples of the batch.
        name: What to call the module.

    Raises:
        RLRRError: the number of rows is no multiple of that of samples, or they are known not to belong to samples.
    """
    whole = len(x) % samples == 0 if samples else len(x) == 0
    if not whole or not module.__dict__.get("rows_by_sample", True):
        raise RLRRError(
            f"{name} got {len(x)} rows for {samples} samples, and cannot tell whose they are: give a batch one "
            "adapter, or leave that module out of target_modules."
        )


def by_group(
    x: Tensor, samples: int, groups: Mapping[Any, Sequence[int]], run: Callable[[Any, Tensor, Sequence[int]], Tensor]
) -> Tensor:
    """Run groups of samples one after the other and put their outputs in the order of the batch.

    Args:
        x: (samples * k, ...).
        samples: Number of samples.
        groups: Indices of the samples of each group.
        run: Takes a group's key, its rows (members * k, ...) and its indices.

    Raises:
        RLRRError: the outputs of two groups differ in shape.
    """
    if len(groups) == 1:
        ((key, members),) = groups.items()
        return run(key, x, members)
    by_sample = x.unflatten(0, (samples, -1))
    result = None
    for key, members in groups.items():
        index = torch.tensor(members, device=x.device)
        part = run(key, by_sample.index_select(0, index).flatten(0, 1), members)
        part = part.unflatten(0, (len(members), -1))
        if result is None:
            result = part.new_empty(samples, *part.shape[1:])
        if part.shape[1:] != result.shape[1:]:
            raise RLRRError(
                f"Adapters of one batch give outputs of different shapes, {tuple(result.shape[2:])} and "
                f"{tuple(part.shape[2:])}, as with other numbers of classes: run them in batches of their own."
            )
        result[index] = part
    assert result is not None, "a batch has a sample"
    return result.flatten(0, 1)


def grouped(keys: Sequence[Any]) -> dict[Any, list[int]]:
    """Group the indices of equal keys, in the order of their first."""
    groups: dict[Any, list[int]] = {}
    for index, key in enumerate(keys):
        groups.setdefault(key, []).append(index)
    return groups


def slots_of(adapter_names: Sequence[str]) -> tuple[list[str], list[int]]:
    """List the adapters that occur, each once, and the place of each sample's adapter among them."""
    slots = list(dict.fromkeys(adapter_names))
    return slots, [slots.index(name) for name in adapter_names]


__all__ = ["BASE", "AdaptedLayer", "NotMergeableError", "by_group", "check_rows", "grouped", "slots_of"]
