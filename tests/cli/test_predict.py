"""`rlrr predict`."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys

import pytest
import timm
import torch

from rlrr.interop.timm_folder import write_timm_folder


@pytest.fixture(scope="module")
def red(images):
    return images / "test" / "red" / "0.png"


def test_a_line_for_each_image_with_the_likeliest_classes(rlrr, finished_run, images, red):
    blue = images / "test" / "blue" / "1.png"
    result = rlrr("predict", finished_run, red, blue, "--top-k", 2)
    assert result.code == 0
    assert result.err == ""
    first, second = result.out.splitlines()
    assert first.startswith(f"{red}: red ")
    assert second.startswith(f"{blue}: blue ")
    assert first.count("%") == 2


def test_json_has_the_probabilities(rlrr, finished_run, red):
    (one,) = json.loads(rlrr("predict", finished_run, red, "--json").out)
    assert one["image"] == str(red)
    assert one["top"][0]["class"] == "red"
    assert sum(top["probability"] for top in one["top"]) == pytest.approx(1)


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        ("none.png", "no such file"),
        ("notes.txt", "not an image"),
        ("empty.png", "empty file"),
    ],
)
def test_what_is_no_image_is_named(refused, finished_run, tmp_path, red, image, reason):
    (tmp_path / "notes.txt").write_text("words")
    (tmp_path / "empty.png").touch()
    said = refused("predict", finished_run, tmp_path / image, code=1)
    assert said == f"Cannot read {tmp_path / image}: {reason}."


@pytest.mark.parametrize("form", [(), ("--json",), ("--output", "out.csv")], ids=str)
@pytest.mark.parametrize(
    ("treatment", "code"), [((), 1), (("--bad-images", "error"), 1), (("--bad-images", "skip"), 0)]
)
def test_the_good_are_answered_and_the_bad_named(
    rlrr, finished_run, tmp_path, monkeypatch, caplog, red, form, treatment, code
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty.png").touch()
    result = rlrr("predict", finished_run, "empty.png", red, "none.png", *form, *treatment)
    assert result.code == code
    said = result.err.removeprefix("rlrr: ").strip() if code else caplog.messages[-1]
    assert said == "2 of 3 images cannot be read:\n  empty.png: empty file\n  none.png: no such file"
    if form == ("--json",):
        assert [one["image"] for one in json.loads(result.out)] == [str(red)]
    elif form:
        assert [line["image"] for line in csv.DictReader((tmp_path / "out.csv").open())] == [str(red)]
    else:
        assert result.out.startswith(f"{red}: red ")
        assert len(result.out.splitlines()) == 1


def test_folders_and_patterns_are_all_their_images(rlrr, finished_run, images):
    paths = sorted((images / "test").rglob("*.png"))
    for given in (images / "test", f"{images}/test/*/*.png", f"{images}/test/**/*.png", f"{images}/test/*"):
        result = rlrr("predict", finished_run, given, "--top-k", 1)
        assert (result.code, result.err) == (0, "")
        assert [line.partition(": ")[0] for line in result.out.splitlines()] == list(map(str, paths))
        assert [line.split()[-2] for line in result.out.splitlines()] == [path.parent.name for path in paths]


def test_a_file_takes_the_place_of_lines(rlrr, refused, finished_run, images, tmp_path):
    result = rlrr("predict", finished_run, images / "test", "--output", tmp_path / "new" / "out.csv")
    assert (result.code, result.out) == (0, f"written  {tmp_path / 'new' / 'out.csv'}\n")
    lines = list(csv.DictReader((tmp_path / "new" / "out.csv").open()))
    assert [line["class"] for line in lines] == ["blue"] * 3 + ["green"] * 3 + ["red"] * 3
    assert sum(float(lines[0][name]) for name in ("probability", "probability_2", "probability_3")) == pytest.approx(1)
    said = refused("predict", finished_run, images / "test", "--output", tmp_path / "new" / "out.csv", code=2)
    assert "exists: give another --output" in said
    said = refused("predict", finished_run, images / "test", "--output", tmp_path / "out.xlsx", code=2)
    assert said == "--output must end in one of .csv, .json, .jsonl, not 'out.xlsx'."


def test_nothing_to_predict_is_one_sentence(refused, finished_run, tmp_path):
    (tmp_path / "photos").mkdir()
    assert refused("predict", finished_run, tmp_path / "photos", code=1) == f"{tmp_path / 'photos'} holds no images."
    (tmp_path / "photos" / "notes.txt").touch()
    said = refused("predict", finished_run, tmp_path / "photos", code=1)
    assert said == f"{tmp_path / 'photos'} holds no images (only .txt files)."
    assert refused("predict", finished_run, f"{tmp_path}/*.jpg", code=1) == f"No file matches {tmp_path}/*.jpg."


def test_the_options_of_the_machine_are_taken(rlrr, refused, finished_run, red):
    options = ("--device", "cpu", "--threads", 1, "--batch-size", 1, "--precision", "fp32", "--workers", 0)
    assert rlrr("predict", finished_run, red, *options).out == rlrr("predict", finished_run, red).out
    assert "--device must be auto, cpu, cuda" in refused("predict", finished_run, red, "--device", "gpu", code=2)
    assert "--batch-size must be 1 or more" in refused("predict", finished_run, red, "--batch-size", 0, code=2)


def test_wrong_use_is_refused(refused, finished_run, red):
    assert refused("predict", code=2).startswith("Missing: RUN, IMAGE.")
    assert refused("predict", finished_run, code=2).startswith("Missing: IMAGE.")
    assert refused("predict", finished_run, red, "--top-k", 0, code=2) == "--top-k must be 1 or more, not 0."


def test_a_folder_that_is_no_finished_run_is_refused(refused, finished_run, tmp_path, red):
    assert refused("predict", tmp_path / "none", red, code=1).startswith(f"There is no folder {tmp_path / 'none'}: ")
    (tmp_path / "empty").mkdir()
    assert "is not the folder of a run" in refused("predict", tmp_path / "empty", red, code=1)
    stopped = tmp_path / "stopped"
    shutil.copytree(finished_run, stopped)
    (stopped / "rlrr.json").unlink()
    said = refused("predict", stopped, red, code=1)
    assert said == (
        f"The run in {stopped} is not finished; go on with it: "
        f"rlrr train --config {stopped / 'recipe.yaml'} --output {stopped} --resume"
    )


@pytest.mark.parametrize(
    ("file", "content"),
    [("adapter_model.safetensors", b"short"), ("rlrr.json", b"{"), ("rlrr.json", b"[]")],
)
def test_a_damaged_run_is_refused_with_the_name_of_the_file(refused, finished_run, tmp_path, red, file, content):
    run = tmp_path / "run"
    shutil.copytree(finished_run, run)
    (run / file).write_bytes(content)
    assert str(run / file) in refused("predict", run, red, code=1)


def test_weights_of_another_backbone_are_refused(refused, finished_run, tiny_backbone, tmp_path, red):
    torch.manual_seed(1)
    sizes = {"img_size": 32, "patch_size": 8, "depth": 2, "embed_dim": 32, "num_heads": 2}
    model = timm.create_model("vit_tiny_patch16_224", num_classes=2, **sizes)
    write_timm_folder(
        model, tmp_path / "other", ["a", "b"], timm.data.resolve_model_data_config(model, {"img_size": 32})
    )
    said = refused("predict", finished_run, red, "--weights", tmp_path / "other", code=1)
    assert said.startswith(f"The adapter in {finished_run} was trained on {tiny_backbone} with weights ")
    assert "as --weights" in said

    smaller = timm.create_model("vit_tiny_patch16_224", num_classes=0, **{**sizes, "depth": 1})
    torch.save(smaller.state_dict(), tmp_path / "smaller.pth")
    said = refused("predict", finished_run, red, "--weights", tmp_path / "smaller.pth", code=1)
    assert said.startswith(f"The weights in {tmp_path / 'smaller.pth'} are not those of ")


@pytest.mark.slow
def test_names_that_the_terminal_cannot_show_do_not_stop_it(finished_run, tmp_path, red):
    odd = os.fsencode(tmp_path) + b"/\xff\xc3\xa9.png"
    shutil.copy(red, odd)
    done = subprocess.run(
        [sys.executable, "-m", "rlrr.cli.main", "predict", finished_run, odd],
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
        capture_output=True,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert b".png: red " in done.stdout
