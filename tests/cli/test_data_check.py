"""`rlrr data check`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest


@pytest.fixture
def root(make_vtab, tmp_path) -> Path:
    return make_vtab(tmp_path / "vtab-1k", "kitti", "patch_camelyon")


def test_a_whole_copy_passes(rlrr, make_vtab, tmp_path):
    folder = make_vtab(tmp_path, "kitti", train=800, val=200, test=711) / "kitti"
    result = rlrr("data", "check", folder)
    assert (result.code, result.err) == (0, "")
    assert result.out.splitlines()[2].split() == ["kitti", "800/800", "200/200", "711/711", "4/4", "0", "0"]
    assert result.out.endswith("\nNo problems.\n")


def test_a_table_and_the_problems_are_printed_and_the_call_fails(rlrr, root):
    (root / "kitti/images/test/000001.jpg").write_bytes(b"")
    result = rlrr("data", "check", root)
    assert result.code == 1
    assert result.err == f"rlrr: {root}: 17 tasks are missing and 2 of 2 tasks have problems, 9 in all.\n"
    lines = result.out.splitlines()
    assert lines[0].split() == ["task", "train", "val", "test", "classes", "problems", "notes"]
    assert lines[2].split() == ["patch_camelyon", "4/800", "2/200", "2/32768", "2/2", "4", "0"]
    assert lines[3].split() == ["kitti", "4/800", "2/200", "4/711", "4/4", "5", "0"]
    assert "missing: cifar, caltech101, dtd" in result.out
    assert "\nkitti: 4 count, 1 corrupt\n" in result.out
    assert "\n  test.txt, line 2: images/test/000001.jpg: empty file\n" in result.out
    assert max(map(len, lines)) <= 90


def test_a_long_list_of_problems_is_cut_with_its_counts(rlrr, make_vtab, tmp_path):
    folder = make_vtab(tmp_path, "kitti", test=60) / "kitti"
    for file in (folder / "images/test").glob("00003*.jpg"):
        file.unlink()
    for file in (folder / "images/test").glob("00004*.jpg"):
        file.write_bytes(b"x")
    result = rlrr("data", "check", folder)
    assert "\nkitti: 10 missing file, 4 count, 10 corrupt\n" in result.out
    assert "\n  and 4 more: --output FILE" in result.out
    assert len([line for line in result.out.splitlines() if line.startswith("  test.txt, line")]) == 10 + 6


def test_json_holds_everything_on_stdout_and_in_a_file(rlrr, root, tmp_path):
    for i in range(4):
        (root / f"kitti/images/test/00000{i}.jpg").unlink()
    result = rlrr("data", "check", root, "--json", "--output", tmp_path / "check.json")
    assert result.code == 1
    found = json.loads(result.out)
    assert found == json.loads((tmp_path / "check.json").read_text())
    assert (found["benchmark"], found["clean"], len(found["missing"])) == ("vtab1k", False, 17)
    camelyon, kitti = found["tasks"]
    assert camelyon["images"]["test"] == {"found": 2, "expected": 32768}
    assert kitti["classes"] == {"found": 4, "expected": 4}
    assert [problem["kind"] for problem in kitti["problems"]] == ["missing file"] * 4 + ["count"] * 4
    assert kitti["notes"] == []


def test_fgvc_is_told_by_its_lists(rlrr, make_fgvc, tmp_path):
    result = rlrr("data", "check", make_fgvc(tmp_path, "cub", "dogs", trainval=True))
    assert result.code == 1
    lines = result.out.splitlines()
    assert lines[2].split() == ["CUB_200_2011", "6/5994", "-", "200/5794", "200/200", "2", "0"]
    assert "missing: nabirds, flowers, cars" in result.out


@pytest.mark.parametrize(
    ("arguments", "said", "code"),
    [
        (["gone"], "There is no folder gone.", 1),
        ([".", "--benchmark", "imagenet"], "--benchmark must be one of vtab1k, fgvc, not 'imagenet'.", 2),
        ([], "Missing: DATA.", 2),
    ],
)
def test_what_cannot_be_checked_is_refused(refused, tmp_path, monkeypatch, arguments, said, code):
    monkeypatch.chdir(tmp_path)
    assert refused("data", "check", *arguments, code=code).startswith(said)


@pytest.fixture
def flowers(make_images, tmp_path) -> Path:
    """Three classes in train and test, of which one test image is in train too, and one cannot be read."""
    root = tmp_path / "flowers"
    make_images(root / "train", 3, seed=0)
    make_images(root / "test", 2, seed=1)
    (root / "test/red/0.png").write_bytes((root / "train/red/1.png").read_bytes())
    return root


def test_a_folder_of_images_is_checked_too(rlrr, flowers, caplog):
    result = rlrr("data", "check", flowers)
    assert result.code == 0
    assert "1 of 6 images of test is also in train: test/red/0.png is the same image as train/red/1.png" in caplog.text
    assert [line.split() for line in result.out.splitlines()[2:]] == [
        ["train", "9", "3/3", "0"],
        ["test", "6", "3/3", "0"],
    ]


def test_images_that_cannot_be_read_and_missing_classes_are_told(rlrr, flowers, tmp_path):
    (flowers / "test/red/0.png").write_bytes(b"text")
    for file in (flowers / "test/blue").iterdir():
        file.unlink()
    result = rlrr("data", "check", flowers, "--json", "--output", tmp_path / "check.json")
    assert result.code == 1
    assert result.err.endswith(f"rlrr: {flowers}: 1 of 13 images cannot be read.\n")
    found = json.loads(result.out)
    assert found == json.loads((tmp_path / "check.json").read_text())
    assert found["unreadable"] == {"train": [], "test": ["test/red/0.png: not an image"]}
    assert (found["missing_classes"]["test"], found["images"], found["clean"]) == (
        ["blue"],
        {"train": 9, "test": 4},
        False,
    )


def test_clean_data_has_no_problems(rlrr, make_images, tmp_path):
    make_images(tmp_path / "clean", 2)
    result = rlrr("data", "check", tmp_path / "clean")
    assert (result.code, result.err) == (0, "")
    assert result.out.endswith("\nNo problems.\n")
