"""The formulas against themselves written out number by number, and their gradients against finite differences."""

import itertools
import math

import pytest
import torch
from torch import multiprocessing
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from rlrr.tuners.rlrr.by_row import rescaled_linear_by_row
from rlrr.tuners.rlrr.functional import (
    kernel_matrix,
    matrix_kernel,
    rescaled_linear,
    rescaling,
    rescaling_norm,
    sample_rows,
    scale_matrix,
)

OUT, IN, ROWS = 6, 4, 5
FORM = {"sides": ("both", "in", "out"), "rank": (1, 3), "blocks": (1, 3)}
FORM |= {"residual": (True, False), "multiply": (True, False)}


def sampled(**factors):
    """Parametrize by all combinations; a sample that holds each three values together is run, the others in soak."""
    combinations = list(itertools.product(*factors.values()))
    triples = {one: set(itertools.combinations(enumerate(one), 3)) for one in combinations}
    missing, sample = set().union(*triples.values()), set()
    while missing:
        best = max(combinations, key=lambda one: len(triples[one] & missing))
        sample.add(best)
        missing -= triples[best]
    return pytest.mark.parametrize(
        list(factors),
        [
            pytest.param(*one, id="-".join(map(str, one)), marks=[] if one in sample else pytest.mark.soak)
            for one in combinations
        ],
    )


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


@sampled(**FORM)
def test_the_rescaled_weight_is_the_formula_of_the_paper(weight, sides, rank, blocks, residual, multiply):
    pair = vectors(sides, rank, blocks)
    changed = weight + rescaling(weight, *pair, residual=residual, multiply_weight=multiply)
    torch.testing.assert_close(changed, changed_weight(weight, *pair, residual, multiply))


@sampled(**FORM, tile=(2, 2**18))
def test_the_norm_of_the_change_is_that_of_the_dense_one(
    weight, sides, rank, blocks, residual, multiply, tile, monkeypatch
):
    monkeypatch.setattr("rlrr.tuners.rlrr.functional._TILE", tile)
    pair = vectors(sides, rank, blocks)
    dense = (changed_weight(weight, *pair, residual, multiply) - weight).norm().item()
    assert rescaling_norm(weight, *pair, residual=residual, multiply_weight=multiply) == pytest.approx(dense, rel=1e-12)


def test_the_norm_of_the_change_is_exact_for_weights_and_vectors_of_less_precision(weight):
    halved, (scale_out, scale_in) = weight.bfloat16(), (vector.float() for vector in vectors("both", 3, 3))
    dense = rescaling(halved.double(), scale_out.double(), scale_in.double()).norm().item()
    assert rescaling_norm(halved, scale_out, scale_in) == pytest.approx(dense, rel=1e-12)


def test_the_norm_of_no_change_is_zero_and_of_one_that_is_not_finite_not_a_number(weight):
    scale_out, scale_in = vectors("both", 1, 1)
    assert rescaling_norm(weight, torch.zeros_like(scale_out), scale_in) == 0
    assert math.isnan(rescaling_norm(weight, scale_out * torch.nan, scale_in))


