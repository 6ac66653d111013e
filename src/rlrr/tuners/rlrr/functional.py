"""The mathematics of RLRR (Dong et al., CVPR 2024, arXiv 2403.19067) as pure functions of tensors.

A weight is (out, in). The paper writes `x W` with W (in, out), so its left vector runs over inputs and its right one
over outputs; here the vectors are named by what they index: `scale_in` and `scale_out`. Where several projections are
stacked along `out`, as in a fused qkv, each block may have input vectors of its own.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from rlrr.tuners.base import RLRRError
from rlrr.tuners.kept import is_transformed

_TILE = 2**18  # numbers of a weight: 1 MB of float32


def scale_matrix(scale_out: Tensor | None, scale_in: Tensor | None) -> Tensor:
    """Compute the matrix S that multiplies the weight element by element (Eq. 18; rank r: supplement F), by block.

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
    """Compute RLRR's update of a frozen weight: S ⊙ W, so that W' = W + S ⊙ W = (1 + S) ⊙ W (Eq. 16 and 20).

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


@torch.no_grad()
def rescaling_norm(
    weight: Tensor,
    scale_out: Tensor | None,
    scale_in: Tensor | None,
    *,
    residual: bool = True,
    multiply_weight: bool = True,
) -> float:
    """Compute the Frobenius norm of the update, `‖W' - W‖`, in float64 and without making it.

    With S the sum of terms `l_k r_kᵀ`, `‖S ⊙ W‖² = Σ_kl (l_k ⊙ l_l)ᵀ (W ⊙ W) (r_k ⊙ r_l)`: O(r² out in) operations, on
    one tile of the weight after the other.

    Args:
        weight: (out, in), frozen, of any dtype.
        scale_out: (out, r) or None.
        scale_in: (r, in), (blocks, r, in) or None.
        residual: as in `rescaling`.
        multiply_weight: as in `rescaling`.
    """
    if scale_out is None:
        assert scale_in is not None, "one of the two sides is rescaled"
        scale_out, scale_in = scale_in.new_ones(len(weight), 1), scale_in.sum(-2, True, dtype=torch.float64)
    elif scale_in is None:
        scale_out, scale_in = scale_out.sum(-1, True, dtype=torch.float64), scale_out.new_ones(1, weight.shape[1])
    scale_out, scale_in = scale_out.double(), scale_in.double().view(-1, *scale_in.shape[-2:])
    if multiply_weight and not residual:  # S - 1 is a sum of one term more
        scale_out, scale_in = F.pad(scale_out, (0, 1), value=-1), F.pad(scale_in, (0, 0, 0, 1), value=1)
    square = scale_out.new_zeros(())
    for right, of_rows, rows in _tiles(scale_in, scale_out, weight):
        left, exact = of_rows.mT, rows.double()
        if multiply_weight:
            square += (_products(left) @ exact.square() * _products(right)).sum()
        else:
            square += ((left @ left.mT) * (right @ right.mT)).sum()
        if not (residual or multiply_weight):  # ‖S - W‖²
            square += exact.square().sum() - 2 * (left @ exact * right).sum()
    return square.clamp_min(0).sqrt().item()


def _tile_rows(columns: int) -> int:
    return max(1, _TILE // columns)


def _tiles(scale_in: Tensor, *tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Yield, block by block, its vectors and matching row slices of all tensors, about `_TILE` numbers per slice."""
    blocks = (tensor.view(len(scale_in), -1, tensor.shape[-1]) for tensor in tensors)
    for vectors, *of_block in zip(scale_in, *blocks, strict=True):
        for rows in zip(*(tensor.split(_tile_rows(scale_in.shape[-1])) for tensor in of_block), strict=True):
            yield vectors, *rows


def _products(terms: Tensor) -> Tensor:
    """Multiply all pairs of rows element by element: (r, n) -> (r * r, n)."""
    return (terms[:, None] * terms).flatten(0, 1)


