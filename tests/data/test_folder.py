from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from rlrr.data import ImageData, decode, load_data
from rlrr.errors import RLRRError

Pictures = Callable[[dict[str, int]], Path]


def names(data: ImageData) -> list[str]:
    return sorted([*data.train.names, *data.val.names, *(data.test.names if data.test else [])])


def test_classes_are_folders_sorted_by_name(pictures: Pictures) -> None:
    data = load_data(pictures({"dog": 5, "cat": 10}))
    assert (data.name, data.classes) == ("pets", ("cat", "dog"))
    assert (len(data.train), len(data.val), data.test) == (12, 3, None)
    assert data.split_origin == "val: 20 % of train, stratified, seed 0"
    for split in (data.train, data.val):
        for image, label, name in zip(split.images, split.labels, split.names, strict=True):
            assert name.split("/")[0] == data.classes[label]
            assert image == pictures({}) / name


def test_the_seed_and_the_fraction_reach_the_split(pictures: Pictures) -> None:
    root = pictures({"cat": 20, "dog": 20})
    first, again, other = (load_data(str(root), val_fraction=0.5, seed=seed) for seed in (1, 1, 2))
    assert first.val.names == again.val.names != other.val.names
    assert len(first.val) == 20
    assert first.split_origin == "val: 50 % of train, stratified, seed 1"


@pytest.mark.parametrize("val", ["val", "valid", "validation", "Validation", "VAL"])
def test_own_splits_are_kept(pictures: Pictures, val: str) -> None:
    counts = {"Train/cat": 3, "Train/dog": 1, f"{val}/cat": 2, "test/dog": 4}
    data = load_data(pictures(counts))
    assert data.test is not None
    assert list(data.train.labels) == [0, 0, 0, 1]
    assert list(data.val.labels) == [0, 0]
    assert list(data.test.labels) == [1] * 4
    assert data.split_origin == f"val: from folder {val}/; test: from folder test/"
    assert data.val.names[0] == f"{val}/cat/0.png"


def test_val_is_taken_from_train_and_not_from_test(pictures: Pictures) -> None:
    data = load_data(pictures({"train/cat": 5, "train/dog": 5, "test/cat": 2}))
    assert all(name.startswith("train/") for name in data.val.names)
    assert (len(data.train), len(data.val)) == (8, 2)
    assert data.split_origin == "val: 20 % of train, stratified, seed 0; test: from folder test/"


def test_train_and_val_without_test_is_enough(pictures: Pictures) -> None:
    data = load_data(pictures({"train/cat": 2, "train/dog": 2, "val/cat": 1}))
    assert data.test is None


def test_a_class_may_be_called_as_a_split_is(pictures: Pictures) -> None:
    assert load_data(pictures({"car": 3, "train": 3, "test": 3})).classes == ("car", "test", "train")


def test_other_folders_beside_train_are_left_out_with_a_warning(
    pictures: Pictures, caplog: pytest.LogCaptureFixture
) -> None:
    root = pictures({"train/cat": 2, "train/dog": 2, "originals": 3})
    assert all(name.startswith("train/") for name in names(load_data(root)))
    assert "folders beside train are not read: originals" in caplog.text


def test_folders_inside_a_class_belong_to_it(pictures: Pictures) -> None:
    data = load_data(pictures({"cat/2023/may": 2, "cat": 1, "dog": 2}))
    assert names(data) == ["cat/0.png", "cat/2023/may/0.png", "cat/2023/may/1.png", "dog/0.png", "dog/1.png"]


def test_names_with_spaces_and_other_alphabets_are_fine(pictures: Pictures, picture: Callable) -> None:
    root = pictures({"weiße Katze": 2, "犬, 2": 2})
    picture(root / "犬, 2" / "mon été.PNG")
    data = load_data(root)
    assert data.classes == ("weiße Katze", "犬, 2")
    assert "犬, 2/mon été.PNG" in names(data)
    assert all(decode(image).size == (12, 10) for image in data.train.images)


@pytest.mark.skipif(os.name == "nt", reason="file names are text there")
def test_names_that_are_no_text_can_still_be_written(pictures: Pictures) -> None:
    root = pictures({"cat": 2, "dog": 2})
    odd = os.fsencode(root / "cat") + b"/\xff.png"
    try:
        os.rename(root / "cat" / "0.png", odd)
    except OSError:
        pytest.skip("this file system takes text only")
    data = load_data(root)
    assert "cat/\N{REPLACEMENT CHARACTER}.png" in names(data)
    assert all(decode(image) for split in (data.train, data.val) for image in split.images)


def test_hidden_and_system_files_are_left_out_in_silence(
    pictures: Pictures, picture: Callable, caplog: pytest.LogCaptureFixture
) -> None:
    root = pictures({"cat": 2, "dog": 2, ".git": 1, "__MACOSX": 1, "cat/.thumbs": 1})
    picture(root / "cat" / "._0.png")
    for name in (".DS_Store", "Thumbs.db", "desktop.ini"):
        (root / "cat" / name).write_bytes(b"x")
    assert len(names(load_data(root))) == 4
    assert not caplog.records


def test_other_files_are_left_out_and_counted(pictures: Pictures, caplog: pytest.LogCaptureFixture) -> None:
    root = pictures({"cat": 2, "dog": 2})
    for name in ("cat/notes.txt", "dog/more.TXT", "dog/README"):
        (root / name).write_text("x")
    assert len(names(load_data(root))) == 4
    assert "3 files that are not images are not read (.txt, README)" in caplog.text


