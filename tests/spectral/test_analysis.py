"""A run measured weight by weight: against plain SVDs, for runs of several methods, and for what can go wrong."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from rlrr.errors import RLRRError, UsageError
from rlrr.spectral.analysis import Analysis, analyze, measure
from rlrr.spectral.tuned import Pair, open_tuned

SHAPES = {"q": (24, 24), "fc1": (60, 24), "fc2": (24, 60)}


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def pair(before, change, name="blocks.0.mlp.fc1", kind="fc1"):
    return Pair(name, 0, kind, before, before + change)


def source_of(*pairs, **its):
    about = {"label": "a run", "method": "lora", "trained": 7, "accuracy": 0.5, "accuracy_of": "val"}
    about |= {"has_weight_form": True, "vectors": {}, "neutral": {}, "deviations": [], "pairs": lambda: iter(pairs)}
    return SimpleNamespace(**about | its)


@pytest.mark.parametrize("kind", SHAPES)
def test_all_numbers_equal_those_of_plain_svds_in_double_precision(kind):
    before, change = normal(*SHAPES[kind]), 0.2 * normal(*SHAPES[kind], seed=1)
    row = measure(pair(before, change), directions=5)
    after = (before + change).double()
    before, change = before.double(), after - before.double()
    (left, values, right), (new_left, new_values, new_right) = (
        torch.linalg.svd(matrix, full_matrices=False) for matrix in (before, after)
    )
    values_change = torch.linalg.svdvals(change)

    def entropy_rank(values):
        shares = values / values.sum()
        return (-(shares * shares.log()).sum()).exp().item()

    def largest_angle(one, two):
        return torch.linalg.svdvals(one[:, :5].mT @ two[:, :5]).min().acos().rad2deg().item()

    def departure(basis):
        basis = basis / basis.norm(dim=0)
        cosines = (basis.mT @ basis)[~torch.eye(5, dtype=torch.bool)]
        return cosines.square().mean().sqrt().item()

    expected = {
        "norm_before": before.norm().item(),
        "norm_change": change.norm().item(),
        "relative_change": (change.norm() / before.norm()).item(),
        "spectrum_share": ((left.mT @ change @ right.mT).diagonal().norm() / change.norm()).square().item(),
        "effective_rank_before": entropy_rank(values),
        "effective_rank_after": entropy_rank(new_values),
        "effective_rank_change": entropy_rank(values_change),
        "stable_rank_before": (values.norm() / values[0]).square().item(),
        "stable_rank_after": (new_values.norm() / new_values[0]).square().item(),
        "stable_rank_change": (values_change.norm() / values_change[0]).square().item(),
        "left_angle": largest_angle(left, new_left),
        "right_angle": largest_angle(right.mT, new_right.mT),
        "left_orthogonality": departure(after @ right.mT[:, :5]),
        "right_orthogonality": departure(after.mT @ left[:, :5]),
    }
    for name, value in expected.items():
        assert getattr(row, name) == pytest.approx(value, rel=1e-6), name
    assert row.intruders == ((left.mT @ new_left[:, :10]).abs().amax(0) < 0.5).sum()
    assert row.rotation_share == pytest.approx(1 - row.spectrum_share)
    for name, array in (("before", values), ("after", new_values), ("change", values_change)):
        np.testing.assert_allclose(getattr(row, f"values_{name}"), array.numpy(), rtol=1e-6)
    assert (row.rows, row.columns, row.layer, row.kind) == (*SHAPES[kind], 0, "fc1")


@pytest.mark.parametrize("zero", ["change", "before", "after", "both"])
def test_zero_matrices_have_no_nan(zero):
    before = torch.zeros(12, 8) if zero in ("before", "both") else normal(12, 8)
    change = {"change": 0 * before, "before": normal(12, 8, seed=2), "after": -before, "both": 0 * before}[zero]
    row = measure(pair(before, change), directions=4)
    values = [value for value in vars(row).values() if isinstance(value, float)]
    arrays = [value for value in vars(row).values() if isinstance(value, np.ndarray)]
    assert np.isfinite(values).all()
    assert all(np.isfinite(array).all() for array in arrays)
    assert row.values_before.shape == row.values_after.shape == row.values_change.shape == (8,)
    undefined = {name for name, value in vars(row).items() if value is None}
    of_change = {"spectrum_share", "rotation_share", "effective_rank_change", "stable_rank_change"}
    of_change |= {"explained_left", "explained_right", "explained_both"}
    angles = {f"{side}_angle{mean}" for side in ("left", "right") for mean in ("", "_mean")}
    departures = {"left_orthogonality", "right_orthogonality"}
    ranks = {when: {f"effective_rank_{when}", f"stable_rank_{when}"} for when in ("before", "after")}
    assert (
        undefined
        == {
            "change": of_change,
            "before": angles | departures | ranks["before"] | {"relative_change"},
            "after": angles | departures | ranks["after"],
            "both": of_change | angles | departures | ranks["before"] | ranks["after"],
        }[zero]
    )
    if zero == "change":
        assert (row.relative_change, row.left_angle, row.right_angle, row.intruders) == (
            0, pytest.approx(0, abs=1e-9), pytest.approx(0, abs=1e-9), 0
        )  # fmt: skip


def test_the_means_of_a_run_are_weighted_as_they_say():
    weights = [pair(normal(9, 6, seed=i), scale * normal(9, 6, seed=i + 5)) for i, scale in enumerate((0.1, 0.5, 0))]
    analysis = analyze(source_of(*weights), directions=3)
    changes = [(one.after - one.before).double().square().sum().item() for one in weights]
    whole = sum(one.before.double().square().sum().item() for one in weights)
    assert analysis.relative_change == pytest.approx((sum(changes) / whole) ** 0.5)
    rotated = [change * (row.rotation_share or 0) for change, row in zip(changes, analysis.rows, strict=True)]
    assert analysis.rotation_share == pytest.approx(sum(rotated) / sum(changes))
    ranks = [row.effective_rank_change for row in analysis.rows]
    assert analysis.effective_rank_change == pytest.approx((ranks[0] + ranks[1]) / 2)
    assert ranks[2] is None
    assert (analysis.label, analysis.method, analysis.trained, analysis.accuracy) == ("a run", "lora", 7, 0.5)


def test_a_run_without_a_weight_form_has_no_measures_of_weights():
    analysis = analyze(source_of(has_weight_form=False, pairs=None))
    assert analysis.rows == []
    means = (analysis.relative_change, analysis.rotation_share, analysis.explained_both, analysis.effective_rank_change)
    assert means == (None,) * 4


@pytest.mark.parametrize(("when", "value"), [("before", torch.nan), ("after", torch.inf)])
def test_numbers_that_are_none_are_named(when, value):
    good, bad = pair(normal(4, 4), normal(4, 4)), pair(normal(4, 4), normal(4, 4), name="blocks.3.mlp.fc2")
    getattr(bad, when)[1, 2] = value
    with pytest.raises(RLRRError, match=rf"a run: the weight blocks\.3\.mlp\.fc2 holds NaN or infinity {when} tuning"):
        analyze(source_of(good, bad))


def test_directions_out_of_range_are_refused():
    with pytest.raises(UsageError, match="directions must be 1 or more, not 0"):
        analyze(source_of(), directions=0)


def test_progress_hears_of_every_weight_in_order():
    heard = []
    weights = [pair(normal(4, 4), normal(4, 4), name=name) for name in ("one", "two")]
    analyze(source_of(*weights), progress=heard.append)
    assert heard == ["one", "two"]


def test_weights_measured_at_once_are_as_those_measured_one_by_one():
    weights = [pair(normal(30, 20, seed=i), normal(30, 20, seed=i + 9), name=str(i)) for i in range(7)]
    torch.set_num_threads(1)
    alone = analyze(source_of(*weights), directions=4)
    torch.set_num_threads(2)
    together = analyze(source_of(*weights), directions=4)
    assert torch.get_num_threads() == 2
    assert [row.name for row in together.rows] == list("0123456")
    for one, other in zip(alone.rows, together.rows, strict=True):
        np.testing.assert_allclose(other.values_after, one.values_after, rtol=1e-12)
        for name in ("rotation_share", "explained_both", "left_angle", "effective_rank_change"):
            assert getattr(other, name) == pytest.approx(getattr(one, name), rel=1e-9), name
    weights[3].after[0, 0] = torch.nan
    with pytest.raises(RLRRError, match="the weight 3 holds NaN"):
        analyze(source_of(*weights))
    assert torch.get_num_threads() == 2


@pytest.fixture(scope="module")
def analyses(make_adapter, tmp_path_factory) -> dict[str, Analysis]:
    """Random adapters of RLRR in some of its forms, and others."""
    forms = {
        "both": {},
        "out": {"sides": "out"},
        "in": {"sides": "in", "fused_blocks": 1},
        "lora": {"method": "lora"},
    }
    runs = {name: make_adapter(tmp_path_factory.mktemp(name) / "run", **form) for name, form in forms.items()}
    return {name: analyze(open_tuned(run), directions=4) for name, run in runs.items()}


def explained(analysis, which):
    return [getattr(row, f"explained_{which}") for row in analysis.rows if row.kind in ("q", "k", "v", "fc1", "fc2")]


def test_rlrr_is_explained_by_scaling_its_side_and_lora_is_not(analyses):
    assert min(explained(analyses["both"], "both")) > 1 - 1e-6
    assert min(explained(analyses["out"], "left")) > 1 - 1e-6
    assert min(explained(analyses["in"], "right")) > 1 - 1e-6
    assert max(explained(analyses["both"], "left")) < 0.99
    assert max(share for share in explained(analyses["lora"], "both") if share is not None) < 0.8


def test_the_update_of_lora_has_its_rank_and_that_of_rlrr_is_full(analyses):
    ranks = {
        name: [row.effective_rank_change for row in analyses[name].rows if row.effective_rank_change is not None]
        for name in ("both", "lora")
    }
    assert max(ranks["lora"]) < 8.01
    assert min(ranks["both"]) > 10
