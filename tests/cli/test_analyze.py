"""`rlrr analyze`."""

import json
import shutil

import pytest

pytestmark = pytest.mark.slow


@pytest.fixture
def run(finished_run, tmp_path):
    return shutil.copytree(finished_run, tmp_path / "run")


def test_one_run_is_analysed_into_its_own_folder(rlrr, run):
    result = rlrr("analyze", run, "--directions", 4)
    assert result.code == 0
    columns, _, line = result.out.splitlines()[:3]
    assert columns.startswith("run  method  trained parameters")
    assert line.split()[:2] == ["run", "rlrr"]
    assert f"report   {run / 'analysis' / 'report.html'}" in result.out
    assert {path.name for path in (run / "analysis").iterdir()} == {"report.html", "analysis.json", "analysis.csv"}
    assert f"rlrr analyze {run} --directions 4" in (run / "analysis" / "report.html").read_text()


def test_what_nobody_chose_a_place_for_is_made_anew(rlrr, run, without_pictures):
    (run / "analysis").mkdir()
    (run / "analysis" / "analysis.json").write_text("old")
    assert rlrr("analyze", run, "--directions", 4).code == 0
    assert (run / "analysis" / "analysis.json").read_text() != "old"


def test_json_has_the_means(rlrr, run, tmp_path, without_pictures):
    result = rlrr("analyze", run, "--directions", 4, "--json", "--output", tmp_path / "out")
    (found,) = json.loads(result.out)
    assert found["label"] == "run"
    assert 0 < found["means"]["relative_change"] < 1
    assert found["means"]["explained_both"] == pytest.approx(1)


def test_two_runs_need_a_place_for_the_report(refused, run):
    assert refused("analyze", run, run, code=2) == "Where to? Give a folder with --output."


def test_what_is_in_the_place_is_not_written_over(refused, run, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").touch()
    said = refused("analyze", run, "--output", tmp_path / "out", code=2)
    assert said == f"{tmp_path / 'out'} is not empty: give another --output."


def test_a_mistaken_option_is_one_sentence(refused, run):
    assert "directions must be 1 or more, not 0." in refused("analyze", run, "--directions", 0, code=2)
    assert not (run / "analysis").exists()


def test_images_are_looked_for_before_anything_is_measured(refused, run, monkeypatch):
    monkeypatch.delattr("rlrr.spectral.analyze.measure_weights")
    assert "Did you mean mnist" in refused("analyze", run, "--images", "sample:mnsit", code=1)


def test_an_empty_folder_is_named(refused, tmp_path):
    (tmp_path / "empty").mkdir()
    assert f"{tmp_path / 'empty'} holds no run" in refused("analyze", tmp_path / "empty", code=1)


def test_a_method_that_changes_no_weight_is_said_to_be_compared_by_features(
    rlrr, run, tmp_path, without_pictures, monkeypatch
):
    monkeypatch.setattr("rlrr.spectral.tuned.can_merge", lambda model: False)
    result = rlrr("analyze", run, "--output", tmp_path / "out")
    assert result.code == 0
    assert "run: rlrr changes no weight" in result.out
