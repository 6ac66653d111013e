"""From runs to a report: what is measured, what is written, and that nothing is written when it cannot be."""

import csv
import json
import shutil

import pytest

import rlrr
from rlrr.errors import RLRRError
from rlrr.spectral import analyze as analyzing


def test_runs_are_measured_side_by_side_and_written(finished_run, tmp_path, monkeypatch):
    shown = []
    monkeypatch.setattr(analyzing, "write_page", lambda *args: shown.append(args))
    copy = shutil.copytree(finished_run, tmp_path / "copy")
    analyses = rlrr.analyze([finished_run, copy], tmp_path / "out", directions=4, commands=["rlrr analyze"])

    assert [analysis.label for analysis in analyses] == [finished_run.name, "copy"]
    assert analyses[0].relative_change == analyses[1].relative_change > 0
    data = json.loads((tmp_path / "out" / "analysis.json").read_text())["analyses"]
    assert [run["means"]["relative_change"] for run in data] == [run.relative_change for run in analyses]
    lines = list(csv.DictReader((tmp_path / "out" / "analysis.csv").open()))
    assert [line["name"] for line in lines] == [row.name for run in analyses for row in run.rows]
    ((report, *rest),) = shown
    assert (report.name, rest) == ("report.html", [analyses, ["rlrr analyze"]])
    assert analyses[0].features == []


def test_a_new_folder_gets_all_files_or_none_and_another_keeps_what_it_has(finished_run, tmp_path, monkeypatch):
    def fail(*args):
        raise RuntimeError("killed")

    with monkeypatch.context() as patch:
        patch.setattr(analyzing, "write_page", fail)
        with pytest.raises(RuntimeError, match="killed"):
            rlrr.analyze([finished_run], tmp_path / "out")
    assert not list(tmp_path.iterdir())
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "notes").write_text("mine")
    monkeypatch.setattr(analyzing, "write_page", lambda path, *args: path.write_text("report"))
    rlrr.analyze([finished_run], tmp_path / "out")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        *("notes", "report.html", "analysis.json", "analysis.csv")
    }


def test_features_are_compared_on_images_of_the_held_out_split(
    finished_run, images, tmp_path, monkeypatch, without_pictures
):
    seen = []
    original = analyzing.feature_changes
    monkeypatch.setattr(analyzing, "feature_changes", lambda *args, **k: seen.append(args[2]) or original(*args, **k))
    (analysis,) = rlrr.analyze([finished_run], tmp_path / "out", images=images, directions=2)

    assert seen[0].shape == (9, 3, 32, 32)
    assert [change["layer"] for change in analysis.features] == [0, 1]
    assert analysis.features_of == f"9 images of {images.name} (val)"
    assert all(change["relative_change"] > 0 for change in analysis.features)


def test_more_images_than_needed_are_thinned_evenly(finished_run, images, tmp_path, monkeypatch, without_pictures):
    seen = []
    original = analyzing.feature_changes
    monkeypatch.setattr(analyzing, "IMAGES", 5)
    monkeypatch.setattr(analyzing, "feature_changes", lambda *args, **k: seen.append(args[2]) or original(*args, **k))
    rlrr.analyze([finished_run], tmp_path / "out", images=images, directions=2)
    assert len(seen[0]) == 5


def test_files_of_weights_make_no_features(finished_run, tmp_path):
    rlrr.merge(finished_run, tmp_path / "merged")
    weights = tmp_path / "merged" / "model.safetensors"
    with pytest.raises(RLRRError, match="features need the model"):
        rlrr.analyze([weights], tmp_path / "out", start=weights, images="sample:digits")
    assert not (tmp_path / "out").exists()


def test_a_place_that_cannot_be_written_is_refused_before_anything_is_measured(finished_run, tmp_path, monkeypatch):
    monkeypatch.delattr(analyzing, "measure_weights")
    (tmp_path / "file").touch()
    with pytest.raises(RLRRError, match=r"Cannot write .*file is a file"):
        rlrr.analyze([finished_run], tmp_path / "file" / "out")


def test_nothing_is_written_if_one_of_the_runs_cannot_be_opened(finished_run, tmp_path):
    with pytest.raises(RLRRError, match="There is no run, adapter, model or file of weights"):
        rlrr.analyze([finished_run, tmp_path / "gone"], tmp_path / "out")
    assert not (tmp_path / "out").exists()