@sampled(**FORM, shape=((ROWS,), (ROWS, 7), (ROWS, 2, 3)))
def test_rows_with_vectors_of_their_own_equal_one_dense_weight_each(
    weight, sides, rank, blocks, residual, multiply, shape
):
    x = torch.randn(*shape, IN, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    scale_out, scale_in = vectors(sides, rank, blocks, ROWS)
    own_bias = torch.randn(ROWS, OUT, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    for bias in (None, own_bias, own_bias[0]):
        result = rescaled_linear_by_row(
            x, weight, bias, scale_out, scale_in, residual=residual, multiply_weight=multiply
        )
        for row in range(ROWS):
            pair = (None if v is None else v[row] for v in (scale_out, scale_in))
            dense = F.linear(x[row], changed_weight(weight, *pair, residual, multiply))
            if bias is not None:
                dense = dense + bias.expand(ROWS, OUT)[row]
            torch.testing.assert_close(result[row], dense)


@sampled(**FORM)
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


def plain(x, weight, bias, scale_out, scale_in, shift, **form):
    """The rescaled linear as autograd would have it, which keeps W' and the steps towards it."""
    added = shift if bias is None else bias if shift is None else bias + shift
    return F.linear(x, weight + rescaling(weight, scale_out, scale_in, **form), added)


def arguments(sides="both", rank=1, blocks=1, *, bias=True, shift=True, dtype=torch.float64):
    """Of a rescaled linear: x, weight, bias and the vectors, of which x and the vectors have gradients."""
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(2, ROWS, IN, generator=generator, dtype=torch.float64)
    weight = torch.randn(OUT, IN, generator=generator, dtype=torch.float64)
    scales = vectors(sides, rank, blocks)
    frozen_bias, shifts = torch.randn(2, OUT, generator=generator, dtype=torch.float64)
    given = [x, weight, frozen_bias if bias else None, *scales, shifts if shift else None]
    given = [None if tensor is None else tensor.to(dtype) for tensor in given]
    for index in (0, 3, 4, 5):
        if given[index] is not None:
            given[index].requires_grad_()
    return given


def gradients(output, given):
    """Of a loss to which every output counts differently."""
    loss = (output.double() * torch.linspace(-1, 1, output.numel(), dtype=torch.float64).view_as(output)).sum()
    return torch.autograd.grad(loss, [tensor for tensor in given if tensor is not None and tensor.requires_grad])


@sampled(**FORM, bias=(True, False), shift=(True, False))
def test_the_rescaled_linear_has_the_values_and_gradients_of_autograd(
    sides, rank, blocks, residual, multiply, bias, shift
):
    form = {"residual": residual, "multiply_weight": multiply}
    for dtype, tolerance in ((torch.float64, 1e-12), (torch.float32, 1e-6)):
        given = arguments(sides, rank, blocks, bias=bias, shift=shift, dtype=dtype)
        ours, autograd = rescaled_linear(*given, **form), plain(*given, **form)
        pairs = zip((ours, *gradients(ours, given)), (autograd, *gradients(autograd, given)), strict=True)
        for one, other in pairs:
            assert (one - other).abs().max() <= tolerance * other.abs().max()


@sampled(**FORM)
def test_the_gradients_of_the_rescaled_linear_equal_finite_differences(sides, rank, blocks, residual, multiply):
    form = {"residual": residual, "multiply_weight": multiply}
    assert torch.autograd.gradcheck(lambda *given: rescaled_linear(*given, **form), arguments(sides, rank, blocks))


def test_a_bias_that_is_trained_gets_its_gradient():
    given = arguments()
    given[2].requires_grad_()
    for one, other in zip(gradients(rescaled_linear(*given), given), gradients(plain(*given), given), strict=True):
        torch.testing.assert_close(one, other)


def test_a_weight_of_several_tiles_is_made_whole(monkeypatch):
    monkeypatch.setattr("rlrr.tuners.rlrr.functional._TILE", 2)
    for blocks in (1, 2):
        given = arguments("both", 2, blocks)
        for one, other in zip(gradients(rescaled_linear(*given), given), gradients(plain(*given), given), strict=True):
            torch.testing.assert_close(one, other)


@pytest.mark.parametrize("tokens", [[0], [0, 2], []])
def test_rows_on_which_nothing_depends_are_left_out_of_its_products(tokens):
    given = arguments("both", 2, 3)
    ours, autograd = (linear(*given)[:, tokens] for linear in (rescaled_linear, plain))
    for one, other in zip(gradients(ours, given), gradients(autograd, given), strict=True):
        torch.testing.assert_close(one, other)


def test_the_rescaled_linear_keeps_its_input_alone():
    given = arguments()
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor.data_ptr()) or tensor, lambda t: t):
        rescaled_linear(*given)
    assert set(kept) <= {tensor.data_ptr() for tensor in given}


