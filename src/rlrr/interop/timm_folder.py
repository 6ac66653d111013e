"""Folders of plain models in timm's Hub format, which timm and transformers both open without `rlrr`."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Sequence, Set
from pathlib import Path
from typing import Any

import timm
import torch
from timm.models import save_for_hf
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from rlrr.backbones.weights import CHECKSUM, CONFIG, FILES
from rlrr.errors import RLRRError
from rlrr.files import atomic_folder, file_checksum, read_json, write_sealed

# Keys of timm's pretrained config about the weights before fine-tuning. Their licence stays.
_BEFORE = ("tag", "description", "origin_url", "paper_name", "paper_ids", "notes")


def write_timm_folder(model: nn.Module, folder: Path, classes: list[str], data_config: dict[str, Any]) -> None:
    """Write `config.json` and `model.safetensors`, both or neither.

    Args:
        model: A timm model without an adapter, which is put in evaluation mode. A bias that merging added, where timm
            has none, is moved into the norm before or after it, or into the biases that an attention holds apart.
        folder: A folder that does not exist, or is empty.
        classes: Class names, recorded as the labels.
        data_config: The preprocessing the model was trained with, recorded as timm's.

    Raises:
        RLRRError: the model has a bias where timm's has none and it cannot be moved, or the disk is full.
    """
    config: Any = model.pretrained_cfg
    architecture = config["architecture"]
    with torch.device("meta"):
        plain = timm.create_model(architecture, **timm.models.get_model_args(model))
    _move_extra_biases(model, model.state_dict().keys() - plain.state_dict().keys(), data_config["input_size"])
    if extra := sorted(model.state_dict().keys() - plain.state_dict().keys()):
        raise RLRRError(
            f"timm's {architecture} has no place for {extra[0]} ({len(extra)} such), which a merged shift "
            "needs: train with RLRRConfig(shift=False) for a model that merges."
        )
    with atomic_folder(folder) as scratch:
        handle = model.register_state_dict_post_hook(_apart)
        try:
            save_for_hf(
                model,
                str(scratch),
                model_config={"label_names": classes},
                safe_serialization=True,
                data_config=dict(data_config),
            )
        finally:
            handle.remove()
        config = read_json(scratch / CONFIG)
        config["model_args"].pop("num_classes")  # transformers rejects a second one beside that at the top
        for key in _BEFORE:
            config["pretrained_cfg"].pop(key, None)
        write_sealed(scratch / CONFIG, config | {CHECKSUM: file_checksum(scratch / FILES[0])})
        # safetensors lets only the owner read what it writes
        shutil.copymode(scratch / CONFIG, scratch / FILES[0])


def _apart(module: nn.Module, state: dict[str, torch.Tensor], prefix: str, metadata: Any) -> None:
    """Copy tensors that stand in a state under several names, as safetensors takes each memory once only."""
    taken: set[int] = set()
    for name, tensor in state.items():
        if tensor.data_ptr() in taken:
            state[name] = tensor.clone()
        taken.add(tensor.data_ptr())


def _move_extra_biases(model: nn.Module, extra: Set[str], input_size: Sequence[int]) -> None:
    """Move biases that merging added to layers without a bias to where timm has a place, where the function stays.

    That is a norm before or after the layer, or the biases of queries and values that BEiT and EVA hold apart.

    Args:
        model: The merged model, which is put in evaluation mode.
        extra: Names of tensors that timm's model of this architecture does not have.
        input_size: Shape (C, H, W) of an image.
    """
    layers = {name.removesuffix(".bias"): model.get_submodule(name.rpartition(".")[0]) for name in extra}
    moves = [_into_batch_norm(conv, norm) for conv, norm in _batch_norms_after(model, layers.values(), input_size)]
    for name, layer in layers.items():
        parent: Any = model.get_submodule(name.rpartition(".")[0])
        if name.endswith("qkv") and isinstance(getattr(parent, "q_bias", None), nn.Parameter):
            moves.append(_into_attention(layer, parent))
    _move_where_the_function_stays(model, moves, input_size)
    for name, layer in layers.items():
        norm = getattr(model.get_submodule(name.rpartition(".")[0]), "norm", None)
        if not (name.endswith("reduction") and isinstance(layer, nn.Linear) and isinstance(norm, nn.LayerNorm)):
            continue
        if norm.normalized_shape == (layer.in_features,):  # in Swin V2 the norm comes after
            _move_into_layer_norm(layer, norm)


Move = tuple[Callable[[], None], Callable[[], None]]
"""A change of a model, and its undoing."""


def _move_where_the_function_stays(model: nn.Module, moves: Sequence[Move], input_size: Sequence[int]) -> None:
    """Make all moves that leave the logits of an image of noise as they are.

    A norm may not be alone to take the output of a convolution, and a shift of keys acts where they are rotated.
    """
    if not moves:
        return
    images = torch.randn(1, *input_size, generator=torch.Generator().manual_seed(0)).to(next(model.parameters()))
    with torch.no_grad():
        before = model.eval()(images)

        def stays() -> bool:
            return torch.allclose(model(images), before, rtol=0, atol=1e-4 * before.abs().max().item())

        for move, _ in moves:
            move()
        if stays():
            return
        for _, undo in moves:
            undo()
        for move, undo in moves:
            move()
            if not stays():
                undo()


def _into_batch_norm(conv: Any, norm: Any) -> Move:
    bias = conv.bias

    def move() -> None:
        norm.running_mean -= bias.detach()  # the norm subtracts its mean
        conv.register_parameter("bias", None)

    def undo() -> None:
        norm.running_mean += bias.detach()
        conv.register_parameter("bias", bias)

    return move, undo


def _into_attention(linear: Any, attention: Any) -> Move:
    """Move the bias of a fused qkv into `q_bias` and `v_bias`; a shift of all keys changes no plain softmax."""
    bias, (query, _, value) = linear.bias, linear.bias.detach().chunk(3)

    def move() -> None:
        attention.q_bias += query
        attention.v_bias += value
        linear.register_parameter("bias", None)

    def undo() -> None:
        attention.q_bias -= query
        attention.v_bias -= value
        linear.register_parameter("bias", bias)

    return move, undo


def _batch_norms_after(model: nn.Module, layers: Iterable[nn.Module], input_size: Sequence[int]) -> list[Any]:
    """Find, in one forward pass, the pairs of a convolution and the BatchNorm that takes its output directly."""
    convs = [layer for layer in layers if isinstance(layer, nn.Conv2d)]
    outputs: list[tuple[nn.Module, torch.Tensor]] = []  # kept alive, so that no two outputs share an identity
    pairs: list[Any] = []

    def keep(conv: nn.Module, inputs: Any, output: torch.Tensor) -> None:
        outputs.append((conv, output))

    def match(norm: nn.Module, inputs: Any) -> None:
        if norm.running_mean is not None:
            pairs.extend((conv, norm) for conv, output in outputs if output is inputs[0])

    norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    hooks = [conv.register_forward_hook(keep) for conv in convs]
    hooks += [norm.register_forward_pre_hook(match) for norm in norms]
    try:
        if convs and norms:
            with torch.inference_mode():
                model.eval()(torch.zeros(1, *input_size, device=convs[0].weight.device))
    finally:
        for hook in hooks:
            hook.remove()
    return pairs


def _move_into_layer_norm(linear: nn.Linear, norm: nn.LayerNorm) -> None:
    """Move the bias of Swin's patch merging into the LayerNorm before it.

    `reduction` (W, out <= in, of full rank) follows `norm`, so there is a d with W d = b to add to the norm's bias.
    """
    weight, bias = linear.weight.detach().double(), linear.bias.detach().double()
    addend = torch.linalg.lstsq(weight, bias[:, None]).solution[:, 0]
    if torch.allclose(weight @ addend, bias, rtol=0, atol=1e-6 * bias.abs().max().item()):
        norm.bias.data += addend.to(norm.bias)
        linear.register_parameter("bias", None)
