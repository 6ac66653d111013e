"""Measures of a weight's change, as pure functions of W and W' = W + ΔW, both (out, in), computed in float64.

The view is the paper's (Dong et al., CVPR 2024, section 3.2): `W = Σ_d λ_d u_d v_dᵀ`, and every method is described by
its effect on these terms. A measure that is not defined, such as the effective rank of a zero matrix, is None and never
NaN.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from rlrr.spectral.decompose import Decomposition, leading_right

# Alternating least squares: the most rounds, the rounds after which only the best start goes on, and the gain of one
# round, as a share of ‖ΔW‖², that ends them.
_ROUNDS, _TRIED, _ENOUGH = 50, 10, 1e-8
_PAIRS, _POWER_STEPS = 3, 2


def relative_change(before: Tensor, after: Tensor) -> float | None:
    """Return ‖ΔW‖_F / ‖W‖_F.

    Returns:
        0 for a weight that did not change, even a zero one; None for a zero weight that did change.
    """
    before = before.double()
    return relative((after.double() - before).norm().item(), before.norm().item())


def relative(change: float, norm: float) -> float | None:
    """Return `relative_change` from the norms of ΔW and W."""
    return change / norm if norm else None if change else 0.0


def effective_rank(values: Tensor) -> float | None:
    """Return exp of the entropy of the singular values as shares of their sum (Roy and Vetterli, EUSIPCO 2007).

    Args:
        values: (k), all singular values.

    Returns:
        From 1 to k; None for a zero matrix.
    """
    total = values.sum()
    if not total:
        return None
    shares = values / total
    return torch.special.entr(shares).sum().exp().item()


def stable_rank(values: Tensor) -> float | None:
    """Return ‖W‖_F² / ‖W‖_2² (Rudelson and Vershynin, J. ACM 2007) from the singular values.

    Args:
        values: (k), all singular values.

    Returns:
        From 1 to k; None for a zero matrix.
    """
    largest = values.max() if len(values) else values.new_zeros(())
    return (values / largest).square().sum().item() if largest else None


@dataclass(frozen=True)
class Energy:
    """Split ‖ΔW‖_F² into shares by the singular directions of W; all are 0 or None if ΔW is zero.

    Attributes:
        spectrum_share: Share of `u_dᵀ ΔW v_d`, which to first order moves the singular values.
        rotation_share: Share of `u_dᵀ ΔW v_e` with d ≠ e and of directions that W does not have, which to first
            order turns the bases. The two shares add up to 1.
        by_direction: (k) `(‖u_dᵀ ΔW‖² + ‖ΔW v_d‖²) / 2`; over all directions of a square W of full rank they add up
            to 1.
        diagonal: (k) `(u_dᵀ ΔW v_d)²`; they add up to `spectrum_share`.
    """

    spectrum_share: float | None
    rotation_share: float | None
    by_direction: Tensor
    diagonal: Tensor


def energy_by_direction(before: Decomposition, change: Tensor) -> Energy:
    """Split the energy of `Uᵀ ΔW V` into its diagonal and all else.

    Where singular values of W are equal their vectors are any basis of a subspace, and the split within it is not
    defined by W alone.

    Args:
        before: The decomposition of W.
        change: ΔW (out, in).
    """
    change = change.double()
    total = change.square().sum()
    if not total:
        none = torch.zeros_like(before.values)
        return Energy(None, None, none, none)
    from_left, from_right = before.left.mT @ change, change @ before.right  # (k, in), (out, k)
    diagonal = (from_left * before.right.mT).sum(1).square() / total
    of_left, of_right = from_left.square().sum(1), from_right.square().sum(0)
    spectrum = min(1.0, diagonal.sum().item())
    return Energy(spectrum, 1 - spectrum, (of_left + of_right) / (2 * total), diagonal)


def principal_angles(first: Tensor, second: Tensor) -> Tensor:
    """Return the angles between two subspaces, from cosines and sines together, so that small ones are exact too.

    Args:
        first: (n, k), orthonormal columns.
        second: (n, k), likewise.

    Returns:
        (k), in degrees from 0 to 90, ascending.
    """
    shared = first.mT @ second
    cosines = torch.linalg.svdvals(shared)
    sines = torch.linalg.svdvals(second - first @ shared).flip(0)
    return torch.atan2(sines, cosines).rad2deg()


def acted_on(before: Decomposition, after: Tensor, directions: int) -> tuple[Tensor, Tensor]:
    """Return each basis after tuning with the other one held, as the paper argues: `W' V Σ⁻¹` and `W'ᵀ U Σ⁻¹`.

    For `W' = diag(s) W` the first is `diag(s) U`, for `W' = W diag(s)` the second is `diag(s) V`.

    Args:
        before: The decomposition of W.
        after: W' (out, in).
        directions: The number of leading directions, at most.

    Returns:
        (out, k) and (in, k), columns neither orthogonal nor of length one.
    """
    after, values = after.double(), before.values[:directions]
    return after @ before.right[:, :directions] / values, after.mT @ before.left[:, :directions] / values


def departure_from_orthogonality(basis: Tensor) -> float | None:
    """Return the root mean square of the cosines between different columns.

    Unrelated columns have about 1 / √n.

    Args:
        basis: (n, k); columns that are zero are left out.

    Returns:
        From 0 for orthogonal columns to 1 for parallel ones; None if there are fewer than two.
    """
    lengths = basis.norm(dim=0)
    columns = basis[:, lengths > 0] / lengths[lengths > 0]
    count = columns.shape[1]
    if count < 2:
        return None
    cosines = columns.mT @ columns
    return (cosines.fill_diagonal_(0).norm() / math.sqrt(count * (count - 1))).item()


def intruder_dimensions(before_left: Tensor, after_left: Tensor, threshold: float = 0.5) -> int:
    """Count leading directions of W' that are unlike any of W (Shuttleworth et al., arXiv 2410.21228).

    Args:
        before_left: (out, k), all left singular vectors of W.
        after_left: (out, n), the leading left singular vectors of W'.
        threshold: An intruder's absolute cosine with every old direction is below it.
    """
    if not before_left.shape[1]:
        return after_left.shape[1]
    nearest = (before_left.mT @ after_left).abs().amax(dim=0)
    return int((nearest < threshold).sum())


@dataclass(frozen=True)
class Explained:
    """Hold the shares of ‖ΔW‖_F² that the best update of each form explains; all are None if ΔW is zero.

    Attributes:
        by_left: `diag(a) W`, a scale for each output. An update unrelated to W has about 1 / in.
        by_right: `W diag(b)`, a scale for each input.
        by_both: `(a bᵀ) ⊙ W`, the form of RLRR of rank 1 with its residual; at least each of the others.
    """

    by_left: float | None
    by_right: float | None
    by_both: float | None


def explained_by_scaling(before: Tensor, change: Tensor) -> Explained:
    """Measure how much of an update is a rescaling, by least squares over each form.

    One side has a closed form. Both sides are a weighted low-rank problem, solved by alternating least squares, each
    half of which is exact. It starts from both one-sided solutions, and from the leading pairs of the problem in which
    the weights W ⊙ W are replaced by the product of their row and column sums. What it finds is the best of these
    starts, which may be less than the optimum and is never more.

    Args:
        before: W (out, in).
        change: ΔW (out, in).
    """
    before, change = before.double(), change.double()
    total = change.square().sum()
    if not total:
        return Explained(None, None, None)
    products, squares = before * change, before.square()
    rows, columns = squares.sum(1), squares.sum(0)
    _, left = _scales(products.sum(1), rows)
    of_right, right = _scales(products.sum(0), columns)
    ones = torch.ones_like(of_right)[None]
    scale_in = torch.cat([ones, of_right[None], _leading_scales(products, rows, columns)])  # (starts, in)
    gains = torch.zeros_like(total)
    for done in range(_ROUNDS):
        if done == _TRIED:
            scale_in, gains = scale_in[gains.argmax()][None], gains.max()
        scale_out, _ = _scales((products @ scale_in.mT).mT, (squares @ scale_in.square().mT).mT)
        scale_out = scale_out.contiguous()  # or the next products take twice as long
        scale_in, new = _scales(scale_out @ products, scale_out.square() @ squares)
        gained, gains = (new - gains).max(), new
        if gained <= _ENOUGH * total:
            break
    both = torch.stack([left, right, gains.max()]).max()
    return Explained(_share(left, total), _share(right, total), _share(both, total))


def _leading_scales(products: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Return solutions b of `(a bᵀ) ⊙ W` (pairs, in) with W ⊙ W replaced by the product of its row and column sums."""
    of_rows, of_columns = (sums.rsqrt().where(sums > 0, 0) for sums in (rows, columns))
    evened = (products * of_columns).mul_(of_rows[:, None])
    return leading_right(evened, min(_PAIRS, *evened.shape), steps=_POWER_STEPS, seed=0).mT * of_columns


def _scales(numerator: Tensor, denominator: Tensor) -> tuple[Tensor, Tensor]:
    """Return the scales (..., n) that solve one side by least squares, and how much of ‖ΔW‖² each set explains."""
    scales = (numerator / denominator).where(denominator > 0, 0)
    return scales, (scales * numerator).sum(-1)


def _share(part: Tensor, total: Tensor) -> float:
    return min(1.0, max(0.0, (part / total).item()))
