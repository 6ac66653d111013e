"""`rlrr evaluate`."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from PIL import Image


@pytest.fixture
def out(tmp_path) -> Path:
    return tmp_path / "evaluation"


def test_it_prints_a_table_and_writes_figures_and_a_picture(rlrr, finished_run, images, out, caplog):
    result = rlrr("evaluate", finished_run, images, "--output", out)
    assert result.code == 0
    assert caplog.messages == [f"{images.name}, test: measuring 9 images on CPU, threads: 1"]
    lines = result.out.splitlines()
    assert lines[0].split() == ["class", "precision", "recall", "F1", "images"]
    assert [line.split()[0] for line in lines[2:5]] == ["blue", "green", "red"]
    assert "on 9 images" in result.out
    assert str(out / "confusion.png") in result.out
    with Image.open(out / "confusion.png") as picture:
        assert picture.format == "PNG"


def test_json_is_what_the_file_holds(rlrr, finished_run, images, out):
    result = rlrr("evaluate", finished_run, images, "--split", "val", "--output", out, "--json")
    content = json.loads(result.out)
    assert content == json.loads((out / "evaluation.json").read_text())
    assert content["images"] == 9
    assert content["split"].endswith(", val: they chose the epoch")


def test_the_results_go_into_the_run_if_nothing_else_is_said(rlrr, finished_run, images, tmp_path):
    run = Path(shutil.copytree(finished_run, tmp_path / "run"))
    assert rlrr("evaluate", run, images).code == 0
    tested = (run / "evaluation" / "evaluation.json").read_bytes()
    assert rlrr("evaluate", run, images, "--split", "val").code == 0
    assert (run / "evaluation-val" / "evaluation.json").exists()
    assert (run / "evaluation" / "evaluation.json").read_bytes() == tested


def test_data_without_a_test_split_is_refused_if_it_is_asked_for(refused, finished_run, flat_images, out):
    said = refused("evaluate", finished_run, flat_images, "--split", "test", "--output", out, code=2)
    assert said == f"{flat_images.name} has no test split, only train."
    assert not out.exists()


def test_classes_the_run_does_not_know_are_named(refused, make_images, finished_run, tmp_path, out):
    make_images(tmp_path / "more", 2, classes=("red", "violet"))
    said = refused("evaluate", finished_run, tmp_path / "more", "--output", out, code=1)
    assert said == (
        "more has classes that the run does not know (violet); it knows blue, green, red. "
        "Is this the data of the run? If so, rename their folders."
    )


def test_data_in_a_folder_of_its_own_are_found(refused, make_images, finished_run, tmp_path, out):
    make_images(tmp_path / "more" / "inside" / "data", 2)
    said = refused("evaluate", finished_run, tmp_path / "more", "--output", out, code=1)
    assert f"Did you mean {tmp_path / 'more' / 'inside' / 'data'}?" in said


def test_bad_images_are_named_or_skipped_and_counted(rlrr, finished_run, images, tmp_path, out):
    own = Path(shutil.copytree(images, tmp_path / "own"))
    (own / "test" / "red" / "0.png").write_bytes(b"")
    (own / "test" / "blue" / "1.png").write_text("words")
    refused = rlrr("evaluate", finished_run, own, "--output", out)
    assert refused.code == 1
    assert "red/0.png: empty file" in refused.err
    assert "blue/1.png: not an image" in refused.err
    skipped = rlrr("evaluate", finished_run, own, "--bad-images", "skip", "--output", out)
    assert skipped.code == 0
    assert "on 7 images" in skipped.out
    assert "skipped  2 images" in skipped.out


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["{run}"], 2, "Missing: DATA."),
        (
            ["{run}", "{images}", "--split", "tset"],
            2,
            "--split must be one of test, val, train, not 'tset'. Did you mean",
        ),
        (["{run}", "nowhere"], 1, "There is no folder nowhere."),
        (["nowhere", "{images}"], 1, "There is no folder nowhere: give the one that `rlrr train` wrote to"),
    ],
)
def test_wrong_use_is_refused(refused, finished_run, images, arguments, code, message):
    arguments = [argument.format(run=finished_run, images=images) for argument in arguments]
    assert refused("evaluate", *arguments, code=code).startswith(message)


def test_measures_that_are_not_defined_are_dashes(rlrr, finished_run, make_images, tmp_path, out):
    make_images(tmp_path / "two", 2, classes=("red", "green"))
    result = rlrr("evaluate", finished_run, tmp_path / "two", "--output", out)
    blue = next(line for line in result.out.splitlines() if line.startswith("blue"))
    assert blue.split()[2:] == ["-", "-", "0"]
    assert json.loads((out / "evaluation.json").read_text())["per_class"]["blue"]["recall"] is None


def test_the_options_of_the_machine_are_taken(rlrr, refused, finished_run, images, out):
    options = ("--device", "cpu", "--threads", 1, "--batch-size", 2, "--precision", "fp32", "--workers", 0)
    assert rlrr("evaluate", finished_run, images, "--output", out, *options).code == 0
    said = refused("evaluate", finished_run, images, "--output", out.parent / "other", "--device", "cuda:99", code=2)
    assert said.startswith("torch finds no --device cuda:99 on this machine, only ")
