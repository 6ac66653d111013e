"""Translation between the names of the paper's code (zstarN70/RLRR) and the names of rlrr, for its ViT and Swin.

The paper's `scale_col` (1, in) is `scale_in` here, `scale_line` (out, 1) is `scale_out`, and `shift_bias` (1, out) is
`shift`; `ssf_scale_*` and `ssf_shift_*` are the scale and shift after norms and the patch embedding. Query, key and
value are three linears in the paper's ViT and one qkv in timm's.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from rlrr.errors import RLRRError, UsageError

PREFIX = "base_model.model."  # of all names in an adapter_model.safetensors

# (beginning of an official name, beginning of timm's name), tried in turn; {} stand for the common parts
_VIT = (
    ("transformer.embeddings.cls_token", "cls_token"),
    ("transformer.embeddings.position_embeddings", "pos_embed"),
    ("transformer.embeddings.ssf_{kind}_patch", "patch_embed.proj.rlrr_{kind}"),
    ("transformer.embeddings.patch_embeddings", "patch_embed.proj"),
    ("transformer.encoder.ssf_{kind}_enc_norm", "norm.rlrr_{kind}"),
    ("transformer.encoder.encoder_norm", "norm"),
    ("transformer.encoder.layer.{i}.ssf_{kind}_attn_norm", "blocks.{i}.norm1.rlrr_{kind}"),
    ("transformer.encoder.layer.{i}.ssf_{kind}_ffn_norm", "blocks.{i}.norm2.rlrr_{kind}"),
    ("transformer.encoder.layer.{i}.attention_norm", "blocks.{i}.norm1"),
    ("transformer.encoder.layer.{i}.ffn_norm", "blocks.{i}.norm2"),
    ("transformer.encoder.layer.{i}.attn.out", "blocks.{i}.attn.proj"),
    ("transformer.encoder.layer.{i}.attn.{part}", "blocks.{i}.attn.qkv[{part}]"),
    ("transformer.encoder.layer.{i}.ffn.{fc}", "blocks.{i}.mlp.{fc}"),
    ("head", "head"),
)
_SWIN = (
    ("ssf_{kind}_encode_norm", "norm.rlrr_{kind}"),
    ("layers.{i}.blocks.{j}.ssf_{kind}_{norm}", "layers.{i}.blocks.{j}.{norm}.rlrr_{kind}"),
    ("layers.{i}.blocks", "layers.{i}.blocks"),
    ("layers.{stage}.downsample", "layers.{next}.downsample"),  # timm counts a downsample to the stage after it
    ("head", "head.fc"),
    ("patch_embed", "patch_embed"),
    ("norm", "norm"),
)
_LEAVES = (("scale_line", "rlrr_scale_out"), ("scale_col", "rlrr_scale_in"), ("shift_bias", "rlrr_shift"))
_PLACEHOLDERS = {
    **dict.fromkeys(("i", "j", "stage", "next"), r"\d+"),
    **{"kind": "scale|shift", "part": "query|key|value", "fc": "fc[12]", "norm": "norm[12]"},
}
_QKV = ("query", "key", "value")


def from_official(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Rename the tensors of an official checkpoint as in a timm model with an RLRR adapter.

    Args:
        tensors: Tensors by official name, in the official shapes.

    Returns:
        The frozen weights by timm's names, and the trained tensors (vectors and classifier) by their names in an
        `adapter_model.safetensors`, both in the shapes of rlrr.

    Raises:
        RLRRError: part of a query, key, value triple is missing.
    """
    table = _VIT if any(name.startswith("transformer.") for name in tensors) else _SWIN
    renamed = {_to_our_name(name, table): tensor for name, tensor in tensors.items()}
    backbone, adapter = {}, {}
    for name, tensor in _fuse_qkv(renamed).items():
        if name.endswith("downsample.reduction.bias"):
            continue  # never used: the official forward reads only the shift
        if name.endswith("rlrr_shift"):
            tensor = tensor.reshape(-1)
        if name.startswith("head.") or ".rlrr_" in name:
            adapter[PREFIX + name] = tensor
        if ".rlrr_" not in name:
            backbone[name] = tensor
    return backbone, adapter


