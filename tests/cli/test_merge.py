"""`rlrr merge`."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import timm

pytestmark = pytest.mark.slow


def test_the_plain_model_is_compared_on_the_runs_own_images(rlrr, finished_run, tmp_path):
    merged = tmp_path / "mein Modell"
    result = rlrr("merge", finished_run, "--output", merged)
    assert result.code == 0
    assert result.err == ""
    found = re.search(r"largest logit difference .* on 9 images: (\S+) \(largest logit (\S+)\)", result.out)
    assert float(found[1]) < 1e-5 * max(1, float(found[2]))
    assert f'timm.create_model("local-dir:{merged}", pretrained=True)' in result.out
    assert timm.create_model(f"local-dir:{merged}", pretrained=True).num_classes == 3


def test_it_can_be_compared_on_given_images(rlrr, finished_run, images, tmp_path):
    given = sorted((images / "test" / "red").iterdir())
    result = rlrr("merge", finished_run, "--output", tmp_path / "merged", "--images", *given)
    assert "on 3 images" in result.out


def test_the_result_as_json(rlrr, finished_run, tmp_path):
    result = json.loads(rlrr("merge", finished_run, "--output", tmp_path / "merged", "--json").out)
    assert result["folder"] == str(tmp_path / "merged")
    assert result["images"] == 9
    assert result["difference"] < 1e-4


def test_an_image_that_cannot_be_read_is_named_and_nothing_is_written(refused, finished_run, tmp_path):
    said = refused("merge", finished_run, "--output", tmp_path / "merged", "--images", tmp_path / "none.png", code=1)
    assert said.startswith(f"Cannot read {tmp_path / 'none.png'}: no such file")
    assert not (tmp_path / "merged").exists()


def test_without_the_images_it_merges_and_says_that_it_was_not_compared(rlrr, finished_run, tmp_path):
    run = Path(shutil.copytree(finished_run, tmp_path / "run"))
    record = json.loads((run / "rlrr.json").read_text())
    record["data"]["source"] = str(tmp_path / "gone")
    (run / "rlrr.json").write_text(json.dumps(record))
    result = rlrr("merge", run, "--output", tmp_path / "merged")
    assert result.code == 0
    assert "not compared with the unmerged model: there are no images, give some with --images" in result.out
    assert (tmp_path / "merged" / "model.safetensors").exists()


def test_wrong_use_is_refused(refused, finished_run, tmp_path):
    assert refused("merge", finished_run, code=2).startswith("Missing: --output.")
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "file").touch()
    said = refused("merge", finished_run, "--output", tmp_path / "there", code=2)
    assert said == f"{tmp_path / 'there'} exists: give another --output; nothing is overwritten."
    assert refused("merge", tmp_path / "none", "--output", tmp_path / "new", code=1).startswith("There is no folder")
    assert not (tmp_path / "new").exists()
