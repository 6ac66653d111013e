"""Singular value decompositions of weights: exact, or randomised and truncated with the error that this makes.

Both turn a basis of the matrix's shorter side so that its images under the matrix are orthogonal. The turn comes from
the eigenvectors of the images' Gram matrix, which takes less time than an SVD.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

ZERO = 1e-8  # of the largest singular value: what is below is the rounding of a weight in float32
_CLEAR = 1e-2  # likewise: the Gram matrix holds squares, so that it tells only the larger directions apart well
_OVERSAMPLED, _POWER_STEPS = 10, 4  # of the randomised method (Halko et al. 2011, arXiv 0909.4061)


@dataclass(frozen=True)
class Decomposition:
    """`W = U diag(λ) Vᵀ`, without the directions that W makes nothing of.

    Attributes:
        left: U (out, k), orthonormal columns, float64.
        values: λ (k), above `ZERO` of the largest, descending.
        right: V (in, k), orthonormal columns.
        exact: False if only the leading k were asked for.
        error: ‖W - U diag(λ) Vᵀ‖_F / ‖W‖_F, measured; 0 if exact.
    """

    left: Tensor
    values: Tensor
    right: Tensor
    exact: bool
    error: float


def decompose(matrix: Tensor, *, rank: int | None = None, seed: int = 0) -> Decomposition:
    """Decompose a matrix (out, in).

    Args:
        rank: At most as many directions, the leading ones, found with random numbers; None for all, which is exact.
        seed: Of those random numbers.
    """
    return from_short_basis(matrix, short_basis(matrix, rank=rank, seed=seed), rank=rank)


def short_basis(matrix: Tensor, *, rank: int | None = None, seed: int = 0) -> Tensor:
    """The singular vectors of the shorter side of a matrix (out, in): V if there are no more inputs than outputs.

    Returns:
        (min(out, in), k), float64.
    """
    tall = _tall(matrix)
    if is_exact(matrix, rank):
        return _turned(tall).contiguous()
    assert rank is not None
    found = leading_right(tall, min(rank + _OVERSAMPLED, tall.shape[1]), steps=_POWER_STEPS, seed=seed)
    return _turned(tall, found)[:, :rank].contiguous()


def from_short_basis(matrix: Tensor, basis: Tensor, *, rank: int | None = None) -> Decomposition:
    """The whole decomposition from the singular vectors of the shorter side: the others are their images.

    Args:
        matrix: (out, in).
        basis: What `short_basis` gave for it and `rank`.
        rank: As in `decompose`.
    """
    tall, exact = _tall(matrix), is_exact(matrix, rank)
    images = tall @ basis
    values, order = images.norm(dim=0).sort(descending=True)
    basis, images = basis[:, order], images[:, order].div_(values)
    error = 0.0
    if not exact and len(values):
        error = ((tall - images * values @ basis.mT).norm() / tall.norm()).item()
    left, right = (images, basis) if matrix.shape[0] >= matrix.shape[1] else (basis, images)
    return Decomposition(left, values, right, exact, error)


def is_exact(matrix: Tensor, rank: int | None) -> bool:
    """Whether as many directions are all that a matrix has, so that none is left to chance."""
    return rank is None or rank >= min(matrix.shape)


def singular_values(matrix: Tensor) -> Tensor:
    """All singular values of a matrix (out, in), with those that are 0: (min(out, in)), float64, descending."""
    tall = _tall(matrix)
    squares = torch.linalg.eigvalsh(tall.mT @ tall)
    if squares[0] > _CLEAR**4 * squares[-1]:
        return squares.sqrt().flip(0)
    return torch.linalg.svdvals(tall)


def leading_right(matrix: Tensor, count: int, *, steps: int, seed: int) -> Tensor:
    """An orthonormal basis near the span of the leading right singular vectors, by power steps from a random one.

    `torch.svd_lowrank` does as much with torch's own random state, which threads would share.

    Args:
        matrix: (out, in).
        count: Of the basis, at most min(out, in).
        steps: Each brings it nearer.
        seed: Of the start.

    Returns:
        (in, count), the leading directions first.
    """
    random = torch.Generator().manual_seed(seed)
    basis = torch.randn(matrix.shape[1], count, generator=random, dtype=matrix.dtype)
    for _ in range(steps):
        basis = torch.linalg.qr(matrix.mT @ torch.linalg.qr(matrix @ basis).Q).Q
    return basis


def _tall(matrix: Tensor) -> Tensor:
    matrix = matrix.double()
    return matrix if matrix.shape[0] >= matrix.shape[1] else matrix.mT


def _turned(tall: Tensor, basis: Tensor | None = None, floor: float | None = None) -> Tensor:
    """Turn an orthonormal basis so that its images under a matrix are orthogonal, those with the longest first.

    Directions far shorter than the longest, which are turned only roughly, are turned once more among themselves.

    Args:
        tall: (long, short).
        basis: (short, n); None for the standard one.
        floor: Square of the length from which an image counts; by default `ZERO` of the longest.

    Returns:
        (short, k), without the directions that do not count.
    """
    images = tall if basis is None else tall @ basis
    squares, turn = torch.linalg.eigh(images.mT @ images)
    squares, turn = squares.flip(0), turn.flip(1)
    basis = turn if basis is None else basis @ turn
    longest = squares[0].item()
    if floor is None:
        floor = ZERO**2 * longest
    if longest <= floor:
        return basis[:, :0]
    clear = int((squares > max(floor, _CLEAR**2 * longest)).sum())
    if clear == len(squares):
        return basis
    return torch.cat([basis[:, :clear], _turned(tall, basis[:, clear:], floor)], dim=1)
