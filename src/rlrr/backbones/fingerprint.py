"""The fingerprint of a backbone: one number that names its weights."""

from __future__ import annotations

import hashlib

import torch
from torch import nn

from rlrr.backbones.families import classifier_names, is_resized


def fingerprint(model: nn.Module, adapters: str | None = None) -> str:
    """Return the SHA-256, in hexadecimal, of the weights of a backbone.

    The hash runs over name, dtype, shape and bytes of the floating-point parameters and persistent buffers, in the
    order of their names. The classifier is left out, as it is new in each model, and so are the tables of positions,
    which are resized to the image size: one file of weights has one fingerprint, at every image size and for every
    number of classes.

    Args:
        model: The backbone.
        adapters: Prefix of the tensors of adapters in the model, which are left out; None for a plain model.
    """
    heads = tuple(f"{name}." for name in classifier_names(model))
    state = model.state_dict()
    if adapters is not None:
        state = {_plain(name): tensor for name, tensor in state.items() if not _is_learned(name, adapters)}
    digest = hashlib.sha256()
    for name, tensor in sorted(state.items()):
        if tensor.is_floating_point() and not name.startswith(heads) and not is_resized(name):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def _is_learned(name: str, adapters: str) -> bool:
    """Tell whether a tensor belongs to an adapter, or to a module that PEFT trains whole."""
    return any(part.startswith(adapters) or part == "modules_to_save" for part in name.split("."))


def _plain(name: str) -> str:
    """Give a tensor of an adapted model the name that it has in the plain model."""
    return name.replace(".base_layer.", ".").replace(".original_module.", ".")
