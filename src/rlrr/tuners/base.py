"""The tuner that all our methods share: it finds the modules to adapt, wraps them, and mixes adapters in a batch.

PEFT's interface is used beyond its documentation here and in the other files of this folder, nowhere else in the
package:

- hooks of `BaseTuner` that are overridden: `prefix`, `tuner_layer_cls`, `target_module_mapping`,
  `_prepare_adapter_config`, `_prepare_model`, `_create_and_replace`, `_replace_module`, `_enable_peft_forward_hooks`,
  `_check_merge_allowed`, `_unload_and_optionally_merge`, `_remove_adapter_name_from_key`, `inject_adapter`;
- members of `BaseTunerLayer` that are set: `adapter_layer_names`, `other_param_names`, `merged_adapters`,
  `_active_adapter`, `_disable_adapters`; called: `_move_adapter_to_device_of_base_layer`, `_cast_input_dtype`,
  `_get_available_adapters`;
- of `AuxiliaryTrainingWrapper`: `_adapters`; of `ModulesToSaveWrapper`: `modules_to_save`, `original_module`;
- the functions `check_adapters_to_merge`, `check_target_module_exists` and `get_pattern_key`; the word `__base__` for
  "no adapter".
"""

from __future__ import annotations

import copy
import logging
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import chain
from typing import Any, ClassVar, Self

import torch
from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer, NoMatchingPeftModuleError
from peft.utils.other import ModulesToSaveWrapper
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from rlrr.backbones.anatomy import Family, regex_of, walk
from rlrr.backbones.families import (
    call_fused_linears,
    classifier_names,
    family_of,
    module_names,
    patch_size,
    prefix_tokens,
    stacked_projections,
)
from rlrr.backbones.kinds import NORMS, has_plain_forward, kind_of
from rlrr.errors import RLRRError
from rlrr.tuners.config import TunerConfig, check_choice
from rlrr.tuners.layer import AdaptedLayer, NotMergeableError
from rlrr.tuners.mixed import check_can_mix, learn_rows, mixed_batch
from rlrr.tuners.names import BASE, check_adapter_name
from rlrr.tuners.plain import holders, is_patched
from rlrr.tuners.provenance import warn_of_another_backbone
from rlrr.tuners.targets import check_entries, targeted

_OF_PEFT = ("alora_offsets",)  # what PEFT itself takes of a call

logger = logging.getLogger(__name__)


