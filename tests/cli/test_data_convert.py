"""`rlrr data convert`."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from PIL import Image


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of KITTI with a few images, of labelled files."""
    Image.new("RGB", (4, 4)).save(buffer := io.BytesIO(), "PNG")
    for split, count in {"train800": 5, "val200": 4, "test": 6}.items():
        (tmp_path / "my copy" / "kitti" / split).mkdir(parents=True)
        for index in range(count):
            path = tmp_path / "my copy" / "kitti" / split / f"img_{index}-label_{index % 4}.png"
            path.write_bytes(buffer.getvalue())
    return tmp_path / "my copy"


def test_it_prints_a_line_for_each_task_and_the_next_step(rlrr, copy, tmp_path):
    result = rlrr("data", "convert", copy, "--output", tmp_path / "vtab 1k")
    assert (result.code, result.err) == (0, "")
    assert result.out.splitlines() == [
        f"kitti: 5 train, 4 val and 6 test images in {tmp_path / 'vtab 1k' / 'kitti'}",
        f"next: rlrr data check '{tmp_path / 'vtab 1k'}'",
    ]


def test_the_result_as_json(rlrr, copy, tmp_path):
    (task,) = json.loads(rlrr("data", "convert", copy, "--output", tmp_path / "vtab", "--json").out)
    assert (task["task"], task["folder"]) == ("kitti", str(tmp_path / "vtab" / "kitti"))
    assert task["images"]["test"] == 6


def test_wrong_use_is_refused(refused, copy, tmp_path):
    assert refused("data", "convert", copy, code=2).startswith("Missing: --output.")
    said = refused("data", "convert", copy, "--output", tmp_path / "new", "--task", "kiti", code=2)
    assert said == "There is no task 'kiti' in VTAB-1k. Did you mean kitti?"
    said = refused("data", "convert", copy, "--output", copy, code=2)
    assert said.startswith(f"{copy} already has kitti: give another --output")
    said = refused("data", "convert", tmp_path / "none", "--output", tmp_path / "new", code=2)
    assert said.startswith(f"There is no {tmp_path / 'none'}.")
    assert not (tmp_path / "new").exists()


def test_the_help_warns_that_copies_differ(rlrr, capsys):
    with pytest.raises(SystemExit):
        rlrr("data", "convert", "--help")
    help_text = " ".join(capsys.readouterr().out.split())
    assert "rlrr data convert vtab-1k.zip --output vtab-1k" in help_text
    assert "compare results on one copy only" in help_text
