"""`rlrr combine`."""

from __future__ import annotations

import json

import pytest

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def runs(make_adapter, tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    return [make_adapter(root / f"run {seed}", seed=seed) for seed in range(2)]


def test_two_runs_become_one_that_the_other_commands_take(rlrr, runs, images, tmp_path):
    result = rlrr("combine", *runs, "--weights", 0.75, 0.25, "--output", tmp_path / "both", "--combination", "average")
    assert (result.code, result.err) == (0, "")
    assert f"combined (average) from {runs[0]} (0.75), {runs[1]} (0.25); not trained as such" in result.out
    assert "accuracy   not measured" in result.out
    record = json.loads((tmp_path / "both" / "rlrr.json").read_text())
    assert record["metrics"] == {}
    assert "on 9 images" in rlrr("evaluate", tmp_path / "both", images).out


def test_runs_and_weights_may_stand_in_any_order(rlrr, runs, tmp_path):
    result = rlrr("combine", "--weights", -1, 2, "--output", tmp_path / "both", *runs)
    assert result.code == 0, result
    assert "(-1)" in result.out


def test_the_result_as_json(rlrr, runs, tmp_path):
    record = json.loads(rlrr("combine", *runs, "--output", tmp_path / "both", "--json").out)
    assert record["protocol"].startswith("combined (exact)")


@pytest.mark.parametrize("weight", ["nan", "inf", "-inf"])
def test_weights_have_to_be_finite(refused, runs, tmp_path, weight):
    said = refused("combine", *runs, "--weights", "1", weight, "--output", tmp_path / "new", code=2)
    assert "must be finite numbers, not 1.0, " in said
    assert not (tmp_path / "new").exists()


def test_wrong_use_is_refused(refused, runs, tmp_path):
    new = tmp_path / "new"
    assert refused("combine", runs[0], "--output", new, code=2).startswith("There is 1 run to combine")
    assert refused("combine", *runs, code=2).startswith("Missing: --output.")
    assert "2 runs and 1 weight:" in refused("combine", *runs, "--weights", 1, "--output", new, code=2)
    assert "weights" in refused("combine", *runs, "--weights", "x", 1, "--output", new, code=2)
    assert "There is no folder" in refused("combine", runs[0], tmp_path / "none", "--output", new, code=1)
    assert not new.exists()
