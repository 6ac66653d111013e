"""Drop path as in the RLRR paper's ViT code: dropout of single elements, instead of stochastic depth."""

from __future__ import annotations

from typing import Literal, get_args

from timm.layers import DropPath
from timm.models.swin_transformer import SwinTransformer
from torch import nn

from rlrr.errors import UsageError

DropPathKind = Literal["stochastic_depth", "paper"]


def check_kind(kind: str) -> None:
    """Refuse an unknown kind of drop path.

    Raises:
        RLRRError: `kind` is neither "stochastic_depth" nor "paper".
    """
    if kind not in get_args(DropPathKind):
        raise UsageError(f"drop_path_kind is {kind!r}: give {' or '.join(get_args(DropPathKind))}.")


def drop_elements(model: nn.Module, name: str) -> None:
    """Replace every stochastic depth of a model by dropout at the same rate, in place.

    Stochastic depth drops the whole output of a branch, per image; dropout drops each of its elements on its own.
    A Swin stays as it is, because the paper's Swin code has stochastic depth.

    Args:
        model: a timm model built with a drop path rate.
        name: name of the model, for the error.

    Raises:
        RLRRError: the model has no stochastic depth.
    """
    if isinstance(model, SwinTransformer):
        return
    layers = [
        (parent, key, child)
        for parent in model.modules()
        for key, child in parent.named_children()
        if isinstance(child, DropPath)
    ]
    if not layers:
        raise UsageError(f"{name} has no stochastic depth to replace by the paper's drop path: leave out drop_path.")
    for parent, key, child in layers:
        setattr(parent, key, nn.Dropout(child.drop_prob))
