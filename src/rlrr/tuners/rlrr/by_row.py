"""RLRR's linear where every row of a batch has vectors of its own, as in a mixed batch."""

from __future__ import annotations

import itertools

from torch import Tensor
from torch.nn import functional as F


def rescaled_linear_by_row(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    scale_out: Tensor | None,
    scale_in: Tensor | None,
    *,
    residual: bool = True,
    multiply_weight: bool = True,
) -> Tensor:
    """Compute the linear `x W'ᵀ + bias` where every row has vectors of its own.

    No weight is made: `(S ⊙ W) x = Σ_k s_out_k ⊙ W (s_in_k ⊙ x)`, so that rows of any number of adapters of rank one
    cost one more product with the frozen weight. Sums are made in place, as memory costs about what the products do.

    Args:
        x: (rows, ..., in); all tensors are of one dtype.
        weight: (out, in), shared by all rows.
        bias: (rows, out), or (out) for all rows, or None.
        scale_out: (rows, out, r) or None.
        scale_in: (rows, r, in), (rows, blocks, r, in) or None.
        residual: as in `rescaling`.
        multiply_weight: as in `rescaling`.

    Returns:
        (rows, ..., out).
    """
    rows, (out, in_features) = len(x), weight.shape
    tokens = x.reshape(rows, -1, in_features)
    if scale_out is None:
        assert scale_in is not None, "one of the two sides is rescaled"
        scale_out = x.new_ones(rows, out, scale_in.shape[-2])
    rank = scale_out.shape[-1]
    if scale_in is None:
        scale_in = x.new_ones(rows, rank, in_features)
    per_block = scale_in.reshape(rows, -1, rank, in_features)
    blocks = per_block.shape[1]
    result = F.linear(tokens, weight) if residual else x.new_zeros(rows, tokens.shape[1], out)
    for block, k in itertools.product(range(blocks), range(rank)):
        features = slice(block * out // blocks, (block + 1) * out // blocks)
        vector_in, vector_out = per_block[:, block, k, None], scale_out[:, None, features, k]  # (rows, 1, ...)
        product = F.linear(tokens * vector_in, weight[features]) if multiply_weight else tokens @ vector_in.mT
        result[..., features].addcmul_(product, vector_out)
    if bias is not None:
        result += bias.view(-1, 1, out)
    return result.reshape(*x.shape[:-1], out)
