from __future__ import annotations

import logging

import pytest

from rlrr.data import Split
from rlrr.data.benchmarks.vtab import TASKS
from rlrr.data.benchmarks.vtab_rule import task_called, vtab_splits
from rlrr.errors import RLRRError


def part(name: str, count: int, labels: list[int] | None = None) -> Split:
    return Split([b""] * count, labels or [0] * count, [f"{name}/{i}" for i in range(count)])


def ends(split: Split) -> tuple[str, str, int]:
    return split.names[0], split.names[-1], len(split)


@pytest.mark.parametrize("task", TASKS)
def test_a_task_is_known_by_its_own_name(task: str) -> None:
    assert task_called(task) == task
    assert task_called(f"VTAB_{task}") == task


@pytest.mark.parametrize(
    ("name", "task"),
    [
        ("vtab-cifar(num_classes=100)", "cifar"),
        ("cifar100", "cifar"),
        ("cifar10", None),
        ('vtab-clevr(task="closest_object_distance")', "clevr_dist"),
        ("wds_vtab-clevr_count_all", "clevr_count"),
        ('vtab-dsprites(predicted_attribute="label_orientation",num_classes=16)', "dsprites_ori"),
        ("wds_vtab-dsprites_label_x_position", "dsprites_loc"),
        ('vtab-smallnorb(predicted_attribute="label_elevation")', "smallnorb_ele"),
        ("VTAB_smallnorb_label_azimuth", "smallnorb_azi"),
        ('vtab-kitti(task="closest_vehicle_distance")', "kitti"),
        ("VTAB_diabetic_retinopathy_detection", "diabetic_retinopathy"),
        ("VTAB_svhn_cropped", "svhn"),
        ("pcam", "patch_camelyon"),
        ("pets", "oxford_iiit_pet"),
        ("flowers", "oxford_flowers102"),
        ("vtab-1k", None),
        ("imagenet", None),
    ],
)
def test_a_task_is_known_by_its_names_elsewhere(name: str, task: str | None) -> None:
    assert task_called(name) == task


def test_a_ready_copy_is_left_as_it_is(caplog: pytest.LogCaptureFixture) -> None:
    parts = {"test": part("t", 3), "train800": part("a", 5), "val200": part("b", 2), "train": part("x", 9)}
    found = vtab_splits("dtd", parts, "here")
    assert found == {key: parts[key] for key in ("train800", "val200", "test")}
    assert not caplog.text


def test_where_there_is_nothing_to_choose_nothing_is_said(caplog: pytest.LogCaptureFixture) -> None:
    vtab_splits("kitti", {"train": part("train", 800), "val": part("val", 200), "test": part("test", 711)}, "here")
    assert not caplog.text


# First and last image of val200 and of test. The counts of the originals are those of TFDS.
RULES = [
    ("dtd", {"train": 1880, "val": 1880, "test": 1880}, "val/0", "val/199", "test/0", "test/1879"),
    ("cifar", {"train": 50000, "test": 10000}, "train/45000", "train/45199", "test/0", "test/9999"),
    ("caltech101", {"train": 3059, "test": 6084}, "train/2753", "train/2952", "test/0", "test/6083"),
    ("caltech101", {"train": 3059, "test": 6085}, "train/2753", "train/2952", "test/0", "test/6084"),
    ("svhn", {"train": 73257, "test": 26032}, "train/65931", "train/66130", "test/0", "test/26031"),
    ("oxford_iiit_pet", {"train": 3680, "test": 3669}, "train/2944", "train/3143", "test/0", "test/3668"),
    ("clevr_dist", {"train": 70000, "val": 15000}, "train/63000", "train/63199", "val/0", "val/14999"),
    ("clevr_count", {"train": 70000, "test": 15000}, "train/63000", "train/63199", "test/0", "test/14999"),
    ("eurosat", {"train": 27000}, "train/16200", "train/16399", "train/21600", "train/26999"),
    ("resisc45", {"train": 31500}, "train/18900", "train/19099", "train/25200", "train/31499"),
    ("dsprites_loc", {"train": 737280}, "train/589824", "train/590023", "train/663552", "train/737279"),
    ("smallnorb_azi", {"train": 24300, "test": 24300}, "test/0", "test/199", "test/12150", "test/24299"),
    ("smallnorb_azi", {"train": 24300, "val": 12150, "test": 12150}, "val/0", "val/199", "test/0", "test/12149"),
]


