"""The trained part of a model: counted, and checked to be the adapter and nothing else."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from peft import PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import ModulesToSaveWrapper
from torch import Tensor, nn

from rlrr.backbones.families import classifier_names
from rlrr.errors import RLRRError


def plain_model(model: nn.Module) -> nn.Module:
    """Return the model inside a PEFT model, with the adapters in its layers; any other model as it is."""
    return model.get_base_model() if isinstance(model, PeftModel) else model


def parameter_counts(model: nn.Module) -> dict[str, int]:
    """Count the trained parameters in the classifier (`head`) and elsewhere (`adapter`)."""
    plain = plain_model(model)
    heads = [plain.get_submodule(name) for name in classifier_names(plain)]
    in_head = {id(parameter) for head in heads for parameter in head.parameters()}
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    head = sum(parameter.numel() for parameter in trained if id(parameter) in in_head)
    return {"adapter": sum(parameter.numel() for parameter in trained) - head, "head": head}


def adapter_tensors(model: PeftModel) -> Iterator[tuple[str, str, nn.Parameter]]:
    """Yield the parameters of the active adapter, without a classifier.

    They are in the containers of adapted layers, whatever these wrap, a linear or a whole block, or are held by the
    tuner for all layers under names that begin with the tuner's prefix.

    Yields:
        Name of the adapted module, "" for the tuner; name of the tensor; the parameter.
    """
    adapter = model.active_adapter
    for module, layer in plain_model(model).named_modules():
        for container in layer.adapter_layer_names if isinstance(layer, BaseTunerLayer) else ():
            content = getattr(layer, container)
            if adapter in content:
                yield from ((module, name, parameter) for name, parameter in _named(content[adapter], container))
    tuner: Any = model.base_model
    prefix = getattr(tuner, "prefix", None)  # PEFT's prompts have no tuner
    if prefix is None:
        return
    for path, parameter in tuner.named_parameters():
        parts = path.split(".")
        if path.startswith(prefix) and (adapter in parts or not model.peft_config.keys() & set(parts)):
            yield "", ".".join(part for part in parts if part != adapter), parameter


def _named(content: nn.Module | nn.Parameter, name: str) -> list[tuple[str, nn.Parameter]]:
    """Name the parameters in one adapter's part of a container; a module that is but a weight has the part's name."""
    if isinstance(content, nn.Parameter):
        return [(name, content)]
    parameters = dict(content.named_parameters())
    if parameters.keys() == {"weight"}:
        return [(name, parameters["weight"])]
    return [(f"{name}.{path}", parameter) for path, parameter in parameters.items()]


def check_adapted(model: PeftModel, example: Tensor) -> None:
    """Check, after injection, that exactly the adapter is trainable and that every adapted layer acts.

    A module that reads `layer.weight` past the layer gets the weight that our own layers make; of PEFT's it gets the
    frozen one, so that the adapter would never act.

    Args:
        model: The adapted model.
        example: A batch of images, (batch, 3, H, W); zeros will do.

    Raises:
        RLRRError: naming the layers that do not act, or the parameters that are wrongly (not) trainable.
    """
    layers: dict[str, Any] = {n: module for n, module in model.named_modules() if isinstance(module, BaseTunerLayer)}
    trainable = {id(parameter) for _, _, parameter in adapter_tensors(model)}
    for module in model.modules():
        if isinstance(module, ModulesToSaveWrapper):
            trainable |= {id(parameter) for parameter in module.modules_to_save[model.active_adapter].parameters()}
    wrong = [
        name for name, parameter in model.named_parameters() if parameter.requires_grad != (id(parameter) in trainable)
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
    try:
        with torch.no_grad():
            model.eval()(example)
        for hook in hooks:
            hook.remove()
        idle = {name: layers[name] for name in sorted(layers.keys() - called)}
        if missed := idle and _without_gradient(model, idle, example):
            raise RLRRError(
                f"{len(missed)} of {len(layers)} adapted layers are never called, such as {missed[0]}: this backbone "
                "reads their weights directly, so an adapter there would do nothing. Leave them out of target_modules."
            )
    finally:
        model.train(was_training)


def _without_gradient(model: nn.Module, layers: Mapping[str, nn.Module], example: Tensor) -> list[str]:
    """Name those of the layers of which no trained tensor has a part in the model's output."""
    trained = {name: [p for p in layer.parameters() if p.requires_grad] for name, layer in layers.items()}
    tensors = [parameter for of_one in trained.values() for parameter in of_one]
    with torch.enable_grad():
        output = model(example)
        total = (output if isinstance(output, Tensor) else output[0]).sum()
        gradients = torch.autograd.grad(total, tensors, allow_unused=True) if tensors and total.requires_grad else ()
    acting = {id(tensor) for tensor, gradient in zip(tensors, gradients, strict=False) if gradient is not None}
    return [name for name, of_one in trained.items() if not acting & {id(parameter) for parameter in of_one}]
