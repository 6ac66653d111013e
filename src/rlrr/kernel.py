"""The mathematics of RLRR (Dong et al., CVPR 2024, arXiv 2403.19067) as pure functions of tensors.

A weight is (out, in). The paper writes `x W` with W (in, out), so its left vector runs over inputs and its right
one over outputs; here they are named by what they index: `scale_in` and `scale_out`. Where several projections are
stacked along `out`, as in a fused qkv, each block may have input vectors of its own. The kernel of a convolution is
seen as a matrix too (supplement G).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def scale_matrix(scale_out: Tensor | None, scale_in: Tensor | None) -> Tensor:
    """The matrix S that meets the weight element by element (Eq. 18; rank r: supplement F), block by block.

    Args:
        scale_out: (out, r), or None if that side is not rescaled.
        scale_in: (r, in) or, one set for each fused block, (blocks, r, in); or None.

    Returns:
        (blocks, out / blocks, in); 1 in place of the dimension of a side that is None.
    """
    if scale_in is None:
        assert scale_out is not None, "one of the two sides is rescaled"
        return scale_out.sum(-1).view(1, -1, 1)
    blocks = scale_in.view(-1, *scale_in.shape[-2:])
    if scale_out is None:
        return blocks.sum(-2, keepdim=True)
    return scale_out.view(len(blocks), -1, scale_out.shape[-1]) @ blocks


def rescaling(
    weight: Tensor,
    scale_out: Tensor | None,
    scale_in: Tensor | None,
    *,
    residual: bool = True,
    multiply_weight: bool = True,
) -> Tensor:
    """What RLRR adds to a frozen weight: S ⊙ W, so that W' = W + S ⊙ W = (1 + S) ⊙ W (Eq. 16 and 20).

    Args:
        weight: (out, in), frozen.
        scale_out: (out, r) or None.
        scale_in: (r, in), (blocks, r, in) or None.
        residual: False leaves the frozen weight out: W' = S ⊙ W (Table 6).
        multiply_weight: False is the paper's "without W": W' = W + S (Table 11).

    Returns:
        (out, in), W' - W.
    """
    scale = scale_matrix(scale_out, scale_in)
    blocked = weight.view(len(scale), -1, weight.shape[-1])
    update = (scale * blocked if multiply_weight else scale.expand_as(blocked)).reshape(weight.shape)
    return update if residual else update - weight


def kernel_matrix(kernel: Tensor) -> Tensor:
    """A convolution's kernel (out, in, kh, kw) as a matrix (out kh, in kw): the rows of the kernel beside `out`."""
    out, in_channels, height, width = kernel.shape
    return kernel.transpose(1, 2).reshape(out * height, in_channels * width)


def matrix_kernel(matrix: Tensor, shape: torch.Size) -> Tensor:
    """The kernel of that shape, (out, in, kh, kw), of which `matrix` is the `kernel_matrix`."""
    out, in_channels, height, width = shape
    return matrix.reshape(out, height, in_channels, width).transpose(1, 2)


def rescaled_linear_by_row(
    x: Tensor,
    weight: Tensor,
    scale_out: Tensor | None,
    scale_in: Tensor | None,
    *,
    residual: bool = True,
    multiply_weight: bool = True,
) -> Tensor:
    """What `rescaling` adds to `x Wᵀ` when every row has vectors of its own.

    It holds no weight per row: `(S ⊙ W) x = Σ_k s_out_k ⊙ W (s_in_k ⊙ x)`, so a batch that mixes any number of
    adapters of rank one costs one more product with the frozen weight.

    Args:
        x: (rows, ..., in).
        weight: (out, in), shared by all rows.
        scale_out: (rows, out, r) or None.
        scale_in: (rows, r, in), (rows, blocks, r, in) or None.
        residual: as in `rescaling`.
        multiply_weight: as in `rescaling`.

    Returns:
        (rows, ..., out).
    """
    rows, in_features = len(x), x.shape[-1]
    tokens = x.reshape(rows, -1, in_features)
    per_block = None if scale_in is None else scale_in.reshape(rows, -1, *scale_in.shape[-2:])  # (rows, b, r, in)
    blocks = 1 if per_block is None else per_block.shape[1]
    update = []
    for block, block_weight in enumerate(weight.chunk(blocks)):
        vectors_in = tokens.new_ones(rows, 1, in_features) if per_block is None else per_block[:, block]
        if multiply_weight:
            # (rows, r, tokens, in) @ (in, out / blocks)
            products = F.linear(tokens[:, None] * vectors_in[:, :, None], block_weight)
        else:
            products = torch.einsum("nti,nri->nrt", tokens, vectors_in)[..., None]
        if scale_out is None:
            total = products.sum(1).expand(-1, -1, len(block_weight))
        else:
            vectors_out = scale_out.chunk(blocks, 1)[block]  # (rows, out / blocks, r)
            total = torch.einsum("nrto,nor->nto", products.expand(-1, -1, -1, len(block_weight)), vectors_out)
        update.append(total)
    result = torch.cat(update, -1)
    if not residual:
        result = result - F.linear(tokens, weight)
    return result.reshape(*x.shape[:-1], -1)