class VisionTuner(BaseTuner):
    """A backbone with adapters.

    A method gives `prefix`, `tuner_layer_cls` and `layer_class`; where it adapts other modules by default than the
    family's linears, norms and patch embedding, also `default_parts`; and where all layers share tensors,
    `shared_containers` and `start_shared`.

    Args:
        model: Any model with modules that the method adapts.
        config: Settings of the adapter.
        adapter_name: Name of the adapter.
    """

    tuner_layer_cls = AdaptedLayer
    # The family is told from the model: see _prepare_model.
    target_module_mapping: dict[str, list[str]] = {}  # noqa: RUF012
    default_parts: ClassVar[tuple[str, ...] | None] = None
    """Parts of a family that are adapted if `target_modules` is None; None for those that the family names itself."""
    shared_containers: ClassVar[tuple[str, ...]] = ()
    """Names of the dicts of tensors, by adapter, that all layers share and the tuner holds."""

    def layer_class(self, base_layer: nn.Module, name: str, config: Any) -> type[AdaptedLayer] | None:
        """Choose the class of layer that adapts a module; None if the method cannot adapt it.

        Args:
            base_layer: The module.
            name: Full name of the module.
            config: The adapter's settings.
        """
        raise NotImplementedError

    def layer_options(self, base_layer: nn.Module, name: str) -> dict[str, Any]:
        """Give what else the layer of a module takes, such as where its branch reads."""
        return {}

    def default_targets(self, model: nn.Module, config: Any) -> str | None:
        """Find what is adapted if `target_modules` is None: a regex, or None for a family that is not known.

        Raises:
            RLRRError: the method does not adapt one of `config.parts`, or the model has no such part or block.
        """
        family = family_of(model)
        layers = config.layers_to_transform
        layers = [layers] if isinstance(layers, int) else layers
        if family is not None and family.generic:
            logger.warning(
                "%s has no default of its own in rlrr: what is adapted is chosen by the kinds of its modules.",
                type(model).__name__,
            )
        parts = self.parts_of(family, config)
        if parts is None:
            if family is None:
                return None
            return self._adaptable(model, family.target_modules(model, layers, config.parts), config)
        for part in config.parts or ():
            check_choice("parts", part, self.default_parts or parts)
        # a family may have another part in the place of the method's own
        parts = [part for part in parts if part in (config.parts or parts)] or parts
        missing = [part for part in parts if not module_names(model, part)]
        if 0 < len(missing) < len(parts):  # else it would act on less than it says
            raise RLRRError(
                f"{config.method} adapts {', '.join(parts)}, and this {type(model).__name__} has no "
                f"{', '.join(missing)}: set parts to what it has, or name modules in target_modules."
            )
        names = [name for part in parts for name in module_names(model, part, layers)]
        return self._adaptable(model, regex_of(names), config) if names else None

    def parts_of(self, family: Family | None, config: Any) -> tuple[str, ...] | None:
        """Name the parts of a family that are adapted by default; None for those that the family names itself.

        Args:
            family: The family; None for a model of none.
            config: The adapter's settings.
        """
        return self.default_parts

    def _adaptable(self, model: nn.Module, regex: str, config: Any) -> str | None:
        """Give the regex of those modules that the method adapts; None if there are none."""
        hits = [item for item in walk(model) if re.fullmatch(regex, item.name) or re.fullmatch(regex, item.plain_name)]
        names = [item.name for item in hits if self.layer_class(item.module, item.name, config)]
        return regex if len(names) == len(hits) else regex_of(names) if names else None

    def within(self, name: str, part: str) -> str | None:
        """Find the module of a part inside the module of a full name: its name from there; None if there is not one."""
        inner = [inside for inside in self.names_of(part) if inside.startswith(f"{name}.")]
        return inner[0].removeprefix(f"{name}.") if len(inner) == 1 else None

    def names_of(self, part: str) -> list[str]:
        """List the full names of the modules of a part of the model's family, as they were before any adapter."""
        known = self.__dict__.setdefault("_names_of_parts", {})  # a search each time would take seconds in large models
        if part not in known:
            known[part] = module_names(self.model, part)
        return known[part]

    def block_of(self, name: str) -> int | None:
        """Give the index, among all blocks, of the one that holds the module of a full name; None if none does."""
        blocks = self.names_of("block")
        return next((index for index, block in enumerate(blocks) if name.startswith(f"{block}.")), None)

    def stacks_qkv(self, name: str) -> bool:
        """Tell whether a linear called qkv holds queries, keys and values one below the other, or nothing is known."""
        if "_family" not in self.__dict__:
            self.__dict__["_family"] = family_of(self.model)
        family = self.__dict__["_family"]
        return family is None or family.fused_blocks.get("qkv") == 3 or bool(stacked_projections(name))

    def start_shared(self, config: Any, modules: Mapping[str, nn.Module]) -> Mapping[str, Tensor]:
        """Make the tensors that all layers share, by container, for a new adapter.

        Args:
            config: The adapter's settings.
            modules: The modules that the adapter will adapt, by full name, before any adapter.
        """
        return {}

    def check_model(self, model: nn.Module, config: Any) -> None:
        """Refuse a model on which the method is not defined.

        Raises:
            RLRRError: naming the model and the reason.
        """

    def check_name(self, adapter_name: str, model: nn.Module) -> None:
        """Refuse a name with which PEFT would lose tensors of an adapter.

        Raises:
            RLRRError: see `check_adapter_name`.
        """
        containers = {name for layer in _subclasses(self.tuner_layer_cls) for name in layer.adapter_layer_names}
        check_adapter_name(adapter_name, model, self.prefix, (*containers, *self.shared_containers))

    def inject_adapter(self, model: nn.Module, adapter_name: str, *args: Any, **kwargs: Any) -> None:
        """Refuse a name with which PEFT would lose tensors, then inject."""
        self.check_name(adapter_name, model)
        config = self.peft_config[adapter_name]
        for name in self.shared_containers:
            if not hasattr(self, name):
                setattr(self, name, nn.ParameterDict())
        if self.shared_containers:
            for name, tensor in self.start_shared(config, self._to_adapt(config, model)).items():
                getattr(self, name)[adapter_name] = nn.Parameter(tensor, requires_grad=not config.inference_mode)
        try:
            super().inject_adapter(model, adapter_name, *args, **kwargs)
        except Exception as error:
            for name in self.shared_containers:  # or they would be trained without an adapter
                if adapter_name in (tensors := getattr(self, name)):
                    del tensors[adapter_name]
            if isinstance(error, NoMatchingPeftModuleError):
                raise NoMatchingPeftModuleError(f"{error} {_known_endings(model)}") from error
            raise
        for module in list(model.modules()):
            for name, child in module.named_children():
                # PEFT takes every module whose name ends as a classifier's: also the empty head of a hybrid's stem
                if isinstance(child, ModulesToSaveWrapper) and next(child.parameters(), None) is None:
                    setattr(module, name, child.original_module)
        for norm in frozen_norms(model):
            norm.eval()

    def _cast_adapter_dtype(self, adapter_name: str, autocast_adapter_dtype: bool = True) -> None:
        """Make half-precision tensors of an adapter float32, as PEFT does, also those that all layers share."""
        super()._cast_adapter_dtype(adapter_name, autocast_adapter_dtype)
        for name in self.shared_containers if autocast_adapter_dtype else ():
            tensor = getattr(self, name).get(adapter_name)
            if tensor is not None and tensor.dtype in (torch.float16, torch.bfloat16):
                tensor.data = tensor.data.float()

    def _to_adapt(self, config: TunerConfig, model: nn.Module) -> dict[str, nn.Module]:
        """Find the modules that an adapter will adapt, before any adapter, by full name."""
        chosen = copy.copy(config)
        if chosen.target_modules is None:
            chosen.target_modules = self.default_targets(model, config)
            chosen.layers_to_transform = chosen.layers_pattern = None
        found = targeted(chosen, model) if chosen.target_modules else ()
        return {name: module.base_layer if isinstance(module, AdaptedLayer) else module for name, module in found}

    def train(self, mode: bool = True) -> Self:
        """Switch the mode, as for any module, but leave a frozen BatchNorm in evaluation mode.

        Otherwise it would take the mean out of every shift before it, and its statistics would move away from those
        that the adapter is saved without.
        """
        super().train(mode)
        for norm in frozen_norms(self.model):
            norm.eval()
        return self

    def merge_adapter(self, adapter_names: list[str] | None = None, safe_merge: bool = False) -> None:
        """Merge as PEFT does; with `safe_merge` all layers or none."""
        self._check_merge(adapter_names, safe_merge)
        super().merge_adapter(adapter_names, safe_merge)

    def _unload_and_optionally_merge(
        self,
        merge: bool = True,
        progressbar: bool = False,
        safe_merge: bool = False,
        adapter_names: list[str] | None = None,
    ) -> Any:
        if hasattr(self.model, "base_layer"):  # as timm's DLA calls its stem
            raise RLRRError(
                f"PEFT takes the module base_layer of {type(self.model).__name__} for a part of an adapter, and cannot "
                "take adapters off this model: keep the adapter beside its backbone, or call merge_adapter() alone."
            )
        if merge:
            self._check_merge(adapter_names, safe_merge)
        return super()._unload_and_optionally_merge(merge, progressbar, safe_merge, adapter_names)

    def _check_merge_allowed(self) -> None:
        if not self.tuner_layer_cls.mergeable:
            raise NotMergeableError(
                f"What {self.prefix.rstrip('_')} learns cannot be written into the weights: keep the adapter beside "
                "its backbone."
            )

    def _check_merge(self, adapter_names: list[str] | None, safe: bool) -> None:
        """Refuse before the first layer is merged, as a model that is merged in part computes something else."""
        self._check_merge_allowed()
        for layer in self.model.modules():
            if isinstance(layer, AdaptedLayer):
                layer.check_base(layer.get_base_layer(), layer.module_name)  # which may be pruned by now
                if safe:
                    layer.check_merge(adapter_names)

    def _prepare_adapter_config(self, peft_config: TunerConfig, model_config: dict) -> TunerConfig:
        return peft_config

    def _prepare_model(self, peft_config: TunerConfig, model: nn.Module) -> None:
        check_entries(peft_config, model)
        self.check_model(model, peft_config)
        warn_of_another_backbone(peft_config, model, self.prefix)
        if peft_config.target_modules is None:
            peft_config.target_modules = self.default_targets(model, peft_config)
            if peft_config.target_modules is None:
                raise RLRRError(
                    f"There are no default target modules for {type(model).__name__} with {type(peft_config).method}, "
                    "which may not be defined there: to try, name them in target_modules, a regex of full module names."
                )
            # now part of the regex
            peft_config.layers_to_transform = peft_config.layers_pattern = peft_config.parts = None
            if peft_config.modules_to_save is None:
                peft_config.modules_to_save = classifier_names(model) or None
        for name, module in targeted(peft_config, model):  # before anything is changed
            self._layer_class_of(module, name, peft_config)
        call_fused_linears(model)

    def _create_and_replace(
        self,
        peft_config: TunerConfig,
        adapter_name: str,
        target: nn.Module,
        target_name: str,
        parent: nn.Module,
        current_key: str,
        parameter_name: str | None = None,
    ) -> None:
        layer_class = self._layer_class_of(target, current_key, peft_config)
        if isinstance(target, AdaptedLayer):
            target.update_layer(adapter_name, peft_config)
            return
        shared = {name: getattr(self, name) for name in self.shared_containers}
        options = self.layer_options(target, current_key)
        places = holders(self.model, target)  # a module may stand in several
        layer = layer_class(target, adapter_name, peft_config, current_key, shared, **options)
        for holder, name in places:
            setattr(holder, name, layer)

    def _layer_class_of(self, target: nn.Module, name: str, config: TunerConfig) -> type[AdaptedLayer]:
        """Choose the class of layer for a module, or for what an adapted layer adapts already.

        Raises:
            RLRRError: the method cannot adapt the module, or not beside what is there.
        """
        base = target.base_layer if isinstance(target, self.tuner_layer_cls) else target
        layer_class = None if isinstance(base, BaseTunerLayer) else self.layer_class(base, name, config)
        if base is not target and type(target) is not layer_class:
            raise RLRRError(
                f"The new adapter adapts {name} in another form than the adapter that is there: give both the same "
                "settings, or load them one at a time."
            )
        if isinstance(base, BaseTunerLayer):
            raise RLRRError(f"{name} is adapted by another method already: merge or unload that one first.")
        if layer_class is None:
            own = " with a forward of its own" if is_patched(base) else ""
            raise RLRRError(
                f"{type(config).method} cannot adapt {name}, a {type(base).__name__}{own}: leave it out of "
                "target_modules or name it in exclude_modules."
            )
        layer_class.check_base(base, name)
        return layer_class

    def _replace_module(self, parent: nn.Module, child_name: str, new_module: nn.Module, child: nn.Module) -> None:
        # called on unloading: PEFT's own expects every module to have a weight, and to stand in one place
        for holder, name in holders(self.model, child) or [(parent, child_name)]:
            setattr(holder, name, new_module)
        if isinstance(child, AdaptedLayer):
            child.released()

    @contextmanager
    def _enable_peft_forward_hooks(self, *args: Any, **kwargs: Any) -> Iterator[None]:
        """Hand `adapter_names`, one for each sample, to every adapted layer and classifier."""
        adapter_names = kwargs.pop("adapter_names", None)
        if adapter_names is None:
            yield
            return
        if self.training:
            raise ValueError("Cannot pass `adapter_names` when the model is in training mode.")
        unknown = sorted(set(adapter_names) - {BASE} - set(self.peft_config))
        if unknown:
            raise ValueError(f"Trying to infer with non-existing adapter(s): {', '.join(unknown)}")
        images = next((value for value in chain(args, kwargs.values()) if isinstance(value, Tensor)), adapter_names)
        if len(images) != len(adapter_names):
            raise ValueError(
                "Length of `adapter_names` should be the same as the number of inputs, but got "
                f"{len(adapter_names)} and {len(images)} respectively."
            )
        if not adapter_names:  # of no images
            yield
            return
        check_can_mix(self)
        inputs = {name: value for name, value in kwargs.items() if name not in _OF_PEFT}
        if len(set(adapter_names)) > 1:
            learn_rows(self.model, args, inputs, len(adapter_names))
        with mixed_batch(self.model, adapter_names):
            yield


