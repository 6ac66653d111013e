"""What is trained in a model: counted, and checked to be the adapter and nothing else."""

from __future__ import annotations

from typing import Any

import torch
from peft import PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import ModulesToSaveWrapper
from torch import Tensor, nn

from rlrr.backbones.families import classifier_names
from rlrr.errors import RLRRError


def plain_model(model: nn.Module) -> nn.Module:
    """The model inside a PEFT model, with the adapters in its layers; any other as it is."""
    return model.get_base_model() if isinstance(model, PeftModel) else model


def parameter_counts(model: nn.Module) -> dict[str, int]:
    """Numbers of trained parameters: in the classifier (`head`) and elsewhere (`adapter`)."""
    plain = plain_model(model)
    heads = [plain.get_submodule(name) for name in classifier_names(plain)]
    in_head = {id(parameter) for head in heads for parameter in head.parameters()}
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    head = sum(parameter.numel() for parameter in trained if id(parameter) in in_head)
    return {"adapter": sum(parameter.numel() for parameter in trained) - head, "head": head}


def check_adapted(model: PeftModel, example: Tensor) -> None:
    """Check, after injection, that exactly the adapter is trainable and that every adapted layer is called.

    Some timm families read `layer.weight` past the layer, so that its adapter would never act.

    Args:
        model: The adapted model.
        example: A batch of images, (batch, 3, H, W); zeros will do.

    Raises:
        RLRRError: naming the layers that are never called, or the parameters that are wrongly (not) trainable.
    """
    layers: dict[str, Any] = {n: module for n, module in model.named_modules() if isinstance(module, BaseTunerLayer)}
    adapter = model.active_adapter
    expected = {
        id(parameter)
        for layer in layers.values()
        for container in layer.adapter_layer_names
        if adapter in getattr(layer, container)
        for parameter in _parameters(getattr(layer, container)[adapter])
    }
    for module in model.modules():
        if isinstance(module, ModulesToSaveWrapper):
            expected |= {id(parameter) for parameter in module.modules_to_save[adapter].parameters()}
    wrong = [
        name for name, parameter in model.named_parameters() if parameter.requires_grad != (id(parameter) in expected)
    ]
    if wrong or not layers:
        raise RLRRError(
            f"After injection, {len(wrong)} parameters are wrongly trainable or frozen, such as {wrong[:1]}."
        )
    called = set()
    hooks = [
        layer.register_forward_pre_hook(lambda module, args, name=name: called.add(name))
        for name, layer in layers.items()
    ]
    was_training = model.training
    with torch.no_grad():
        model.eval()(example)
    model.train(was_training)
    for hook in hooks:
        hook.remove()
    if missed := sorted(layers.keys() - called):
        raise RLRRError(
            f"{len(missed)} of {len(layers)} adapted layers are never called, such as {missed[0]}: this backbone reads "
            "their weights directly, so an adapter there would do nothing. Leave them out of target_modules."
        )


def _parameters(value: nn.Module | nn.Parameter) -> list[nn.Parameter]:
    return [value] if isinstance(value, nn.Parameter) else list(value.parameters())