def scale_gradients(
    gradient: Tensor,
    weight: Tensor,
    scale_out: Tensor | None,
    scale_in: Tensor | None,
    *,
    multiply_weight: bool = True,
) -> tuple[Tensor | None, Tensor | None]:
    """Compute the vectors' gradients from that of W': `∂S = ∂W' ⊙ W`, then `∂S scale_inᵀ` and `scale_outᵀ ∂S`.

    Args:
        gradient: (out, in), of W'; it is summed in the vectors' dtype.
        weight: (out, in), frozen.
        scale_out: (out, r) or None.
        scale_in: (r, in), (blocks, r, in) or None.
        multiply_weight: as in `rescaling`.

    Returns:
        The gradients of `scale_out` and `scale_in`, in their shapes.
    """
    vectors = scale_in if scale_out is None else scale_out
    assert vectors is not None, "one of the two sides is rescaled"
    gradient = gradient.to(vectors.dtype)
    if multiply_weight:
        gradient = gradient.mul_(weight)
    if scale_in is None:
        return gradient.sum(-1, keepdim=True).expand_as(vectors), None
    sets = scale_in.view(-1, *scale_in.shape[-2:])
    blocks = gradient.view(len(sets), -1, gradient.shape[-1])
    if scale_out is None:
        return None, blocks.sum(-2, keepdim=True).expand_as(sets).reshape(scale_in.shape)
    columns = scale_out.view(len(sets), -1, scale_out.shape[-1])
    return (blocks @ sets.mT).reshape(scale_out.shape), (columns.mT @ blocks).reshape(scale_in.shape)


def rescaled_linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    scale_out: Tensor | None,
    scale_in: Tensor | None,
    shift: Tensor | None,
    *,
    residual: bool = True,
    multiply_weight: bool = True,
    tokens: float = 1.0,
) -> Tensor:
    """Compute the linear `x W'ᵀ + b + shift` and keep nothing but its input for the backward pass.

    Plain autograd would keep W' and the steps towards it, for every layer of the model. This makes W' again where it
    is needed and reduces its gradient to those of the vectors at once, so that neither outlives the layer's turn.
    Gradients are those of autograd. Plain autograd takes the place of this function under torch.func, in forward mode
    and where gradients are differentiated again.

    With `tokens` below 1 those of `scale_out` and `scale_in` are estimated, without bias, from that share of the rows
    of x, and only these are kept (see `sample_rows`); all else stays exact.

    Args:
        x: (..., in); under autocast it is cast first, as `F.linear` would.
        weight: (out, in), frozen: it gets no gradient.
        bias: (out) or None.
        scale_out: (out, r) or None.
        scale_in: (r, in), (blocks, r, in) or None.
        shift: (out) or None.
        residual: as in `rescaling`.
        multiply_weight: as in `rescaling`.
        tokens: the share of rows, above 0 and at most 1.

    Returns:
        (..., out), in the dtype of the product, as is the gradient of W' before it is reduced in the vectors' own.
    """
    x = x.to(product_dtype(x.dtype, x.device))
    added = shift if bias is None else bias if shift is None else bias + shift
    if not torch.compiler.is_compiling() and is_transformed():
        with torch.autocast(x.device.type, enabled=False):
            form = {"residual": residual, "multiply_weight": multiply_weight}
            changed = weight + rescaling(weight, scale_out, scale_in, **form)
            return F.linear(x, changed.to(x.dtype), None if added is None else added.to(x.dtype))
    kept = rows = None
    if tokens < 1 and x.ndim > 2 and x.numel():
        rows, weights = sample_rows(x.shape[:-1], tokens, x.device)
        kept = (x.detach().reshape(-1, x.shape[-1])[rows] * weights).to(x.dtype)
    return _RescaledLinear.apply(x, kept, rows, weight, added, scale_out, scale_in, residual, multiply_weight)