def test_it_keeps_not_even_its_input_where_only_the_shift_is_trained():
    given = arguments()
    for scale in given[3:5]:
        scale.requires_grad_(False)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor.data_ptr()) or tensor, lambda t: t):
        output = rescaled_linear(*given)
    assert given[0].data_ptr() not in kept
    for one, other in zip(gradients(output, given), gradients(plain(*given), given), strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("weights", [torch.float32, torch.bfloat16])
def test_under_autocast_it_multiplies_in_half_precision_and_keeps_the_vectors_gradients_in_theirs(dtype, weights):
    given = arguments(dtype=torch.float32)
    exact = gradients(plain(*given), given)
    given[1] = given[1].to(weights)
    with torch.autocast("cpu", dtype):
        output = rescaled_linear(*given)
    assert output.dtype == dtype
    for one, other in zip(gradients(output, given), exact, strict=True):
        assert one.dtype == torch.float32
        torch.testing.assert_close(one, other, rtol=0.05, atol=0.05 * float(other.abs().max()))


def test_double_precision_stays_double_under_autocast():
    with torch.autocast("cpu", torch.bfloat16):
        assert rescaled_linear(*arguments()).dtype == torch.float64


def test_activation_checkpointing_changes_nothing():
    given = arguments()
    output = checkpoint(rescaled_linear, *given, use_reentrant=False)
    for one, other in zip(gradients(output, given), gradients(plain(*given), given), strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.slow
@pytest.mark.parametrize(("sides", "rank", "blocks"), [("both", 1, 3), ("in", 1, 1), ("out", 2, 1)])
def test_it_compiles_in_one_graph(sides, rank, blocks):
    given = arguments(sides, rank, blocks)
    output = torch.compile(rescaled_linear, fullgraph=True, backend="aot_eager")(*given)
    for one, other in zip(gradients(output, given), gradients(plain(*given), given), strict=True):
        torch.testing.assert_close(one, other)


class _Layer(torch.nn.Module):
    def __init__(self, given):
        super().__init__()
        self.frozen = given[1:3]
        self.vectors = torch.nn.ParameterList(given[3:])

    def forward(self, x):
        return rescaled_linear(x, *self.frozen, *self.vectors)


def _one_of_two(rank, store, queue):
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=store, rank=rank, world_size=2)
    given = arguments()
    layer = torch.nn.parallel.DistributedDataParallel(_Layer(given))
    (layer(given[0][rank]).square().sum()).backward()
    if rank == 0:
        queue.put([vector.grad.tolist() for vector in layer.module.vectors])
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_two_processes_average_its_gradients(tmp_path):
    given = arguments()
    queue = multiprocessing.get_context("spawn").SimpleQueue()
    multiprocessing.spawn(_one_of_two, (f"file://{tmp_path}/store", queue), nprocs=2)
    plain(*given).square().sum().backward()
    for averaged, vector in zip(queue.get(), given[3:], strict=True):
        torch.testing.assert_close(2 * torch.tensor(averaged, dtype=torch.float64), vector.grad)


@pytest.mark.parametrize("share", [0.5, 0.3, 0.01])
def test_drawn_rows_stand_for_all_rows_and_hold_the_first_of_each_image(share):
    images, tokens = 6, 10
    rows, weights = sample_rows((images, 2, tokens // 2), share)
    assert len(set(rows.tolist())) == len(rows) == max(2 * images, round(share * images * tokens))
    assert sorted(row for row in rows.tolist() if row % tokens == 0) == list(range(0, images * tokens, tokens))
    assert (weights[rows % tokens == 0] == 1).all()
    assert weights.sum() == pytest.approx(images * tokens)


def test_where_first_tokens_are_all_that_there_is_they_are_taken():
    rows, weights = sample_rows((4, 1), 0.25)  # and there are no others
    assert rows.tolist() == [0, 1, 2, 3]
    assert weights.flatten().tolist() == [1, 1, 1, 1]


@pytest.mark.parametrize(
    ("sides", "rank", "blocks", "share", "count"),
    [
        ("both", 1, 3, 0.75, 400),
        ("both", 2, 1, 0.5, 400),
        ("in", 1, 1, 0.5, 400),
        ("out", 1, 1, 0.75, 400),
        *(
            pytest.param(*form, share, 2000, marks=pytest.mark.soak)
            for form in (("both", 1, 3), ("both", 2, 1), ("in", 1, 1), ("out", 1, 1))
            for share in (0.75, 0.5)
        ),
    ],
)
def test_the_mean_of_estimated_gradients_is_the_exact_one(sides, rank, blocks, share, count):
    given = arguments(sides, rank, blocks)
    exact = gradients(plain(*given), given)
    torch.manual_seed(0)
    draws = [gradients(rescaled_linear(*given, tokens=share), given) for _ in range(count)]
    exact_names = {0, len(exact) - 1}  # x, and the shift
    for index, (one, *estimates) in enumerate(zip(exact, *draws, strict=True)):
        stacked = torch.stack(estimates)
        if index in exact_names:
            torch.testing.assert_close(stacked, one.expand_as(stacked))
            continue
        assert stacked.std(0).max() > 0.1, "an estimate varies"
        standard_error = stacked.std(0) / len(draws) ** 0.5
        assert ((stacked.mean(0) - one).abs() <= 4.5 * standard_error + 1e-12).all()


def test_an_estimate_keeps_only_the_rows_it_is_made_from():
    given = arguments()
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda t: t):
        rescaled_linear(*given, tokens=0.5)
    assert given[0].data_ptr() not in {tensor.data_ptr() for tensor in kept}
    assert max(len(tensor) for tensor in kept if tensor.shape[-1] == IN) <= max(OUT, ROWS)


def test_an_input_without_tokens_is_not_estimated():
    given = arguments()
    given[0] = given[0].detach()[:, 0].requires_grad_()
    for one, other in zip(
        gradients(rescaled_linear(*given, tokens=0.5), given), gradients(plain(*given), given), strict=True
    ):
        torch.testing.assert_close(one, other)
