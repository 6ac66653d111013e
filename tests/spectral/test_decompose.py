"""Decompositions against torch's own SVD."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rlrr.spectral.decompose import ZERO, decompose, leading_right, singular_values

SHAPES = [(12, 12), (30, 10), (9, 25), (1, 7), (7, 1), (1, 1)]


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def orthonormal(rows, columns, seed=0):
    return torch.linalg.qr(torch.randn(rows, columns, generator=generator(seed), dtype=torch.float64)).Q


def with_values(rows, columns, values, seed=0):
    values = torch.as_tensor(values, dtype=torch.float64)
    left, right = orthonormal(rows, len(values), seed), orthonormal(columns, len(values), seed + 1)
    return left * values @ right.mT


def identity_like(basis):
    return torch.eye(basis.shape[1], dtype=torch.float64)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_an_exact_decomposition_has_the_singular_values_and_makes_the_matrix(shape, dtype):
    matrix = torch.randn(*shape, generator=generator(), dtype=dtype)
    found = decompose(matrix)
    torch.testing.assert_close(found.values, torch.linalg.svdvals(matrix.double()), rtol=1e-6, atol=0)
    for basis in (found.left, found.right):
        torch.testing.assert_close(basis.mT @ basis, identity_like(basis), rtol=0, atol=1e-10)
    torch.testing.assert_close(found.left * found.values @ found.right.mT, matrix.double(), rtol=0, atol=1e-12)


@pytest.mark.parametrize("shape", [(60, 60), (150, 60), (60, 150)], ids=str)
@pytest.mark.parametrize("last", [1e-2, 1e-4, 1e-6, 3e-8], ids=str)
def test_directions_far_smaller_than_the_largest_are_exact_too(shape, last):
    matrix = with_values(*shape, torch.logspace(0, torch.tensor(last).log10(), 60, dtype=torch.float64))
    found = decompose(matrix)
    torch.testing.assert_close(found.values, torch.linalg.svdvals(matrix), rtol=1e-6, atol=0)
    torch.testing.assert_close(singular_values(matrix), torch.linalg.svdvals(matrix), rtol=1e-6, atol=0)
    for basis in (found.left, found.right):
        torch.testing.assert_close(basis.mT @ basis, identity_like(basis), rtol=0, atol=1e-6)
    left, _, right = torch.linalg.svd(matrix, full_matrices=False)
    for basis, expected in ((found.left, left), (found.right, right.mT)):
        cosines = (basis * expected).sum(0).abs()
        torch.testing.assert_close(cosines, torch.ones_like(cosines), rtol=0, atol=1e-6)


def test_directions_that_a_matrix_makes_nothing_of_are_left_out():
    assert decompose(torch.zeros(5, 3)).left.shape == (5, 0)
    found = decompose(with_values(20, 30, [3.0, 2.0, 1.0]))
    torch.testing.assert_close(found.values, torch.tensor([3.0, 2.0, 1.0], dtype=torch.float64))
    assert len(decompose(with_values(9, 9, [1.0, 0.1 * ZERO])).values) == 1
    assert singular_values(torch.zeros(5, 3)).tolist() == [0.0] * 3


@settings(derandomize=True, deadline=None, max_examples=60)
@given(
    rows=st.integers(1, 20),
    columns=st.integers(1, 20),
    rank=st.integers(0, 20),
    exponent=st.integers(-15, 15),
    seed=st.integers(0, 2**16),
)
def test_any_matrix_comes_back(rows, columns, rank, exponent, seed):
    random = generator(seed)
    factors = torch.randn(rows, rank, generator=random), torch.randn(rank, columns, generator=random)
    matrix = (factors[0] @ factors[1]).double() * 10.0**exponent
    found = decompose(matrix)
    expected = torch.linalg.svdvals(matrix)
    largest = expected[0].item()
    torch.testing.assert_close(found.values, expected[: len(found.values)], rtol=1e-6, atol=0)
    assert (expected[len(found.values) :] <= 2 * ZERO * largest).all()
    again = found.left * found.values @ found.right.mT
    assert (again - matrix).norm() <= 10 * ZERO * largest
    assert torch.isfinite(again).all()


def test_power_steps_find_the_leading_directions_of_a_spectrum_that_falls():
    matrix = with_values(150, 100, torch.logspace(0, -24, 100, dtype=torch.float64))
    basis, leading = leading_right(matrix, 20, steps=4, seed=0), torch.linalg.svd(matrix).Vh[:5].mT
    torch.testing.assert_close(basis.mT @ basis, identity_like(basis), rtol=0, atol=1e-10)
    torch.testing.assert_close(basis @ (basis.mT @ leading), leading, rtol=0, atol=1e-6)


def test_chance_depends_on_the_seed_alone_and_leaves_torch_s_state():
    matrix = torch.randn(50, 50, generator=generator())
    state = torch.random.get_rng_state()
    first, again, other = (leading_right(matrix, 5, steps=1, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
