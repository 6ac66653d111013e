"""The PEFT tuner: finds the modules to adapt, wraps them, mixes adapters in a batch and combines them.

What is used of PEFT beyond its documented interface, all in this folder:

- hooks of `BaseTuner` that are overridden: `prefix`, `tuner_layer_cls`, `target_module_mapping`,
  `_prepare_adapter_config`, `_prepare_model`, `_create_and_replace`, `_enable_peft_forward_hooks`, `inject_adapter`;
- members of `BaseTunerLayer` that are set: `adapter_layer_names`, `other_param_names`, `merged_adapters`,
  `_active_adapter`, `_disable_adapters`; called: `_move_adapter_to_device_of_base_layer`, `_cast_input_dtype`,
  `_get_available_adapters`;
- of `AuxiliaryTrainingWrapper`: `_adapters`; of `ModulesToSaveWrapper`: `modules_to_save`;
- the functions `check_adapters_to_merge` and `get_pattern_key`; the word `__base__` for "no adapter".
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import chain
from typing import Any, Literal, Self

from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer
from peft.utils.other import AuxiliaryTrainingWrapper, ModulesToSaveWrapper, get_pattern_key
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from rlrr.backbones.families import call_fused_linears, classifier_names, family_of
from rlrr.errors import RLRRError
from rlrr.tuners.rlrr.combine import combined_config, combined_module
from rlrr.tuners.rlrr.config import RLRRConfig
from rlrr.tuners.rlrr.convolution import Convolution
from rlrr.tuners.rlrr.layer import BASE, Affine, Linear, RLRRLayer

# A subclass with a forward of its own, as a LayerNorm2d or a standardised convolution, computes something else.
ADAPTABLE = {"Linear.forward", "LayerNorm.forward", "LayerNormFp32.forward", "Conv2d.forward"}


class RLRRModel(BaseTuner):
    """A backbone with RLRR adapters (Dong et al., CVPR 2024, arXiv 2403.19067).

    Args:
        model: Any model with linears, LayerNorms or convolutions.
        config: What to adapt and how.
        adapter_name: Name of the adapter.

    Example:
        >>> model = timm.create_model("vit_base_patch16_224.orig_in21k", pretrained=True, num_classes=10)
        >>> model = get_peft_model(model, RLRRConfig())
    """

    prefix = "rlrr_"
    tuner_layer_cls = RLRRLayer
    # The family is told from the model: see _prepare_model.
    target_module_mapping: dict[str, list[str]] = {}  # noqa: RUF012

    def inject_adapter(self, model: nn.Module, adapter_name: str, *args: Any, **kwargs: Any) -> None:
        """Refuse a name with which PEFT would lose tensors, then inject."""
        check_adapter_name(adapter_name, model)
        super().inject_adapter(model, adapter_name, *args, **kwargs)
        for norm in frozen_norms(model):
            norm.eval()

    def train(self, mode: bool = True) -> Self:
        """As any module, but a frozen BatchNorm stays in evaluation mode.

        Otherwise it would take the mean out of every shift before it, and its statistics would move away from those
        that the adapter is saved without.
        """
        super().train(mode)
        for norm in frozen_norms(self.model):
            norm.eval()
        return self

    def add_weighted_adapter(
        self,
        adapters: list[str],
        weights: list[float],
        adapter_name: str,
        combination_type: Literal["exact", "average"] = "exact",
    ) -> None:
        """Add an adapter that combines others (supplement H); it does not become active.

        Shifts, scales after norms (as changes from 1) and classifiers are summed with the weights in either way. The
        classes of the adapters have to be the same for their combined classifier to mean anything.

        Args:
            adapters: Names of adapters with the same settings.
            weights: A finite number for each.
            adapter_name: Name of the new adapter.
            combination_type: "exact" sums what the adapters do to a weight, `S = Σ w_i S_i`, so that ranks add up;
                "average" sums their vectors, `S = (Σ w_i scale_out_i)(Σ w_i scale_in_i)`, which keeps the rank.

        Raises:
            RLRRError: the adapters, their weights or the name do not do for that; the model is left as it is.
        """
        if adapter_name in self.peft_config:
            raise RLRRError(f"There is an adapter {adapter_name!r} already: choose another name, or delete that one.")
        check_adapter_name(adapter_name, self.model)
        config = combined_config(self.peft_config, adapters, weights, combination_type)
        heads = {
            wrapper: combined_module([wrapper.modules_to_save[name] for name in adapters], weights)
            for wrapper in self.modules()
            if isinstance(wrapper, ModulesToSaveWrapper) and adapters[0] in wrapper.modules_to_save
        }
        self.peft_config[adapter_name] = config
        self.inject_adapter(self.model, adapter_name)
        for layer in self.modules():
            if isinstance(layer, RLRRLayer) and adapter_name in layer.configs:
                layer.add_combination(adapter_name, adapters, weights, combination_type == "exact")
        for wrapper, head in heads.items():
            wrapper.modules_to_save[adapter_name] = head

    def _prepare_adapter_config(self, peft_config: RLRRConfig, model_config: dict) -> RLRRConfig:
        return peft_config

    def _prepare_model(self, peft_config: RLRRConfig, model: nn.Module) -> None:
        family = family_of(model)
        if peft_config.fused_blocks is None:
            peft_config.fused_blocks = dict(family.fused_blocks) if family else {}
        if peft_config.convolutions is None:
            peft_config.convolutions = family.convolutions if family else "scale"
        if peft_config.target_modules is None:
            if family is None:
                raise RLRRError(
                    f"There are no default target modules for {type(model).__name__}: name them in target_modules, "
                    "a regex of full module names, such as '.*(qkv|proj|fc1|fc2)'."
                )
            layers = peft_config.layers_to_transform
            layers = [layers] if isinstance(layers, int) else layers
            peft_config.target_modules = family.target_modules(model, layers, peft_config.parts)
            # now part of the regex
            peft_config.layers_to_transform = peft_config.layers_pattern = peft_config.parts = None
            if peft_config.modules_to_save is None:
                peft_config.modules_to_save = classifier_names(model) or None
        call_fused_linears(model)

    def _create_and_replace(
        self,
        peft_config: RLRRConfig,
        adapter_name: str,
        target: nn.Module,
        target_name: str,
        parent: nn.Module,
        current_key: str,
        parameter_name: str | None = None,
    ) -> None:
        patterns = peft_config.fused_blocks or {}
        blocks = patterns.get(get_pattern_key(list(patterns), current_key), 1)
        if isinstance(target, RLRRLayer):
            if type(target) is not _layer_class(target.base_layer, peft_config):
                raise RLRRError(
                    f"{adapter_name!r} has another setting of convolutions than the adapter that {current_key} has: "
                    "give both the same, or load them one at a time."
                )
            target.update_layer(adapter_name, peft_config, blocks)
            return
        if isinstance(target, BaseTunerLayer):
            raise RLRRError(f"{current_key} is adapted by another method already: merge or unload that one first.")
        if type(target).forward.__qualname__ not in ADAPTABLE:
            raise RLRRError(
                f"RLRR cannot adapt {current_key}, a {type(target).__name__}: only Linear, LayerNorm and Conv2d. "
                "Leave it out of target_modules or name it in exclude_modules."
            )
        # not PEFT's _replace_module, which fails on a LayerNorm without weight
        setattr(parent, target_name, _layer_class(target, peft_config)(target, adapter_name, peft_config, blocks))

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
        with ExitStack() as hooks:  # so that they go also when forward fails
            for module in self.modules():
                if isinstance(module, (RLRRLayer, AuxiliaryTrainingWrapper)):
                    hook = partial(_pass_adapter_names, adapter_names=adapter_names)
                    hooks.callback(module.register_forward_pre_hook(hook, with_kwargs=True).remove)
            yield


def _layer_class(base_layer: nn.Module, config: RLRRConfig) -> type[RLRRLayer]:
    if isinstance(base_layer, nn.Linear):
        return Linear
    rescale = isinstance(base_layer, nn.Conv2d) and config.convolutions == "rescale"
    return Convolution if rescale else Affine


def frozen_norms(model: nn.Module) -> list[nn.Module]:
    """The BatchNorms that are not trained: in evaluation mode they keep their statistics, which no adapter holds."""
    norms = (module for module in model.modules() if isinstance(module, _BatchNorm))
    return [norm for norm in norms if not any(parameter.requires_grad for parameter in norm.parameters())]


def _pass_adapter_names(
    module: nn.Module, args: tuple, kwargs: dict[str, Any], adapter_names: list[str]
) -> tuple[tuple, dict[str, Any]]:
    return args, {**kwargs, "adapter_names": adapter_names}


# What PEFT and we put into the paths of a model's parameters, and PEFT's name for "no adapter".
PEFT_PARTS = {
    *("base_model", "model", "base_layer", "original_module", "modules_to_save", BASE),
    *Linear.adapter_layer_names,
    *Affine.adapter_layer_names,
}


def check_adapter_name(name: str, model: nn.Module) -> None:
    """Refuse an adapter name that PEFT would take for a part of a parameter's path, and so lose tensors on saving.

    See huggingface/peft issue 3584.

    Raises:
        RLRRError: the name is part of a module path, holds a dot, or is an attribute of the dicts of vectors.
    """
    paths = chain(model.named_modules(), model.named_parameters(), model.named_buffers())
    parts = PEFT_PARTS | {part for path, _ in paths for part in path.split(".")}
    adapters = {
        key
        for module in model.modules()
        if isinstance(module, BaseTunerLayer)
        for key in module._get_available_adapters()
    }
    auxiliary = {
        key for module in model.modules() if isinstance(module, AuxiliaryTrainingWrapper) for key in module._adapters
    }
    taken = name in parts - adapters - auxiliary
    if not name or "." in name or taken or hasattr(nn.ParameterDict(), name) or name in RLRRModel.prefix:
        raise RLRRError(
            f"{name!r} cannot be the name of an adapter: it is part of a parameter's name, and its tensors would be "
            "lost on saving. Choose another, such as the name of the task."
        )
