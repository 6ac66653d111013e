"""Every measure on matrices with known answers, and what must not change them."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rlrr.spectral.decompose import decompose, singular_values
from rlrr.spectral.measures import (
    Explained,
    acted_on,
    departure_from_orthogonality,
    effective_rank,
    energy_by_direction,
    explained_by_scaling,
    intruder_dimensions,
    principal_angles,
    relative_change,
    stable_rank,
)
from rlrr.tuners.rlrr.functional import rescaling

SHAPES = [(16, 16), (30, 12), (12, 30)]
every_shape = pytest.mark.parametrize("shape", SHAPES, ids=str)
matrices = {
    "rows": st.integers(2, 14),
    "columns": st.integers(2, 14),
    "rank": st.integers(1, 14),
    "seed": st.integers(0, 2**16),
}
by_hypothesis = settings(derandomize=True, deadline=None, max_examples=50)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def orthonormal(rows, columns, seed=0):
    return torch.linalg.qr(normal(rows, columns, seed=seed)).Q


def of_rank(rows, columns, rank, seed=0):
    return normal(rows, rank, seed=seed) @ normal(rank, columns, seed=seed + 1)


def close(found, expected, tolerance=1e-6):
    """Two results are equal: numbers and tensors up to rounding, what is not defined in both."""
    if found is None or expected is None:
        assert found is expected
    else:
        torch.testing.assert_close(torch.as_tensor(found), torch.as_tensor(expected), rtol=tolerance, atol=1e-9)


# --- change and rank


def test_the_relative_change_is_that_of_frobenius_norms():
    before = torch.tensor([[3.0, 0.0], [0.0, 4.0]])
    assert relative_change(before, before + torch.tensor([[0.0, 0.5], [0.0, 0.0]])) == pytest.approx(0.1)
    assert relative_change(before, 0 * before) == 1


def test_the_relative_change_of_a_zero_weight_is_zero_or_undefined():
    zero = torch.zeros(2, 3)
    assert relative_change(zero, zero) == 0
    assert relative_change(zero, zero + 1) is None


@pytest.mark.parametrize("measure", [effective_rank, stable_rank])
def test_a_rank_counts_equal_singular_values_and_is_undefined_for_a_zero_matrix(measure):
    for count in (1, 3, 8):
        values = torch.tensor([2.0] * count + [0.0] * (8 - count), dtype=torch.float64)
        assert measure(values) == pytest.approx(count)
        assert measure(1e-6 * values) == pytest.approx(count)
    assert measure(torch.zeros(8)) is None
    assert measure(torch.zeros(0)) is None


def test_ranks_follow_their_formulas():
    values = torch.tensor([4.0, 2.0, 2.0], dtype=torch.float64)
    assert effective_rank(values) == pytest.approx(math.exp(0.5 * math.log(2) + 2 * 0.25 * math.log(4)))
    assert stable_rank(values) == pytest.approx((16 + 4 + 4) / 16)


@every_shape
def test_an_update_of_rank_one_has_ranks_one(shape):
    values = singular_values(of_rank(*shape, 1))
    assert stable_rank(values) == pytest.approx(1, rel=1e-9)
    assert effective_rank(values) == pytest.approx(1, rel=1e-9)


# --- spectrum and rotation


@every_shape
def test_a_change_of_singular_values_alone_is_no_rotation(shape):
    found = decompose(normal(*shape))
    factor = normal(len(found.values), seed=5)
    energy = energy_by_direction(found, found.left * factor @ found.right.mT)
    assert energy.rotation_share == pytest.approx(0, abs=1e-12)
    assert energy.spectrum_share == pytest.approx(1, abs=1e-12)
    close(energy.diagonal, factor.square() / factor.square().sum())
    close(energy.by_direction, energy.diagonal)


@every_shape
@pytest.mark.parametrize("side", ["left", "right"])
def test_an_orthogonal_turn_of_a_basis_leaves_the_singular_values(shape, side):
    before, (rows, columns) = normal(*shape), shape
    after = orthonormal(rows, rows, 7) @ before if side == "left" else before @ orthonormal(columns, columns, 7)
    close(decompose(after).values, decompose(before).values, tolerance=1e-12)


@every_shape
@pytest.mark.parametrize("side", ["left", "right"])
def test_a_small_turn_of_a_basis_is_rotation_alone(shape, side):
    """A turn is I + εA with A skew, so that to first order `Uᵀ ΔW V` is zero on its diagonal."""
    before, size = normal(*shape), shape[0 if side == "left" else 1]
    skew = normal(size, size, seed=3)
    turn = torch.matrix_exp(1e-5 * (skew - skew.mT))
    after = turn @ before if side == "left" else before @ turn
    energy = energy_by_direction(decompose(before), after - before)
    assert energy.rotation_share == pytest.approx(1, abs=1e-6)


@every_shape
def test_energies_are_those_of_the_matrix_written_out(shape):
    before, change = normal(*shape), normal(*shape, seed=9)
    left, _, right = torch.linalg.svd(before, full_matrices=False)
    inside, total = left.mT @ change @ right.mT, change.square().sum()
    energy = energy_by_direction(decompose(before), change)
    close(energy.diagonal, inside.diagonal().square() / total)
    close(energy.spectrum_share, (inside.diagonal().square().sum() / total).item())
    close(energy.rotation_share, (1 - inside.diagonal().square().sum() / total).item())
    of_both = (left.mT @ change).square().sum(1) + (change @ right.mT).square().sum(0)
    close(energy.by_direction, of_both / (2 * total))
    if shape[0] == shape[1]:
        assert energy.by_direction.sum() == pytest.approx(1)


def test_a_direction_that_the_weight_does_not_have_is_rotation():
    before = of_rank(10, 10, 3)
    found, whole = decompose(before), orthonormal(10, 10)
    fresh_left = whole[:, -1] - found.left @ (found.left.mT @ whole[:, -1])
    fresh_right = whole[:, -2] - found.right @ (found.right.mT @ whole[:, -2])
    energy = energy_by_direction(found, torch.outer(fresh_left, fresh_right))
    assert energy.rotation_share == pytest.approx(1)
    assert energy.by_direction.sum() == pytest.approx(0, abs=1e-12)
    assert energy_by_direction(decompose(torch.zeros(4, 4)), normal(4, 4)).rotation_share == 1


def test_no_change_has_no_shares():
    before = normal(5, 4)
    energy = energy_by_direction(decompose(before), torch.zeros(5, 4))
    assert (energy.spectrum_share, energy.rotation_share) == (None, None)
    assert energy.by_direction.tolist() == energy.diagonal.tolist() == [0.0] * 4
    assert explained_by_scaling(before, torch.zeros(5, 4)) == Explained(None, None, None)


# --- angles, orthogonality, intruders


@pytest.mark.parametrize("degrees", [0.0, 1e-7, 1.0, 45.0, 89.0, 90.0])
def test_principal_angles_are_those_by_which_planes_were_turned(degrees):
    basis, radians = orthonormal(20, 4), math.radians(degrees)
    first = basis[:, :2]
    second = torch.stack([basis[:, 0], math.cos(radians) * basis[:, 1] + math.sin(radians) * basis[:, 2]], dim=1)
    angles = principal_angles(first, second @ orthonormal(2, 2, 5))
    assert angles.tolist() == pytest.approx([0, degrees], rel=1e-6, abs=1e-12)


def test_a_scale_on_one_side_acts_on_one_basis_alone():
    before = normal(20, 12)
    found, outputs, inputs = decompose(before), 1 + 0.3 * normal(20, seed=1), 1 + 0.3 * normal(12, seed=2)
    left, _ = acted_on(found, outputs[:, None] * before, 5)
    close(left, outputs[:, None] * found.left[:, :5])
    _, right = acted_on(found, before * inputs, 5)
    close(right, inputs[:, None] * found.right[:, :5])
    cosines = torch.nn.functional.normalize(left, dim=0)
    cosines = cosines.mT @ cosines
    expected = math.sqrt(sum(cosines[i, j] ** 2 for i, j in itertools.permutations(range(5), 2)) / 20)
    assert departure_from_orthogonality(left) == pytest.approx(expected, rel=1e-9)
    assert expected > 0.01


def test_columns_depart_from_orthogonality_by_their_cosines():
    assert departure_from_orthogonality(3 * orthonormal(9, 4)) == pytest.approx(0, abs=1e-12)
    assert departure_from_orthogonality(torch.ones(9, 4, dtype=torch.float64)) == pytest.approx(1)
    turned = torch.tensor([[1.0, 1.0, 0.0], [0.0, 1.0, 0.0]])
    assert departure_from_orthogonality(turned) == pytest.approx(math.sqrt(0.5))
    assert departure_from_orthogonality(turned[:, 1:]) is None


def test_a_weight_that_is_not_changed_keeps_its_bases_orthogonal():
    before = normal(20, 12)
    for basis in acted_on(decompose(before), before, 8):
        assert departure_from_orthogonality(basis) == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("count", [0, 1, 3])
def test_planted_intruders_are_counted(count):
    before = normal(200, 60) / 30
    found = decompose(before)
    whole = torch.linalg.qr(torch.cat([found.left, normal(200, count, seed=4)], dim=1)).Q
    fresh = whole[:, 60:]  # orthogonal to all that W has
    after = before + 10 * fresh @ orthonormal(60, max(count, 1), 6)[:, :count].mT
    assert intruder_dimensions(found.left, decompose(after).left[:, :10]) == count


def test_an_intruder_is_like_no_old_direction_whatever_their_order_and_sign():
    basis = orthonormal(30, 12)
    assert intruder_dimensions(basis, -basis.flip(1)) == 0
    mixed = basis[:, :2] @ torch.tensor([[0.6], [0.8]], dtype=torch.float64)
    assert intruder_dimensions(basis, mixed, threshold=0.79) == 0
    assert intruder_dimensions(basis, mixed, threshold=0.81) == 1
    assert intruder_dimensions(basis[:, :0], mixed) == 1


# --- the family of RLRR


@every_shape
def test_a_scale_of_outputs_is_explained_by_the_left(shape):
    before = normal(*shape)
    found = explained_by_scaling(before, normal(shape[0], 1, seed=3) * before)
    assert found.by_left == pytest.approx(1, abs=1e-12)
    assert found.by_both == pytest.approx(1, abs=1e-12)
    assert found.by_right < 0.5


@every_shape
def test_a_scale_of_inputs_is_explained_by_the_right(shape):
    before = normal(*shape)
    found = explained_by_scaling(before, before * normal(1, shape[1], seed=3))
    assert found.by_right == pytest.approx(1, abs=1e-12)
    assert found.by_both == pytest.approx(1, abs=1e-12)
    assert found.by_left < 0.5


@every_shape
@pytest.mark.parametrize("seed", range(5))
def test_a_rescaling_of_both_sides_is_explained_by_both(shape, seed):
    before = normal(*shape, seed=seed)
    pair = normal(shape[0], 1, seed=seed + 100), normal(1, shape[1], seed=seed + 200)
    found = explained_by_scaling(before, rescaling(before, *pair))
    assert found.by_both == pytest.approx(1, abs=1e-6)
    assert max(found.by_left, found.by_right) < 0.9


def test_the_closed_forms_are_those_of_least_squares():
    before, change = normal(6, 9), normal(6, 9, seed=4)
    total = change.square().sum()
    left = [
        torch.linalg.lstsq(row[:, None], of[:, None]).solution * row for row, of in zip(before, change, strict=True)
    ]
    found = explained_by_scaling(before, change)
    close(found.by_left, (1 - (change - torch.cat(left)).square().sum() / total).item())
    close(explained_by_scaling(before.mT, change.mT).by_right, found.by_left)


def test_no_random_rescaling_explains_more_than_what_alternating_finds():
    before, change = normal(5, 4), normal(5, 4, seed=4)
    found = explained_by_scaling(before, change)
    vectors = [v.requires_grad_() for v in (normal(500, 5, 1, seed=8), normal(500, 1, 4, seed=9))]
    optimizer = torch.optim.LBFGS(vectors, max_iter=300, line_search_fn="strong_wolfe")

    def loss():
        optimizer.zero_grad()
        left_over = (change - vectors[0] * vectors[1] * before).square().sum((1, 2))
        left_over.sum().backward()
        return left_over.sum()

    optimizer.step(loss)
    left_over = (change - vectors[0] * vectors[1] * before).square().sum((1, 2)).min() / change.square().sum()
    assert found.by_both == pytest.approx(1 - left_over.item(), abs=1e-5)


@by_hypothesis
@given(**matrices)
def test_shares_lie_between_0_and_1_and_both_sides_explain_no_less_than_one(rows, columns, rank, seed):
    before = of_rank(rows, columns, rank, seed)
    before[:, seed % columns] = 0  # which no scale can change
    found = explained_by_scaling(before, normal(rows, columns, seed=seed + 9))
    assert 0 <= max(found.by_left, found.by_right) <= found.by_both <= 1


# --- what must not change them


def measured(before, after):
    """All measures that depend on the singular terms alone."""
    old, new, change = decompose(before), decompose(after), after - before
    energy, count = energy_by_direction(old, change), min(3, len(old.values), len(new.values))
    left, right = acted_on(old, after, 3)
    return {
        "relative change": relative_change(before, after),
        **{f"effective rank {i}": effective_rank(singular_values(m)) for i, m in enumerate((before, after, change))},
        **{f"stable rank {i}": stable_rank(singular_values(m)) for i, m in enumerate((before, after, change))},
        "spectrum": energy.spectrum_share,
        "rotation": energy.rotation_share,
        "energy": energy.by_direction,
        "diagonal": energy.diagonal,
        "left angles": principal_angles(old.left[:, :count], new.left[:, :count]),
        "right angles": principal_angles(old.right[:, :count], new.right[:, :count]),
        "left departure": departure_from_orthogonality(left),
        "right departure": departure_from_orthogonality(right),
        "left intruders": intruder_dimensions(old.left, new.left[:, :count]),
        "right intruders": intruder_dimensions(old.right, new.right[:, :count]),
    }


@by_hypothesis
@given(**matrices)
def test_an_orthogonal_change_of_both_bases_changes_no_measure(rows, columns, rank, seed):
    before = of_rank(rows, columns, rank, seed)
    after = before + 0.3 * normal(rows, columns, seed=seed + 5)
    left, right = orthonormal(rows, rows, seed + 6), orthonormal(columns, columns, seed + 7)
    turned = measured(left @ before @ right, left @ after @ right)
    for name, expected in measured(before, after).items():
        close(turned[name], expected)


@by_hypothesis
@given(**matrices, exponent=st.integers(-12, 12))
def test_a_common_scale_changes_no_measure(rows, columns, rank, seed, exponent):
    before = of_rank(rows, columns, rank, seed)
    after = before + 0.3 * normal(rows, columns, seed=seed + 5)
    factor = -(10.0**exponent)
    scaled = measured(factor * before, factor * after)
    for name, expected in measured(before, after).items():
        close(scaled[name], expected)
    explained = [explained_by_scaling(f * before, f * (after - before)) for f in (1, factor)]
    for name in ("by_left", "by_right", "by_both"):
        close(getattr(explained[1], name), getattr(explained[0], name), tolerance=1e-5)


@by_hypothesis
@given(**matrices)
def test_transposing_swaps_left_and_right(rows, columns, rank, seed):
    before = of_rank(rows, columns, rank, seed)
    after = before + 0.3 * normal(rows, columns, seed=seed + 5)
    swapped = measured(before.mT, after.mT)
    names = {"left": "right", "right": "left"}
    for name, expected in measured(before, after).items():
        first, _, rest = name.partition(" ")
        close(swapped[f"{names[first]} {rest}" if first in names else name], expected)
    explained, of_swapped = (explained_by_scaling(m, c) for m, c in ((before, after), (before.mT, after.mT)))
    close(of_swapped.by_left, explained.by_right)
    close(of_swapped.by_right, explained.by_left)


@every_shape
@pytest.mark.parametrize("factor", [-2.0, -0.5, 0.1, 3.0])
def test_rlrr_with_constant_vectors_is_a_pure_scaling(shape, factor):
    before = normal(*shape)
    pair = torch.full((shape[0], 1), factor), torch.ones(1, shape[1])
    change = rescaling(before, *(vector.double() for vector in pair))
    found = measured(before, before + change)
    close(relative_change(before, before + change), abs(factor))
    close(found["spectrum"], 1.0)
    close(found["rotation"], 0.0)
    close(found["left angles"], torch.zeros(3, dtype=torch.float64))
    close(found["right angles"], torch.zeros(3, dtype=torch.float64))
    close(found["left departure"], 0.0)
    close(found["effective rank 1"], found["effective rank 0"])
    explained = explained_by_scaling(before, change)
    for share in (explained.by_left, explained.by_right, explained.by_both):
        close(share, 1.0)
    close(decompose(before + change).values, abs(1 + factor) * decompose(before).values)