def product_dtype(dtype: torch.dtype, device: torch.device) -> torch.dtype:
    """Give the dtype in which `F.linear` multiplies: autocast's, where it is on and the tensors are not double."""
    if torch.is_autocast_enabled(device.type) and dtype != torch.float64:
        return torch.get_autocast_dtype(device.type)
    return dtype


def sample_rows(shape: Sequence[int], share: float, device: torch.device | None = None) -> tuple[Tensor, Tensor]:
    """Draw m rows of an input at random so that the weighted sum over them has the mean of the sum over all.

    The first token of each image is always drawn and has weight 1, since a class token's gradient is unlike those of
    the others. The rest is drawn from all other rows, without replacement; each has the weight of as many as it
    stands for.

    Args:
        shape: (images, ..., tokens), of an input without its features.
        share: m over the number of rows, from 0 to 1; there are at least as many others as first tokens.
        device: of the result.

    Returns:
        Indices of rows (m) and their weights (m, 1), float32.
    """
    images, tokens = shape[0], math.prod(shape[1:])
    first = torch.arange(0, images * tokens, tokens, device=device)
    others = images * (tokens - 1)
    drawn = torch.randperm(others, device=device)[: max(images, round(share * images * tokens) - images)]
    rows = torch.cat([first, drawn + drawn // max(1, tokens - 1) + 1])  # which steps over the first tokens
    weights = torch.ones(len(rows), 1, device=device)
    weights[images:] = others / max(1, len(drawn))
    return rows, weights


def _changed_weight(
    weight: Tensor,
    scale_out: Tensor | None,
    scale_in: Tensor | None,
    residual: bool,
    multiply_weight: bool,
    dtype: torch.dtype,
) -> Tensor:
    """Make W' in a dtype, in as few passes over memory as there can be without a kernel; not for autograd."""
    in_tiles = weight.device.type == "cpu" and not torch.compiler.is_compiling() and multiply_weight
    if scale_out is not None and scale_in is not None and in_tiles:
        return _changed_in_tiles(weight, scale_out, scale_in, residual, dtype)
    scale = scale_matrix(scale_out, scale_in)
    scale = scale.to(torch.promote_types(weight.dtype, scale.dtype))
    blocked = weight.view(len(scale), -1, weight.shape[-1])
    if not multiply_weight:
        changed = scale + blocked if residual else scale.expand_as(blocked).contiguous()
    else:
        scale = scale.add_(1) if residual else scale
        changed = scale.mul_(blocked) if scale.shape == blocked.shape else scale * blocked
    return changed.reshape(weight.shape).to(dtype)


def _changed_in_tiles(
    weight: Tensor, scale_out: Tensor, scale_in: Tensor, residual: bool, dtype: torch.dtype
) -> Tensor:
    """Make W' where both sides are rescaled, tile by tile, so that S never leaves the processor's cache."""
    exact = torch.promote_types(weight.dtype, scale_out.dtype)
    scale_out, scale_in = scale_out.to(exact), scale_in.to(exact).view(-1, *scale_in.shape[-2:])
    if residual:  # 1 + S is the product of the vectors and one more pair, of ones
        scale_out, scale_in = F.pad(scale_out, (0, 1), value=1), F.pad(scale_in, (0, 0, 0, 1), value=1)
    changed = torch.empty_like(weight, dtype=dtype)
    scale = torch.empty(_tile_rows(weight.shape[1]), weight.shape[1], dtype=exact)
    for vectors, of_rows, rows, changed_rows in _tiles(scale_in, scale_out, weight, changed):
        torch.mm(of_rows, vectors, out=scale[: len(rows)])
        torch.mul(scale[: len(rows)], rows, out=changed_rows)
    return changed


def _used(grad: Tensor) -> Tensor | None:
    """Find the rows of a gradient (rows, out) that are not zero, if they are few; None for all.

    In the last block of a ViT with a class token nothing depends on the other tokens. A GPU would make us wait for it.
    """
    if grad.device.type != "cpu" or torch.compiler.is_compiling() or not len(grad) or grad[-1].any():
        return None
    used = grad.any(-1).nonzero().flatten()
    return used if 2 * len(used) <= len(grad) else None


class _RescaledLinear(torch.autograd.Function):
    @staticmethod
    def forward(
        x: Tensor,
        kept: Tensor | None,  # the rows of x that are drawn; None for all
        rows: Tensor | None,
        weight: Tensor,
        bias: Tensor | None,
        scale_out: Tensor | None,
        scale_in: Tensor | None,
        residual: bool,
        multiply_weight: bool,
    ) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            changed = _changed_weight(weight, scale_out, scale_in, residual, multiply_weight, x.dtype)
            output = F.linear(x, changed, None if bias is None else bias.to(x.dtype))
        # F.linear gives a view, which autograd would not let anyone write into, as nn.ReLU(inplace=True) does
        return output if torch.compiler.is_compiling() else torch.ops.aten._unsafe_view(output, output.shape)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, kept, rows, weight, bias, scale_out, scale_in, ctx.residual, ctx.multiply_weight = inputs
        trains_scales = any(ctx.needs_input_grad[5:7])
        ctx.save_for_backward(
            (x if kept is None else kept) if trains_scales else None, rows, weight, scale_out, scale_in
        )
        ctx.bias_dtype = None if bias is None else bias.dtype

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        kept, rows, weight, scale_out, scale_in = ctx.saved_tensors
        for_x, _, _, _, for_bias, *for_scales, _, _ = ctx.needs_input_grad
        of_x = of_bias = of_out = of_in = changed = None
        # these gradients are differentiated again, or there are several at once: operations of autograd alone
        plain = not torch.compiler.is_compiling() and (torch.is_grad_enabled() or is_transformed(grad))
        if plain and rows is not None:
            raise RLRRError("Estimated gradients cannot be differentiated again: set gradient_tokens to 1.")
        with torch.autocast(grad.device.type, enabled=False):
            flat = grad.reshape(-1, grad.shape[-1])
            if for_bias:
                of_bias = flat.sum(0).to(ctx.bias_dtype)
            used = None if plain else _used(flat)
            if for_x:
                form = ctx.residual, ctx.multiply_weight
                if plain:
                    update = rescaling(weight, scale_out, scale_in, residual=form[0], multiply_weight=form[1])
                    changed = (weight + update).to(grad.dtype)
                else:
                    changed = _changed_weight(weight, scale_out, scale_in, *form, grad.dtype)
                if used is None:
                    of_x = grad @ changed
                else:
                    of_x = grad.new_zeros(len(flat), weight.shape[1]).index_copy_(0, used, flat[used] @ changed)
                    of_x = of_x.view(*grad.shape[:-1], -1)
            if any(for_scales):
                kept = kept.reshape(-1, weight.shape[1])
                if rows is None and used is not None:
                    rows, kept = used, kept[used]
                columns = (flat if rows is None else flat[rows]).mT
                if columns.device.type == "cpu" and columns.dtype == torch.bfloat16:
                    columns = columns.contiguous()  # or the product takes up to 1.7 times as long
                # W' is done with: its memory serves again
                of_weight = torch.mm(columns, kept, out=None if plain else changed)
                of_out, of_in = scale_gradients(
                    of_weight, weight, scale_out, scale_in, multiply_weight=ctx.multiply_weight
                )
        return of_x, None, None, None, of_bias, of_out, of_in, None, None


def kernel_matrix(kernel: Tensor) -> Tensor:
    """View a kernel (out, in, kh, kw) as a matrix (out kh, in kw): the rows of the kernel stand beside `out`."""
    out, in_channels, height, width = kernel.shape
    return kernel.transpose(1, 2).reshape(out * height, in_channels * width)


def matrix_kernel(matrix: Tensor, shape: torch.Size) -> Tensor:
    """Make the kernel of that shape, (out, in, kh, kw), from its `kernel_matrix`."""
    out, in_channels, height, width = shape
    return matrix.reshape(out, height, in_channels, width).transpose(1, 2)
