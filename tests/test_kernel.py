"""The formulas against themselves written out number by number, and their gradients against finite differences."""

import itertools

import pytest
import torch
from torch.nn import functional as F

from rlrr.kernel import kernel_matrix, matrix_kernel, rescaled_linear_by_row, rescaling, scale_matrix

OUT, IN, ROWS = 6, 4, 5
FORMS = [
    pytest.param(sides, rank, blocks, residual, multiply, id=f"{sides}-r{rank}-b{blocks}-{residual=}-{multiply=}")
    for sides, rank, blocks, residual, multiply in itertools.product(
        ("both", "in", "out"), (1, 3), (1, 3), (True, False), (True, False)
    )
]
every_form = pytest.mark.parametrize(("sides", "rank", "blocks", "residual", "multiply"), FORMS)


def vectors(sides, rank, blocks, *rows):
    generator = torch.Generator().manual_seed(1)
    scale_out = torch.randn(*rows, OUT, rank, generator=generator, dtype=torch.float64)
    scale_in = torch.randn(*rows, blocks, rank, IN, generator=generator, dtype=torch.float64)
    if blocks == 1:
        scale_in = scale_in.squeeze(-3)
    return None if sides == "in" else scale_out, None if sides == "out" else scale_in


def changed_weight(weight, scale_out, scale_in, residual, multiply):
    """W' element by element, as in Eq. 16, supplement F and Tables 6 and 11."""
    result = torch.empty_like(weight)
    per_block = None if scale_in is None else scale_in.reshape(-1, *scale_in.shape[-2:])
    rank = (scale_in if scale_out is None else scale_out.T).shape[-2]
    for i, j in itertools.product(range(OUT), range(IN)):
        block = 0 if per_block is None else i // (OUT // len(per_block))
        scale = sum(
            (1 if scale_out is None else scale_out[i, k]) * (1 if per_block is None else per_block[block, k, j])
            for k in range(rank)
        )
        result[i, j] = (weight[i, j] if residual else 0) + scale * (weight[i, j] if multiply else 1)
    return result


@pytest.fixture
def weight():
    return torch.randn(OUT, IN, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@every_form
def test_the_rescaled_weight_is_the_formula_of_the_paper(weight, sides, rank, blocks, residual, multiply):
    pair = vectors(sides, rank, blocks)
    changed = weight + rescaling(weight, *pair, residual=residual, multiply_weight=multiply)
    torch.testing.assert_close(changed, changed_weight(weight, *pair, residual, multiply))


@pytest.mark.parametrize("shape", [(ROWS,), (ROWS, 7), (ROWS, 2, 3)], ids=["vectors", "tokens", "pixels"])
@every_form
def test_rows_with_vectors_of_their_own_equal_one_dense_weight_each(
    weight, sides, rank, blocks, residual, multiply, shape
):
    x = torch.randn(*shape, IN, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    scale_out, scale_in = vectors(sides, rank, blocks, ROWS)
    change = rescaled_linear_by_row(x, weight, scale_out, scale_in, residual=residual, multiply_weight=multiply)
    for row in range(ROWS):
        pair = (None if v is None else v[row] for v in (scale_out, scale_in))
        dense = F.linear(x[row], changed_weight(weight, *pair, residual, multiply) - weight)
        torch.testing.assert_close(change[row], dense)


@every_form
def test_gradients_equal_finite_differences(weight, sides, rank, blocks, residual, multiply):
    pair = [None if v is None else v.requires_grad_() for v in vectors(sides, rank, blocks)]
    assert torch.autograd.gradcheck(
        lambda *pair: rescaling(weight, *pair, residual=residual, multiply_weight=multiply), pair
    )


def test_a_side_that_is_not_rescaled_stays_of_size_one():
    scale_out, scale_in = vectors("both", 2, 3)
    assert scale_matrix(scale_out, None).shape == (1, OUT, 1)
    assert scale_matrix(None, scale_in).shape == (3, 1, IN)
    assert scale_matrix(scale_out, scale_in).shape == (3, OUT // 3, IN)


def test_the_matrix_of_a_kernel_has_its_rows_beside_the_outputs_and_its_columns_beside_the_inputs():
    out, channels, height, width = 4, 3, 2, 5
    kernel = torch.arange(out * channels * height * width).view(out, channels, height, width)
    matrix = kernel_matrix(kernel)
    assert matrix.shape == (out * height, channels * width)
    for o, i, a, b in itertools.product(*map(range, kernel.shape)):
        assert matrix[o * height + a, i * width + b] == kernel[o, i, a, b]
    assert torch.equal(matrix_kernel(matrix, kernel.shape), kernel)