def is_plain(module: nn.Module, *kinds: type[nn.Module]) -> bool:
    """Tell whether a module is one of these kinds and computes what its kind computes."""
    return isinstance(module, kinds) and has_plain_forward(module) and not is_patched(module)


def frozen_norms(model: nn.Module) -> list[nn.Module]:
    """Find the BatchNorms that are not trained, whose statistics no adapter holds: they stay in evaluation mode."""
    norms = (module for module in model.modules() if isinstance(module, _BatchNorm))
    return [norm for norm in norms if not any(parameter.requires_grad for parameter in norm.parameters())]


def _known_endings(model: nn.Module) -> str:
    """Say how the names of a model's modules with weights end, for one whose targets are names of another model."""
    endings = [name.rpartition(".")[2] for name, module in model.named_modules() if hasattr(module, "weight")]
    return f"The names of its modules end in {', '.join(dict.fromkeys(endings))}."


def _subclasses(layer_class: type[AdaptedLayer]) -> Iterator[type[AdaptedLayer]]:
    yield layer_class
    for subclass in layer_class.__subclasses__():
        yield from _subclasses(subclass)


__all__ = [
    "NORMS",
    "Family",
    "NotMergeableError",
    "RLRRError",
    "VisionTuner",
    "call_fused_linears",
    "family_of",
    "frozen_norms",
    "is_plain",
    "kind_of",
    "patch_size",
    "prefix_tokens",
    "regex_of",
]
