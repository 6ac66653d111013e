from __future__ import annotations

import logging
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from rlrr.data import ImageData, decode, load_data
from rlrr.data.benchmarks.lists import class_names
from rlrr.data.benchmarks.vtab import TASKS, load_vtab
from rlrr.errors import RLRRError


@pytest.fixture(scope="module")
def all_tasks(make_vtab, tmp_path_factory) -> Path:
    """Read only."""
    return make_vtab(tmp_path_factory.mktemp("data") / "vtab-1k")


@pytest.fixture
def kitti(make_vtab, tmp_path) -> Path:
    return make_vtab(tmp_path, "kitti") / "kitti"


def edit(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new, 1))


def refusal(folder: Path) -> str:
    """What is said, without the folder and the advice."""
    with pytest.raises(RLRRError) as error:
        load_vtab(folder)
    message = str(error.value)
    assert message.startswith(f"{folder}/")
    assert message.endswith(f" `rlrr data check {folder}` lists all that is wrong.")
    return message.removeprefix(f"{folder}/").partition(". `rlrr")[0]


def test_the_table_is_that_of_the_benchmark():
    assert len(TASKS) == 19
    assert Counter(task.group for task in TASKS.values()) == {"natural": 7, "specialized": 4, "structured": 8}
    assert round(np.mean([task.classes for task in TASKS.values()]), 2) == 49.47  # of the papers' heads
    groups = [task.group for task in TASKS.values()]
    assert groups == sorted(groups)  # natural, specialized, structured
    assert all(name == task.name for name, task in TASKS.items())


@pytest.mark.parametrize("name", TASKS)
def test_there_are_as_many_class_names_as_classes_and_no_two_are_the_same(name):
    names = class_names(name)
    assert len(names) == len(set(names)) == TASKS[name].classes
    assert all(one and one == one.strip() for one in names)


@pytest.mark.parametrize(
    ("task", "label", "name"),
    [
        ("caltech101", 4, "background_google"),
        ("clevr_count", 0, "3 objects"),
        ("kitti", 3, "no vehicle"),
        ("smallnorb_azi", 17, "340°"),
        ("smallnorb_ele", 8, "70°"),
        ("sun397", 396, "youth_hostel"),
        ("oxford_flowers102", 72, "water lily"),
        ("dsprites_ori", 1, "angle 4-5 of 40"),  # 40 values in 16 classes: floor(value / 2.5)
    ],
)
def test_class_names_are_in_the_order_of_the_labels(task, label, name):
    assert class_names(task)[label] == name


@pytest.mark.parametrize("name", TASKS)
def test_every_task_loads(all_tasks, name):
    data = load_data(all_tasks / name)
    assert isinstance(data, ImageData)
    assert (data.name, data.classes) == (name, class_names(name))
    assert data.test is not None
    assert (len(data.train), len(data.val), len(data.test)) == (4, 2, TASKS[name].classes)
    assert set(data.test.labels) == set(range(TASKS[name].classes))
    assert data.train.names[1] == "images/train800/000001.jpg"
    assert decode(data.val.images[1]).size == (24, 24)
    assert data.split_origin == "train: from train800.txt; val: from val200.txt; test: from test.txt"


def test_labels_are_those_of_the_lists_also_where_train_misses_classes(all_tasks):
    data = load_vtab(all_tasks / "sun397")
    assert list(data.train.labels) == [0, 1, 2, 3]
    assert len(data.classes) == 397


def test_other_sizes_than_the_original_are_said_in_one_line(kitti, caplog):
    load_vtab(kitti)
    assert [record.getMessage() for record in caplog.records] == [
        f"{kitti}: train/val/test hold 4/2/4 images, 800/200/711 in the original: see `rlrr data check`"
    ]


