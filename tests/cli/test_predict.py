"""`rlrr predict`."""

from __future__ import annotations

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
        ("photos", "not a file"),
    ],
)
def test_what_is_no_image_is_named(refused, finished_run, tmp_path, red, image, reason):
    (tmp_path / "notes.txt").write_text("words")
    (tmp_path / "empty.png").touch()
    (tmp_path / "photos").mkdir()
    said = refused("predict", finished_run, red, tmp_path / image, code=1)
    assert said == f"Cannot read {tmp_path / image}: {reason}. Give paths of image files, such as photos/*.jpg."


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
