"""The names of the paper's own code (zstarN70/RLRR) and ours, for its ViT and its Swin.

Its `scale_col` (1, in) is our `scale_in`, its `scale_line` (out, 1) our `scale_out`, its `shift_bias` (1, out) our
`shift`; its `ssf_scale_*` and `ssf_shift_*` are ours after norms and the patch embedding. Its ViT has query, key
and value apart where timm has one qkv.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from rlrr.errors import RLRRError

# (regex of an official name, timm's name), tried in turn; what matches none keeps its name
_VIT = (
    (r"transformer\.embeddings\.(cls_token)", r"\1"),
    (r"transformer\.embeddings\.position_embeddings", "pos_embed"),
    (r"transformer\.embeddings\.patch_embeddings", "patch_embed.proj"),
    (r"transformer\.embeddings\.ssf_(scale|shift)_patch", r"patch_embed.proj.rlrr_\1"),
    (r"transformer\.encoder\.encoder_norm", "norm"),
    (r"transformer\.encoder\.ssf_(scale|shift)_enc_norm", r"norm.rlrr_\1"),
    (r"transformer\.encoder\.layer\.(\d+)\.ssf_(scale|shift)_attn_norm", r"blocks.\1.norm1.rlrr_\2"),
    (r"transformer\.encoder\.layer\.(\d+)\.ssf_(scale|shift)_ffn_norm", r"blocks.\1.norm2.rlrr_\2"),
    (r"transformer\.encoder\.layer\.(\d+)\.attention_norm", r"blocks.\1.norm1"),
    (r"transformer\.encoder\.layer\.(\d+)\.ffn_norm", r"blocks.\1.norm2"),
    (r"transformer\.encoder\.layer\.(\d+)\.attn\.out", r"blocks.\1.attn.proj"),
    (r"transformer\.encoder\.layer\.(\d+)\.attn\.(query|key|value)", r"blocks.\1.attn.qkv[\2]"),
    (r"transformer\.encoder\.layer\.(\d+)\.ffn\.(fc[12])", r"blocks.\1.mlp.\2"),
)
_SWIN = (
    (r"ssf_(scale|shift)_encode_norm", r"norm.rlrr_\1"),
    (r"(layers\.\d+\.blocks\.\d+)\.ssf_(scale|shift)_(norm[12])", r"\1.\3.rlrr_\2"),
    # timm counts the patch merging to the stage it leads into
    (r"layers\.(\d+)\.downsample", lambda match: f"layers.{int(match[1]) + 1}.downsample"),
    (r"head", "head.fc"),
)
_LEAVES = ((r"\.mlp\.(weight|bias)$", r".\1"), (r"\.scale_line$", ".rlrr_scale_out"),
           (r"\.scale_col$", ".rlrr_scale_in"), (r"\.shift_bias$", ".rlrr_shift"))  # fmt: skip
_QKV = ("query", "key", "value")


def from_official(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Rename the tensors of an official checkpoint to those of a timm model with an RLRR adapter.

    Args:
        tensors: By official name, each with the shape the official code gives it.

    Returns:
        The frozen weights, by timm's names, and the trained tensors (vectors and classifier), by the names they
        have in an `adapter_model.safetensors`, both in our shapes.

    Raises:
        RLRRError: part of a query, key, value triple is missing.
    """
    names = _VIT if any(name.startswith("transformer.") for name in tensors) else _SWIN
    renamed = {_rename(name, names): tensor for name, tensor in tensors.items()}
    backbone, adapter = {}, {}
    for name, tensor in _fuse_qkv(renamed).items():
        if name.endswith("downsample.reduction.bias"):
            continue  # never used: the official forward reads only the shift
        if name.endswith("rlrr_shift"):
            tensor = tensor.reshape(-1)
        is_head = name.startswith("head.")
        if is_head or ".rlrr_" in name:
            adapter[f"base_model.model.{name}"] = tensor
        if ".rlrr_" not in name:
            backbone[name] = tensor
    return backbone, adapter


def _rename(name: str, table: tuple) -> str:
    for pattern, replacement in table:
        new, count = re.subn(f"^{pattern}(?=$|\\.)", replacement, name)
        if count:
            name = new
            break
    for pattern, replacement in _LEAVES:
        name = re.sub(pattern, replacement, name)
    return name


def _fuse_qkv(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    fused: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if "[" not in name:
            fused[name] = tensor
        elif "[query]" in name:
            parts = [tensors[part] for part in (name.replace("query", part) for part in _QKV) if part in tensors]
            if len(parts) < len(_QKV):
                raise RLRRError(f"The official checkpoint is incomplete: {name} has no key or no value beside it.")
            dimension = 1 if name.endswith("rlrr_shift") else 0
            join = torch.stack if name.endswith("rlrr_scale_in") else torch.cat
            fused[name.replace("[query]", "")] = join(parts, dim=dimension)
    return fused