def to_official(adapter: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the trained tensors of an RLRR adapter on a timm model to the names of the official trainer.

    Args:
        adapter: Vectors and classifier, by name and in the shapes of an `adapter_model.safetensors`.

    Returns:
        The tensors by official name, in the official shapes.

    Raises:
        RLRRError: the official code has no place for a tensor.
    """
    tensors = {name.removeprefix(PREFIX): tensor for name, tensor in adapter.items()}
    table = _SWIN if any(name.startswith("layers.") for name in tensors) else _VIT
    official = {}
    for name, tensor in (_split_qkv(tensors) if table is _VIT else tensors).items():
        official_name = _to_official_name(name, table)
        if official_name is None:
            raise RLRRError(f"The paper's code has no place for {name}.")
        official[official_name] = tensor.reshape(1, -1) if official_name.endswith(".shift_bias") else tensor
    return official


def check_architecture(model: torch.nn.Module) -> None:
    """Refuse a backbone that the official code does not have.

    Args:
        model: A plain timm model.

    Raises:
        RLRRError: it is neither the plain ViT nor the Swin of the paper.
    """
    kind = type(model).__name__
    unknown = ""
    if kind == "VisionTransformer":
        names = (name.replace(".qkv.", ".qkv[query].") for name in model.state_dict())
        unknown = next((f" with {name}" for name in names if _to_official_name(name, _VIT) is None), "")
    if unknown or kind not in ("VisionTransformer", "SwinTransformer"):
        raise UsageError(f"The paper's code has no {kind}{unknown}, only its plain ViT and its Swin.")


def _to_official_name(name: str, table: tuple[tuple[str, str], ...]) -> str | None:
    """Translate a name of rlrr with query, key and value apart; None if the official code has no such name."""
    for official, timm_name in table:
        if match := re.match(_regex(timm_name), name):
            name = _filled(official, match) + name[match.end() :]
            for leaf, our_leaf in _LEAVES:
                name = re.sub(rf"\.{our_leaf}$", f".{leaf}", name)
            return None if ".rlrr_" in name else name
    return None


def _to_our_name(name: str, table: tuple[tuple[str, str], ...]) -> str:
    """Translate an official name; a name that is not in the table stays."""
    for official, timm_name in table:
        if match := re.match(_regex(official), name):
            name = _filled(timm_name, match) + name[match.end() :]
            break
    name = re.sub(r"\.mlp\.(weight|bias)$", r".\1", name)  # the frozen linear inside an adapted one
    for leaf, our_leaf in _LEAVES:
        name = re.sub(rf"\.{leaf}$", f".{our_leaf}", name)
    return name


def _regex(template: str) -> str:
    escaped = re.escape(template).replace(r"\{", "{").replace(r"\}", "}")
    return re.sub(r"\{(\w+)\}", lambda match: f"(?P<{match[1]}>{_PLACEHOLDERS[match[1]]})", escaped) + r"(?=$|\.)"


def _filled(template: str, match: re.Match[str]) -> str:
    values = match.groupdict()
    if "stage" in values:
        values["next"] = str(int(values["stage"]) + 1)
    elif "next" in values:
        values["stage"] = str(int(values["next"]) - 1)
    return template.format(**values)


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


def _split_qkv(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    split: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if ".attn.qkv." not in name:
            split[name] = tensor
            continue
        parts = tensor if name.endswith("rlrr_scale_in") else tensor.chunk(len(_QKV))
        for letter, part in zip(_QKV, parts, strict=True):
            split[name.replace(".qkv.", f".qkv[{letter}].")] = part.clone()  # torch.save would write a view whole
    return split
