from __future__ import annotations

import logging
import os
import unicodedata
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


@pytest.mark.parametrize("train", ["Train", "training", "train_set"])
@pytest.mark.parametrize("val", ["val", "valid", "validation", "Validation", "VAL"])
def test_own_splits_are_kept(pictures: Pictures, train: str, val: str) -> None:
    counts = {f"{train}/cat": 3, f"{train}/dog": 1, f"{val}/cat": 2, "test/dog": 4}
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
    assert "not read, as they are no images that Pillow knows: 3 files (.txt, README)" in caplog.text


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
    assert "not read, as they are in no class folder: 1 image" in caplog.text


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
        ({"cat": 1, "dog": 1}, "pets has a single image of each class"),
        ({"cat": 2, "dog": 2, "emu": 0, "gnu": 0}, "no images for classes emu, gnu: add some, or remove their folders"),
        ({"": 1}, "pets holds 1 image but no class folders."),
        ({"cat": 2, "dog": 2, "emu": 0}, "no images for class emu"),
        ({"train/cat": 2, "train/dog": 2, "test/emu": 1}, "test has a class that train has not: emu"),
        ({"train/cat": 2, "train/dog": 2, "val/Dog": 1}, "train has not: Dog. Did you mean dog?"),
        ({"train/cat": 2, "train/dog": 2, "val/DOG": 1, "val/CAT": 1}, "not: CAT, DOG. Did you mean cat, dog?"),
        ({"train/a cat": 2, "train/dog": 2, "test/a_cat": 1}, "not: a_cat. Did you mean a cat?"),
        ({"train/kitten": 2, "train/dog": 2, "test/kiten": 1}, "not: kiten. Did you mean kitten?"),
        ({"trian/cat": 2, "trian/dog": 2, "val/cat": 2}, "no train folder. Did you mean trian?"),
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
    (root / "cat" / "0.dng").write_bytes(b"x")
    with pytest.raises(RLRRError, match=r"holds no images \(only \.dng files\)\. Expected"):
        load_data(root)


@pytest.mark.parametrize("ending", ["heic", "HEIF", "hif"])
def test_photos_of_telephones_are_images_whether_they_can_be_read_here_or_not(
    pictures: Pictures, caplog: pytest.LogCaptureFixture, ending: str
) -> None:
    root = pictures({"cat": 2, "dog": 2})
    (root / "cat" / f"phone.{ending}").write_bytes(b"x")  # `decode` names the package that it needs
    assert f"cat/phone.{ending}" in names(load_data(root))
    assert not caplog.records


@pytest.mark.parametrize(
    ("counts", "meant"),
    [
        ({"dataset/cat": 2, "dataset/dog": 2}, "dataset"),
        ({"a/b/cat": 2, "a/b/dog": 2}, "a/b"),
        ({"dataset/train/cat": 2, "dataset/train/dog": 2, "dataset/val/cat": 1}, "dataset"),
        ({"images/train/cat": 2, "images/train/dog": 2}, "images"),
        ({"images/train/cat": 2, "images/test/cat": 2, "other": 2}, "images"),
        ({"dataset/cat/old": 2, "dataset/dog/new": 2}, "dataset"),
        ({"dataset/cat": 2, "dataset/dog": 2, "__MACOSX/cat": 2}, "dataset"),
    ],
)
def test_a_folder_too_many_is_told_with_the_one_that_is_meant(
    pictures: Pictures, counts: dict[str, int], meant: str
) -> None:
    root = pictures(counts)
    with pytest.raises(RLRRError) as error:
        load_data(root)
    assert f"Did you mean {root / meant}?" in str(error.value)


def test_a_folder_too_many_in_a_split_is_told(pictures: Pictures) -> None:
    root = pictures({"train/dataset/cat": 2, "train/dataset/dog": 2, "val/cat": 2})
    with pytest.raises(RLRRError) as error:
        load_data(root)
    assert f"If the folders in {root / 'train/dataset'} are the classes, move them up" in str(error.value)


@pytest.mark.parametrize("fraction", [0.2, None])
def test_folders_with_splits_of_their_own_are_no_classes(pictures: Pictures, fraction: float | None) -> None:
    root = pictures({f"fold{fold}/{split}/cat": 2 for fold in (1, 2) for split in ("train", "test")})
    with pytest.raises(RLRRError, match=r"Did you mean .*fold1 or .*fold2\?"):
        load_data(root, val_fraction=fraction)


