"""Exact singular value decompositions of weights.

They come from the eigenvectors of the Gram matrix of the shorter side, which take less time than an SVD. The smaller
singular values, which the Gram matrix holds squared, are refined among themselves.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

ZERO = 1e-8  # of the largest singular value: what is below is the rounding of a weight in float32
_CLEAR = 1e-2  # likewise: the Gram matrix holds squares, so that it tells only the larger directions apart well


@dataclass(frozen=True)
class Decomposition:
    """Hold `W = U diag(λ) Vᵀ`, without the directions whose singular value is zero.

    Attributes:
        left: U (out, k), orthonormal columns, float64.
        values: λ (k), above `ZERO` of the largest, descending.
        right: V (in, k), orthonormal columns.
    """

    left: Tensor
    values: Tensor
    right: Tensor


def decompose(matrix: Tensor) -> Decomposition:
    """Decompose a matrix (out, in)."""
    return from_short_basis(matrix, short_basis(matrix))


def short_basis(matrix: Tensor) -> Tensor:
    """Return the singular vectors of the shorter side of a matrix (out, in): V if out >= in, else U.

    Returns:
        (min(out, in), k), float64.
    """
    return _turned(_tall(matrix)).contiguous()


def from_short_basis(matrix: Tensor, basis: Tensor) -> Decomposition:
    """Complete a decomposition: the singular vectors of the longer side are the images of those of the shorter.

    Args:
        matrix: (out, in).
        basis: The result of `short_basis(matrix)`.
    """
    images = _tall(matrix) @ basis
    values, order = images.norm(dim=0).sort(descending=True)
    basis, images = basis[:, order], images[:, order].div_(values)
    left, right = (images, basis) if matrix.shape[0] >= matrix.shape[1] else (basis, images)
    return Decomposition(left, values, right)


def singular_values(matrix: Tensor) -> Tensor:
    """Return all singular values of a matrix (out, in), zeros included: (min(out, in)), float64, descending."""
    tall = _tall(matrix)
    squares = torch.linalg.eigvalsh(tall.mT @ tall)
    if squares[0] > _CLEAR**4 * squares[-1]:
        return squares.sqrt().flip(0)
    return torch.linalg.svdvals(tall)


def leading_right(matrix: Tensor, count: int, *, steps: int, seed: int) -> Tensor:
    """Approximate the span of the leading right singular vectors by power steps from a random basis.

    `torch.svd_lowrank` does the same with torch's own random state, which threads would share.

    Args:
        matrix: (out, in).
        count: Number of basis vectors, at most min(out, in).
        steps: Number of power steps.
        seed: Seed of the random basis.

    Returns:
        (in, count), an orthonormal basis with the leading directions first.
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
