"""The matrices of a backbone: which of its tensors they are, and where each one is in the model.

Only names and shapes are looked at, so that a file of weights will do as well as a model. The blocks are those of
timm's and transformers' families.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from torch import Tensor

from rlrr.tuners.rlrr.functional import kernel_matrix

# What files of weights call the classifier.
HEADS = ("head", "head_dist", "fc", "classifier", "cls_classifier", "distillation_classifier", "heads")

_POSITIONS = re.compile(r"pos(ition)?_embed|relative_position|rel_pos")
_BLOCK = re.compile(  # staged models first: of "layers.1.blocks.0" the stage is not a block
    r"(?:^|\.)(?:(?:layers|stages)\.\d+\.blocks|blocks(?:\.\d+)?|layer\d+|layers?(?!\.\d+\.downsample))\.\d+\."
)
# Where q, k and v are known to be stacked one after the other; timm's models with "stages" stack them head by head.
_FUSED = re.compile(r"(?:timm_model\.)?(?:layers\.\d+\.)?blocks\.\d+\.attn\.qkv")

_KINDS = {
    "attention.output.dense": "proj",
    "o_proj": "proj",
    "out_proj": "proj",
    "intermediate.dense": "fc1",
    "output.dense": "fc2",
    **{f"{letter}_proj": letter for letter in "qkv"},
    **{name: name[0] for name in ("query", "key", "value")},
    "patch_embed.proj": "patch_embed",
    "patch_embeddings.projection": "patch_embed",
}


@dataclass(frozen=True)
class Place:
    """Where a matrix is in a model.

    Attributes:
        name: Name of its module; a projection of a fused one has its letter after that: "blocks.3.attn.qkv.q".
        layer: Index of the block, from 0 and through all stages; None outside the blocks.
        kind: What it is in every block: "q", "k", "v", "proj", "fc1", "fc2", "conv2", …; or "patch_embed", "stem", ….
        tensor: Name of the tensor it is in.
        third: Which third of the tensor's rows it is, if projections are stacked there; None for all rows.
    """

    name: str
    layer: int | None
    kind: str
    tensor: str
    third: int | None = None

    def take(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """The matrix (out, in), float32 on the CPU, without a copy where none is needed: not to be written into.

        That of a convolution (out, in, kh, kw) is (out kh, in kw), as in supplement G of the paper.
        """
        weight = tensors[self.tensor].detach()
        if self.third is not None:
            weight = weight.chunk(3)[self.third]
        return (kernel_matrix(weight) if weight.ndim == 4 else weight.flatten(1)).float().cpu()


def in_classifier(name: str, heads: Iterable[str] = HEADS) -> bool:
    """Whether a tensor of this name is part of one of the classifiers `heads`."""
    return name.startswith(tuple(f"{head}." for head in heads))


def matrices(tensors: Mapping[str, Tensor], heads: Iterable[str] = ()) -> dict[str, Tensor]:
    """The weights of two and more dimensions by name, without classifiers, here and in `HEADS`, and positions."""
    left_out = (*HEADS, *heads)
    return {
        name: tensor
        for name, tensor in tensors.items()
        if name.endswith(".weight")
        and tensor.ndim > 1
        and tensor.numel()
        and not _POSITIONS.search(name)
        and not in_classifier(name, left_out)
    }


def places(tensors: Iterable[str]) -> tuple[Place, ...]:
    """Where the matrices are that these tensors hold, in their order, which is that of the blocks."""
    blocks: dict[str, int] = {}
    found = []
    for tensor in tensors:
        module = tensor.removesuffix(".weight")
        block = _BLOCK.search(module)
        layer = blocks.setdefault(module[: block.end()], len(blocks)) if block else None
        if _FUSED.fullmatch(module):
            found += [Place(f"{module}.{letter}", layer, letter, tensor, third) for third, letter in enumerate("qkv")]
        else:
            found.append(Place(module, layer, _kind(module[block.end() :] if block else module, layer), tensor))
    return tuple(found)


def _kind(path: str, layer: int | None) -> str:
    if layer is None and path.split(".")[0] == "conv1":  # of a ResNet, whose blocks have another one
        return "stem"
    known = (kind for ending, kind in _KINDS.items() if f".{path}".endswith(f".{ending}"))
    words = (part for part in reversed(path.split(".")) if not part.isdigit())
    return next(known, None) or next(words, path)