@pytest.mark.parametrize(("task", "counts", "val", "val_end", "test", "test_end"), RULES)
def test_the_official_images_are_taken_of_a_whole_data_set(
    task: str,
    counts: dict[str, int],
    val: str,
    val_end: str,
    test: str,
    test_end: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.WARNING):
        found = vtab_splits(task, {key: part(key, count) for key, count in counts.items()}, "here")
    assert ends(found["train800"]) == ("train/0", "train/799", 800)
    assert ends(found["val200"]) == (val, val_end, 200)
    assert ends(found["test"])[:2] == (test, test_end)
    assert "here: took the first 800 images of train" in caplog.text
    assert "order of TensorFlow Datasets" in caplog.text


@pytest.mark.parametrize(
    ("task", "counts", "message"),
    [
        ("dtd", {"train": 1880, "test": 1880}, "has train, test. VTAB-1k's splits of dtd need train, val and test:"),
        ("clevr_dist", {"train": 70000}, r"or train, whose last 10 % are val, and test \(the original's validation\)"),
        ("cifar", {"train": 50000}, "whose last 10 % are val, and test:"),
        ("eurosat", {"train": 27000, "test": 5400}, "or only train, which the rule divides:"),
        ("smallnorb_ele", {"train": 24300}, "or train and test, whose first half is val"),
        ("dtd", {"test": 1880, "val": 5}, "has test, val. "),
        ("dtd", {"train800": 800, "test": 1880}, "has train800, test. "),
        ("dtd", {"train800": 800, "val200": 200}, "has no test, only train800, val200"),
        ("kitti", {"train": 799, "val": 200, "test": 711}, "train has 799 images, and VTAB-1k takes its first 800"),
        ("kitti", {"train": 900, "val": 99, "test": 711}, "val has 99 images, and VTAB-1k takes its first 200"),
        ("kitti", {"train": 900, "val": 200, "test": 713}, "test has 713 images, and that of kitti in VTAB-1k 711"),
    ],
)
def test_what_would_not_be_the_official_splits_is_refused(task: str, counts: dict[str, int], message: str) -> None:
    with pytest.raises(RLRRError, match=f"^here.*{message}"):
        vtab_splits(task, {key: part(key, count) for key, count in counts.items()}, "here")


@pytest.mark.parametrize(("task", "values", "size"), [("dsprites_loc", 32, 2.0), ("dsprites_ori", 40, 2.5)])
def test_values_of_dsprites_are_grouped_into_classes(task: str, values: int, size: float) -> None:
    labels = list(range(values))
    found = vtab_splits(task, {key: part(key, values, labels) for key in ("train800", "val200", "test")}, "here")
    assert found["test"].labels == [int(label // size) for label in labels]
    assert sorted(set(found["test"].labels)) == list(range(16))
    grouped = {key: part(key, 16, list(range(16))) for key in ("train800", "val200", "test")}
    assert vtab_splits(task, grouped, "here")["test"].labels == list(range(16))


@pytest.mark.parametrize("label", [-1, 4])
def test_labels_that_are_not_the_tasks_are_refused(label: int) -> None:
    parts = {key: part(key, 2, [0, 1]) for key in ("train800", "val200")} | {"test": part("t", 1, [label])}
    with pytest.raises(RLRRError, match=f"here has labels from .*{label}.*, and kitti has 4 classes, 0 to 3"):
        vtab_splits("kitti", parts, "here")