def test_a_class_may_hold_a_folder_called_train(pictures: Pictures) -> None:
    assert load_data(pictures({"rail/train/steam": 2, "rail/tram": 2, "road": 3})).classes == ("rail", "road")


TABLES = ["metadata.csv", "metadata.jsonl", "labels.CSV", "annotations.json", "train.tsv", "train.parquet", "x.xlsx"]


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize(
    ("images", "place"), [("", ""), ("images", ""), ("train", "train"), ("train", ""), ("train/images", "train")]
)
def test_a_table_that_may_hold_the_labels_is_seen(pictures: Pictures, images: str, place: str, table: str) -> None:
    root = pictures({images: 3})
    (root / place / table).write_text("file_name,label")
    with pytest.raises(RLRRError) as error:
        load_data(root)
    assert f"{table} may hold the labels, but tables of labels are not read yet" in str(error.value)


def test_a_folder_of_tables_is_no_class_without_images_only(pictures: Pictures) -> None:
    root = pictures({"images": 3, "annotations": 0})
    (root / "annotations" / "labels.csv").write_text("file,label")
    with pytest.raises(RLRRError, match=r"no images for class annotations.*labels\.csv may hold the labels"):
        load_data(root)


def test_a_table_beside_classes_is_told_to_be_left_out(pictures: Pictures, caplog: pytest.LogCaptureFixture) -> None:
    root = pictures({"part_1": 2, "part_2": 2})
    (root / "metadata.csv").write_text("file,label")
    assert load_data(root).classes == ("part_1", "part_2")
    assert "not read, as the folders' names are the labels: metadata.csv" in caplog.text


@pytest.mark.parametrize("ending", ["tar", "zip", "tar.gz", "tgz", "7z", "rar"])
@pytest.mark.parametrize("place", ["", "train", "red"])
def test_archives_are_to_be_unpacked(pictures: Pictures, place: str, ending: str) -> None:
    root = pictures({place: 0})
    (root / place / f"shard.{ending}").write_bytes(b"x")
    with pytest.raises(RLRRError, match=r"holds no images.*Unpack .* first"):
        load_data(root)
    with pytest.raises(RLRRError, match=r"is a file, not a folder of images\. Unpack it first"):
        load_data(root / place / f"shard.{ending}")


NFC, NFD = (unicodedata.normalize(form, "é") for form in ("NFC", "NFD"))


@pytest.mark.parametrize(("train", "val"), [(NFC, NFD), (NFD, NFC), (NFD, NFD)], ids=["NFC", "NFD", "both NFD"])
def test_a_name_in_two_unicode_forms_is_one_class(
    pictures: Pictures, caplog: pytest.LogCaptureFixture, train: str, val: str
) -> None:
    data = load_data(pictures({f"train/{train}": 2, "train/dog": 2, f"val/{val}": 1}))
    assert data.classes == ("dog", NFC)
    assert list(data.val.labels) == [1]
    assert decode(data.val.images[0]).size == (12, 10)
    assert not caplog.records


def test_two_folders_with_one_name_in_two_unicode_forms_are_one_class(pictures: Pictures) -> None:
    data = load_data(pictures({NFC: 2, NFD: 3, "dog": 2}), val_fraction=None)
    assert (data.classes, list(data.train.labels)) == (("dog", NFC), [0] * 2 + [1] * 5)


@pytest.mark.parametrize(("one", "other"), [("dog", "Dog"), ("red fox", "red_fox"), ("red-fox", "Red Fox")])
def test_classes_with_nearly_the_same_name_are_warned_of(
    pictures: Pictures, caplog: pytest.LogCaptureFixture, one: str, other: str
) -> None:
    assert len(load_data(pictures({"cat": 2, one: 2, other: 2})).classes) == 3
    assert f"nearly the same name: {', '.join(sorted((one, other)))}" in caplog.text


def test_an_empty_folder_of_another_class_beside_val_costs_nothing(pictures: Pictures) -> None:
    assert load_data(pictures({"train/cat": 2, "train/dog": 2, "val/cat": 1, "val/old": 0})).classes == ("cat", "dog")


def test_the_only_image_of_a_class_is_trained_on(pictures: Pictures) -> None:
    data = load_data(pictures({"cat": 5, "dog": 1}))
    assert (list(data.train.labels), list(data.val.labels)) == ([0] * 4 + [1], [0])


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
