"""The PEFT tuner: finds the modules to adapt, wraps them, and mixes adapters in a batch.

Uses of PEFT's private hooks, all in this file and in `layer.py`: `_prepare_adapter_config`, `_prepare_model`,
`_create_and_replace`, `_enable_peft_forward_hooks`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import chain
from typing import Any

from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer
from peft.utils.other import AuxiliaryTrainingWrapper, get_pattern_key
from torch import Tensor, nn

from rlrr.errors import RLRRError
from rlrr.targets import call_fused_linears, classifier_names, family_of
from rlrr.tuners.rlrr.config import RLRRConfig
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

    def _prepare_adapter_config(self, peft_config: RLRRConfig, model_config: dict) -> RLRRConfig:
        return peft_config

    def _prepare_model(self, peft_config: RLRRConfig, model: nn.Module) -> None:
        family = family_of(model)
        if peft_config.fused_blocks is None:
            peft_config.fused_blocks = dict(family.fused_blocks) if family else {}
        if peft_config.target_modules is None:
            if family is None:
                raise RLRRError(
                    f"There are no default target modules for {type(model).__name__}: name them in target_modules, "
                    "a regex of full module names, such as '.*(qkv|proj|fc1|fc2)'."
                )
            layers = peft_config.layers_to_transform
            layers = [layers] if isinstance(layers, int) else layers
            peft_config.target_modules = family.target_modules(model, layers)
            peft_config.layers_to_transform = peft_config.layers_pattern = None  # now part of the regex
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
            target.update_layer(adapter_name, peft_config, blocks)
            return
        if isinstance(target, BaseTunerLayer):
            raise RLRRError(f"{current_key} is adapted by another method already: merge or unload that one first.")
        if type(target).forward.__qualname__ not in ADAPTABLE:
            raise RLRRError(
                f"RLRR cannot adapt {current_key}, a {type(target).__name__}: only Linear, LayerNorm and Conv2d. "
                "Leave it out of target_modules or name it in exclude_modules."
            )
        layer_class = Linear if isinstance(target, nn.Linear) else Affine
        # not PEFT's _replace_module, which fails on a LayerNorm without weight
        setattr(parent, target_name, layer_class(target, adapter_name, peft_config, blocks))

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
