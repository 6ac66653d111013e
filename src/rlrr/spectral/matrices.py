"""Matrices of a backbone: their tensors, the block that each lies in, and the kind that each is of.

Only names and shapes are looked at, so that a file of weights will do as well as a model.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from torch import Tensor

from rlrr.backbones.families import HEADS, block_name, is_position_table, module_kind, stacked_projections
from rlrr.tuners.rlrr.functional import kernel_matrix


@dataclass(frozen=True)
class MatrixInfo:
    """Place and kind of a matrix in a model.

    Attributes:
        name: Name of the module; a projection of a fused one has its letter after that: "blocks.3.attn.qkv.q".
        layer: Index of the block, from 0 and through all stages; None outside the blocks.
        kind: Kind of the module, the same in every block: "q", "k", "v", "proj", "fc1", "fc2", "conv2", …; or
            "patch_embed", "stem", ….
        tensor: Name of the tensor that holds the matrix.
        third: Index of the third of the tensor's rows, if projections are stacked there; None for all rows.
    """

    name: str
    layer: int | None
    kind: str
    tensor: str
    third: int | None = None

    def take(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """Return the matrix (out, in), float32 on the CPU, without a copy where none is needed: do not write into it.

        The matrix of a convolution (out, in, kh, kw) is (out kh, in kw), as in supplement G of the paper.
        """
        weight = tensors[self.tensor].detach()
        if self.third is not None:
            weight = weight.chunk(3)[self.third]
        return (kernel_matrix(weight) if weight.ndim == 4 else weight.flatten(1)).float().cpu()


def in_classifier(name: str, heads: Iterable[str] = HEADS) -> bool:
    """Tell whether a tensor of this name is part of one of the classifiers `heads`."""
    return name.startswith(tuple(f"{head}." for head in heads))


def matrices(tensors: Mapping[str, Tensor], heads: Iterable[str] = ()) -> dict[str, Tensor]:
    """Return the weights of two and more dimensions by name, without classifiers (`heads`, `HEADS`) and positions."""
    classifiers = (*HEADS, *heads)
    return {
        name: tensor
        for name, tensor in tensors.items()
        if name.endswith(".weight")
        and tensor.ndim > 1
        and tensor.numel()
        and not is_position_table(name)
        and not in_classifier(name, classifiers)
    }


def matrix_infos(tensors: Iterable[str]) -> tuple[MatrixInfo, ...]:
    """Describe the matrices in tensors of these names, in the same order, which is the order of the blocks."""
    layers: dict[str, int] = {}
    infos: list[MatrixInfo] = []
    for tensor in tensors:
        module = tensor.removesuffix(".weight")
        block = block_name(module)
        layer = None if block is None else layers.setdefault(block, len(layers))
        if projections := stacked_projections(module):
            infos += [MatrixInfo(f"{module}.{kind}", layer, kind, tensor, i) for i, kind in enumerate(projections)]
        else:
            infos.append(MatrixInfo(module, layer, module_kind(module), tensor))
    return tuple(infos)
