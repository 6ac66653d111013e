"""`rlrr import`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

FILE = Path(__file__).parents[1] / "golden" / "official_vit_trained.pth"
NAMES = ["red", "green", "blue", "grey", "pink"]


@pytest.fixture
def classes(tmp_path) -> Path:
    (tmp_path / "names.txt").write_text("\n".join(NAMES) + "\n")
    return tmp_path / "names.txt"


def test_a_checkpoint_becomes_a_run_that_the_other_commands_take(rlrr, official_backbones, classes, images, tmp_path):
    run = tmp_path / "run"
    result = rlrr("import", FILE, "--model", official_backbones["vit"], "--output", run, "--classes", classes)
    assert (result.code, result.err) == (0, "")
    assert "rlrr: 5 classes" in result.out
    assert "not known  the data, its accuracy, and how the epoch was chosen" in result.out
    assert json.loads((run / "rlrr.json").read_text())["classes"] == NAMES
    assert "on 9 images" in rlrr("evaluate", run, images).out
    assert rlrr("predict", run, images / "test" / "red" / "0.png").code == 0
    assert rlrr("merge", run, "--output", tmp_path / "merged").code == 0


def test_the_result_as_json(rlrr, official_backbones, tmp_path):
    result = rlrr("import", FILE, "--model", official_backbones["vit"], "--output", tmp_path / "run", "--json")
    assert json.loads(result.out)["classes"] == ["0", "1", "2", "3", "4"]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"a\nb\n", "has 5 classes, and the names given are 2"),
        (b"a\n\nb\n", "line 2 is empty: give each class one line"),
        (b"a\nb\na\n", "line 3 names 'a' again"),
        (b"\xff\xfe", "is not a text file in UTF-8"),
        (None, "No such file"),
    ],
)
def test_classes_that_do_not_fit_are_refused(refused, official_backbones, tmp_path, content, said):
    if content is not None:
        (tmp_path / "names.txt").write_bytes(content)
    arguments = ("import", FILE, "--model", official_backbones["vit"], "--classes", tmp_path / "names.txt")
    code = 2 if said.startswith("has 5") else 1
    assert said in refused(*arguments, "--output", tmp_path / "run", code=code)
    assert not (tmp_path / "run").exists()


def test_wrong_use_is_refused(refused):
    assert refused("import", FILE, code=2).startswith("Missing: --model, --output.")