def test_a_text_with_the_name_of_an_image_is_left_for_the_check(pictures: Pictures) -> None:
    root = pictures({"cat": 2, "dog": 2})
    (root / "cat" / "notes.jpg").write_text("x")
    assert "cat/notes.jpg" in names(load_data(root))


def test_images_outside_a_class_are_counted(
    pictures: Pictures, picture: Callable, caplog: pytest.LogCaptureFixture
) -> None:
    root = pictures({"cat": 2, "dog": 2})
    picture(root / "stray.png")
    assert len(names(load_data(root))) == 4
    assert "1 images outside a class folder are not read" in caplog.text


def test_loops_of_links_end_and_move_no_image_to_another_class(
    pictures: Pictures, caplog: pytest.LogCaptureFixture
) -> None:
    root = pictures({"cat/deep": 2, "dog": 2})
    (root / "cat" / "deep" / "up").symlink_to(root)
    (root / "cat" / "self").symlink_to(root / "cat")
    (root / "loop").symlink_to(root)
    data = load_data(root)
    assert data.classes == ("cat", "dog")
    assert names(data) == ["cat/deep/0.png", "cat/deep/1.png", "dog/0.png", "dog/1.png"]
    assert "links to folders are not followed: self" in caplog.text


def test_links_to_class_folders_and_files_are_followed(pictures: Pictures, picture: Callable) -> None:
    root = pictures({"cat": 2})
    elsewhere = root.parent / "elsewhere"
    picture(elsewhere / "0.png")
    (elsewhere / "1.png").symlink_to(root / "cat" / "0.png")
    (elsewhere / "broken.png").symlink_to(elsewhere / "gone")
    (root / "dog").symlink_to(elsewhere)
    assert [name for name in names(load_data(root)) if name.startswith("dog")] == [
        "dog/0.png",
        "dog/1.png",
        "dog/broken.png",  # for the check to name
    ]


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ({"": 0}, "pets holds no images. Expected class/image.jpg"),
        ({"": 3}, "pets holds 3 images but no class folders. Expected class/image.jpg"),
        ({"train": 3, "val": 1}, "train holds 3 images but no class folders. Expected"),
        ({"train/cat": 2, "train/dog": 2, "val": 2}, "val holds 2 images but no class folders"),
        ({"cat": 0, "dog": 0}, "pets holds no images"),
        ({"cat": 3}, "pets has one class only ('cat')"),
        ({"train/cat": 3, "val/cat": 3}, "one class only ('cat')"),
        (
            {"cat": 2, "dog": 1, "emu": 1},
            "dog, emu has a single image, which cannot be in both train and val",
        ),
        ({"cat": 2, "dog": 2, "emu": 0}, "no images for class emu"),
        ({"train/cat": 2, "train/dog": 2, "test/emu": 1}, "test has a class that train has not: emu"),
        ({"train/cat": 2, "train/dog": 2, "val/Dog": 1}, "val has a class that train has not: Dog"),
        ({"train/cat": 2, "train/dog": 2, "val/dog": 0}, "val holds no images"),
        ({"val/cat": 2, "test/cat": 2}, "test, val but no train folder"),
        ({"cat": 2, "dog": 2, "val/cat": 2, "val/dog": 2}, "val but no train folder"),
        ({"train/cat": 2, "train/dog": 2, "val/cat": 1, "valid/cat": 1}, "two val folders, val and valid"),
    ],
)
def test_what_a_folder_lacks_is_said(pictures: Pictures, counts: dict[str, int], message: str) -> None:
    with pytest.raises(RLRRError) as error:
        load_data(pictures(counts))
    assert message in str(error.value)


def test_the_kinds_of_files_found_instead_are_said(pictures: Pictures) -> None:
    root = pictures({"cat": 0, "dog": 0})
    (root / "cat" / "0.heic").write_bytes(b"x")
    with pytest.raises(RLRRError, match=r"holds no images \(only \.heic files\)"):
        load_data(root)


def test_a_missing_folder_is_said_with_its_likely_name(pictures: Pictures) -> None:
    root = pictures({"cat": 2})
    with pytest.raises(RLRRError, match=r"There is no folder .*pet\. Did you mean pets\?"):
        load_data(root.parent / "pet")
    with pytest.raises(RLRRError, match="There is no folder"):
        load_data(root / "no" / "way")


def test_a_file_is_no_folder(pictures: Pictures) -> None:
    with pytest.raises(RLRRError, match=r"0\.png is a file, not a folder"):
        load_data(pictures({"cat": 2}) / "cat" / "0.png")


def test_a_folder_that_cannot_be_listed_is_named(pictures: Pictures, monkeypatch: pytest.MonkeyPatch) -> None:
    root, scandir = pictures({"cat/deep": 2, "dog": 2}), os.scandir

    def refuse(path: str | Path) -> object:
        if str(path).endswith("deep"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(RLRRError, match=r"Cannot list .*deep: Permission denied"):
        load_data(root)


def test_nothing_is_logged_for_a_clean_folder(pictures: Pictures, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        load_data(pictures({"cat": 2, "dog": 2}))
    assert not caplog.records