def test_the_original_sizes_are_not_worth_a_word(make_vtab, tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        load_vtab(make_vtab(tmp_path, "kitti", train=800, val=200, test=711) / "kitti")
    assert not caplog.records


def test_no_image_is_opened(kitti):
    for file in kitti.rglob("*.jpg"):
        file.write_bytes(b"")
    assert len(load_vtab(kitti).train) == 4


def test_an_unknown_folder_has_as_many_classes_as_its_labels_ask_for(kitti):
    other = kitti.rename(kitti.parent / "my task")
    edit(other / "test.txt", "000002.jpg 2", "000002.jpg 6")
    data = load_vtab(other)
    assert (data.name, data.classes) == ("my task", ("0", "1", "2", "3", "4", "5", "6"))


def test_paths_may_hold_spaces(kitti):
    (kitti / "images/train800/000000.jpg").rename(kitti / "images/train800/a  b.jpg")
    edit(kitti / "train800.txt", "000000.jpg", "a  b.jpg")
    assert load_vtab(kitti).train.names[0] == "images/train800/a  b.jpg"


@pytest.mark.parametrize("name", ["train800.txt", "val200.txt", "test.txt"])
def test_a_missing_list_is_named_with_what_makes_it(kitti, name):
    (kitti / name).unlink()
    said = refusal(kitti)
    assert said == f"{name} is missing: take it from a full copy, or make it from another copy with `rlrr data convert`"


def test_the_list_of_train_and_val_together_is_not_needed(kitti):
    (kitti / "train800val200.txt").unlink()
    assert len(load_vtab(kitti).train) == 4


@pytest.mark.parametrize(
    ("file", "old", "new", "said"),
    [
        (
            "train800.txt",
            "000002.jpg 2",
            "000002.jpg 4",
            "train800.txt, line 3: label 4 is out of range: kitti has 4 classes, 0 to 3",
        ),
        (
            "val200.txt",
            "000001.jpg 1",
            "000001.jpg -1",
            "val200.txt, line 2: label -1 is out of range: kitti has 4 classes, 0 to 3",
        ),
        (
            "test.txt",
            "000001.jpg 1",
            "000001.jpg one",
            "test.txt, line 2: the label must be a whole number below a million, not 'one'",
        ),
        (
            "test.txt",
            "images/test/000001.jpg 1",
            "images/test/000001.jpg",
            "test.txt, line 2: 'images/test/000001.jpg' is not a path and a label",
        ),
        (
            "test.txt",
            "test/000001.jpg",
            "test/no.jpg",
            "test.txt, line 2: there is no file images/test/no.jpg",
        ),
        (
            "test.txt",
            "test/000001.jpg",
            "train800/000002.jpg",
            "test.txt, line 2: images/train800/000002.jpg is listed in train800.txt, line 3 too: "
            "it may be in one split only",
        ),
        (
            "val200.txt",
            "val200/000001.jpg",
            "test/000002.jpg",
            "test.txt, line 3: images/test/000002.jpg is listed in val200.txt, line 2 too: it may be in one split only",
        ),
    ],
)
def test_what_is_wrong_is_said_with_file_and_line(kitti, file, old, new, said):
    edit(kitti / file, old, new)
    assert refusal(kitti) == said


def test_missing_files_are_counted_and_the_first_is_named(kitti):
    for name in ("000001", "000002", "000003"):
        (kitti / f"images/train800/{name}.jpg").unlink()
    said = "train800.txt, line 2: there is no file images/train800/000001.jpg (and 2 more like it)"
    assert refusal(kitti) == said


def test_a_copy_of_caltech_without_the_background_is_told(make_vtab, tmp_path):
    folder = make_vtab(tmp_path, "caltech101") / "caltech101"
    edit(folder / "test.txt", "000101.jpg 101", "000101.jpg 100")
    assert refusal(folder) == (
        "train800.txt, val200.txt, test.txt hold 101 classes, without 101 (yin_yang), and caltech101 has 102 "
        "(some copies leave the background out, and number the classes anew: take one with it)"
    )


def test_lost_classes_are_named(kitti):
    edit(kitti / "test.txt", "000003.jpg 3", "000003.jpg 2")
    edit(kitti / "train800.txt", "000003.jpg 3", "000003.jpg 2")
    said = refusal(kitti)
    assert said == ("train800.txt, val200.txt, test.txt hold 3 classes, without 3 (no vehicle), and kitti has 4")
