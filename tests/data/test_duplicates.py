from __future__ import annotations

from pathlib import Path

import pytest

from rlrr.data import Split
from rlrr.data.duplicates import Duplicates


def split_of(*images: tuple[str, int, bytes]) -> Split:
    """Each image is a name, a label and a content."""
    names, labels, contents = zip(*images, strict=True)
    return Split(contents, labels, names)


def found(**splits: Split) -> list[tuple[str, list[str], int, list[str]]]:
    duplicates = Duplicates()
    for name, split in splits.items():
        duplicates.add(name, split)
    return [(each["kind"], each["splits"], each["images"], each["example"]) for each in duplicates.found]


TRAIN = split_of(("a", 0, b"1"), ("b", 0, b"2"), ("c", 1, b"3"))


def test_nothing_is_found_and_nothing_said_where_all_differ(caplog: pytest.LogCaptureFixture) -> None:
    assert found(train=TRAIN, val=split_of(("d", 0, b"4"))) == []
    assert not caplog.records


def test_copies_within_a_split_are_counted_without_the_first(caplog: pytest.LogCaptureFixture) -> None:
    split = split_of(("a", 0, b"1"), ("b", 0, b"1"), ("c", 0, b"1"), ("d", 0, b"2"))
    assert found(val=split) == [("within", ["val"], 2, ["a", "b"])]
    assert "2 of 4 images of val are twice in val: b is the same image as a" in caplog.text


def test_images_of_an_earlier_split_are_counted_in_the_later(caplog: pytest.LogCaptureFixture) -> None:
    val, test = split_of(("v", 0, b"2")), split_of(("t", 0, b"2"), ("u", 1, b"3"), ("w", 1, b"9"))
    assert found(train=TRAIN, val=val, test=test) == [
        ("between", ["train", "val"], 1, ["b", "v"]),
        ("between", ["train", "test"], 2, ["b", "t"]),
        ("between", ["val", "test"], 1, ["v", "t"]),
    ]
    assert "1 of 1 image of val is also in train: v is the same image as b" in caplog.text
    assert "2 of 3 images of test are also in train" in caplog.text


def test_one_image_under_two_labels_is_found_within_and_between_splits(caplog: pytest.LogCaptureFixture) -> None:
    one = split_of(("a", 0, b"1"), ("b", 1, b"1"), ("c", 1, b"2"))
    other = split_of(("d", 0, b"2"))
    assert found(train=one, test=other) == [
        ("within", ["train"], 1, ["a", "b"]),
        ("labels", ["train"], 1, ["a", "b"]),
        ("between", ["train", "test"], 1, ["c", "d"]),
        ("labels", ["train", "test"], 1, ["c", "d"]),
    ]
    assert "is under two labels: b is the same image as a" in caplog.text
    assert "is under another label in train: d is the same image as c" in caplog.text


def test_files_that_cannot_be_read_are_no_copies_of_each_other(tmp_path: Path) -> None:
    gone = [tmp_path / "gone.png", tmp_path / "gone too.png"]
    assert found(train=Split(gone, [0, 1], ["a", "b"])) == []


def test_many_copies_of_one_image_take_no_longer_than_others() -> None:
    number = 20_000  # of which each would be compared with all before
    split = Split([b"1"] * number, [index % 3 for index in range(number)], [str(index) for index in range(number)])
    assert found(train=split)[0] == ("within", ["train"], number - 1, ["0", "1"])
