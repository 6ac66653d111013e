"""What tuning did to a weight, as pure functions of W and W' = W + ΔW, both (out, in), computed in float64.

The view is the paper's (Dong et al., CVPR 2024, section 3.2): `W = Σ_d λ_d u_d v_dᵀ`, and every method is read by what
it does to these terms. What is not defined, such as the effective rank of a zero matrix, is None and never NaN. Where
a decomposition is truncated, what that does is said at each measure.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from rlrr.spectral.decompose import Decomposition, leading_right

# Of alternating least squares: rounds at most, after how many only the best start goes on, and the gain of one round
# as a share of ‖ΔW‖² that ends them.
_ROUNDS, _TRIED, _ENOUGH = 50, 10, 1e-8
_PAIRS, _POWER_STEPS = 3, 2


def relative_change(before: Tensor, after: Tensor) -> float | None:
    """‖ΔW‖_F / ‖W‖_F.

    Returns:
        0 for a weight that did not change, be it zero; None for a zero one that did.
    """
    before = before.double()
    return relative((after.double() - before).norm().item(), before.norm().item())


def relative(change: float, norm: float) -> float | None:
    """`relative_change` from the norms of ΔW and W."""
    return change / norm if norm else None if change else 0.0


def effective_rank(values: Tensor) -> float | None:
    """exp of the entropy of the singular values as shares of their sum (Roy and Vetterli, EUSIPCO 2007).

    Args:
        values: (k); of the leading ones alone it is a lower bound.

    Returns:
        From 1 to k; None for a zero matrix.
    """
    total = values.sum()
    if not total:
        return None
    shares = values / total
    return torch.special.entr(shares).sum().exp().item()


def stable_rank(values: Tensor) -> float | None:
    """‖W‖_F² / ‖W‖_2² (Rudelson and Vershynin, J. ACM 2007) from the singular values.

    Args:
        values: (k); of the leading ones alone it is a lower bound.

    Returns:
        From 1 to k; None for a zero matrix.
    """
    largest = values.max() if len(values) else values.new_zeros(())
    return (values / largest).square().sum().item() if largest else None


@dataclass(frozen=True)
class Energy:
    """Where ‖ΔW‖_F² is among the singular directions of W; shares, all 0 or None if ΔW is zero.

    Attributes:
        spectrum_share: Of `u_dᵀ ΔW v_d`: to first order, what moves the singular values.
        rotation_share: Of `u_dᵀ ΔW v_e` with d ≠ e and of what lies in directions that W does not have: to first
            order, what turns the bases.
        unresolved_share: Of what lies outside both bases of a truncated decomposition, which may be either; 0 if it
            is exact. The three add up to 1.
        by_direction: (k) `(‖u_dᵀ ΔW‖² + ‖ΔW v_d‖²) / 2`; over all directions of a square W of full rank they add up
            to 1.
        diagonal: (k) `(u_dᵀ ΔW v_d)²`; they add up to `spectrum_share`.
    """

    spectrum_share: float | None
    rotation_share: float | None
    unresolved_share: float | None
    by_direction: Tensor
    diagonal: Tensor


def energy_by_direction(before: Decomposition, change: Tensor) -> Energy:
    """Split `Uᵀ ΔW V` into its diagonal and all else.

    Where singular values of W are equal their vectors are any basis of a subspace, and the split within it is not
    defined by W alone.

    Args:
        before: Of W.
        change: ΔW (out, in).
    """
    change = change.double()
    total = change.square().sum()
    if not total:
        none = torch.zeros_like(before.values)
        return Energy(None, None, None, none, none)
    from_left, from_right = before.left.mT @ change, change @ before.right  # (k, in), (out, k)
    diagonal = (from_left * before.right.mT).sum(1).square() / total
    of_left, of_right = from_left.square().sum(1), from_right.square().sum(0)
    unresolved = 0.0
    if not before.exact:
        inside = (from_left @ before.right).square().sum()
        unresolved = _share(total - of_left.sum() - of_right.sum() + inside, total)
    spectrum = min(1.0, diagonal.sum().item())
    rotation = max(0.0, 1 - spectrum - unresolved)
    return Energy(spectrum, rotation, unresolved, (of_left + of_right) / (2 * total), diagonal)


def principal_angles(first: Tensor, second: Tensor) -> Tensor:
    """The angles between two subspaces, from cosines and sines together, so that small ones are exact too.

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
    """What tuning makes of each basis if the other is held, as the paper argues: `W' V Σ⁻¹` and `W'ᵀ U Σ⁻¹`.

    For `W' = diag(s) W` the first is `diag(s) U`, for `W' = W diag(s)` the second is `diag(s) V`.

    Args:
        before: Of W.
        after: W' (out, in).
        directions: At most as many, the leading ones.

    Returns:
        (out, k) and (in, k), columns neither orthogonal nor of length one.
    """
    after, values = after.double(), before.values[:directions]
    return after @ before.right[:, :directions] / values, after.mT @ before.left[:, :directions] / values


def departure_from_orthogonality(basis: Tensor) -> float | None:
    """Root mean square of the cosines between different columns.

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
        before_left: (out, k), all left singular vectors of W; with the leading ones alone the count is an upper bound.
        after_left: (out, n), the leading ones of W'.
        threshold: An intruder's absolute cosine with every old direction is below it.
    """
    if not before_left.shape[1]:
        return after_left.shape[1]
    nearest = (before_left.mT @ after_left).abs().amax(dim=0)
    return int((nearest < threshold).sum())


@dataclass(frozen=True)
class Explained:
    """The shares of ‖ΔW‖_F² that the best update of each form makes; all None if ΔW is zero.

    Attributes:
        by_left: `diag(a) W`, a scale for each output. An update that has nothing to do with W has about 1 / in.
        by_right: `W diag(b)`, a scale for each input.
        by_both: `(a bᵀ) ⊙ W`, as RLRR of rank 1 with its residual makes it; at least each of the others.
    """

    by_left: float | None
    by_right: float | None
    by_both: float | None


def explained_by_scaling(before: Tensor, change: Tensor) -> Explained:
    """How RLRR-like an update is: least squares in its family.

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
    """The solutions b of `(a bᵀ) ⊙ W` (pairs, in) where W ⊙ W is as good as the product of its row and column sums."""
    of_rows, of_columns = (sums.rsqrt().where(sums > 0, 0) for sums in (rows, columns))
    evened = (products * of_columns).mul_(of_rows[:, None])
    return leading_right(evened, min(_PAIRS, *evened.shape), steps=_POWER_STEPS, seed=0).mT * of_columns


def _scales(numerator: Tensor, denominator: Tensor) -> tuple[Tensor, Tensor]:
    """The scales (..., n) that solve one side by least squares, and how much of ‖ΔW‖² each set of them explains."""
    scales = (numerator / denominator).where(denominator > 0, 0)
    return scales, (scales * numerator).sum(-1)


def _share(part: Tensor, total: Tensor) -> float:
    return min(1.0, max(0.0, (part / total).item()))
