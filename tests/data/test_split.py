from __future__ import annotations

from collections import Counter

import pytest

from rlrr.data import Split
from rlrr.data.split import assemble, enumerated, hold_out, split_meant
from rlrr.errors import RLRRError, UsageError


def split_of(*counts: int) -> Split:
    labels = [label for label, count in enumerate(counts) for _ in range(count)]
    return Split([b""] * len(labels), labels, [f"{index}" for index in range(len(labels))])


def test_each_class_gives_its_share() -> None:
    train, val = hold_out(split_of(50, 20, 10), 0.2, seed=0)
    assert Counter(val.labels) == {0: 10, 1: 4, 2: 2}
    assert Counter(train.labels) == {0: 40, 1: 16, 2: 8}


@pytest.mark.parametrize(("fraction", "in_val"), [(0.01, 1), (0.99, 2)])
def test_each_class_is_in_both_parts_whatever_the_fraction(fraction: float, in_val: int) -> None:
    train, val = hold_out(split_of(3, 3, 3), fraction, seed=0)
    assert Counter(val.labels) == dict.fromkeys(range(3), in_val)
    assert Counter(train.labels) == dict.fromkeys(range(3), 3 - in_val)


def test_the_parts_are_disjoint_whole_and_in_order() -> None:
    train, val = hold_out(split_of(30, 12), 0.25, seed=3)
    assert sorted([*train.names, *val.names], key=int) == [str(index) for index in range(42)]
    assert list(val.names) == sorted(val.names, key=int)


def test_the_seed_makes_the_split() -> None:
    split = split_of(30, 30)
    first, again, other = (hold_out(split, 0.2, seed)[1].names for seed in (0, 0, 1))
    assert first == again != other


def test_a_seed_names_the_same_split_for_ever() -> None:
    assert hold_out(split_of(6, 6), 0.34, seed=0)[1].names == ("2", "5", "7", "9")


@pytest.mark.parametrize("fraction", [0, 1, -0.2, 20])
def test_a_fraction_that_is_none_is_wrong_use(fraction: float) -> None:
    with pytest.raises(RLRRError, match="val_fraction must be between 0 and 1") as error:
        hold_out(split_of(3, 3), fraction, seed=0)
    assert isinstance(error.value, UsageError)


def test_the_only_image_of_a_class_stays_in_train() -> None:
    data = assemble("x", "abcd", {"train": split_of(2, 1, 3, 1)}, {}, val_fraction=0.2, seed=0)
    assert Counter(data.train.labels) == {0: 1, 1: 1, 2: 2, 3: 1}
    assert Counter(data.val.labels) == {0: 1, 2: 1}


def test_single_images_of_all_classes_leave_nothing_to_choose_by() -> None:
    with pytest.raises(RLRRError, match="x has a single image of each class"):
        assemble("x", "ab", {"train": split_of(1, 1)}, {}, val_fraction=0.2, seed=0)


@pytest.mark.parametrize(
    ("split", "names"),
    [
        ("train", ["train", "Training", "TRAIN", "train_set", "training-data", "trainset", "train images"]),
        ("val", ["val", "valid", "VALIDATION", "val_split", "validation set"]),
        ("test", ["test", "Testing", "test_set", "testdata"]),
        (None, ["trains", "trainer", "valley", "tester", "contest", "", "my train", "val2"]),
    ],
)
def test_the_usual_names_of_splits_are_known(split: str | None, names: list[str]) -> None:
    assert [split_meant(name) for name in names] == [split] * len(names)


def test_one_class_is_not_enough() -> None:
    with pytest.raises(RLRRError, match=r"one class only \('a'\)"):
        assemble("x", "ab", {"train": split_of(4)}, {}, val_fraction=0.2, seed=0)


def test_a_subset_follows_its_indices_and_leaves_the_images_where_they_are() -> None:
    split = Split([b"a", b"b", b"c", b"d"], [0, 0, 1, 1], ["A", "B", "C", "D"])
    part = split.subset([3, 1, 0]).subset([0, 2])
    assert (list(part.images), list(part.labels), list(part.names)) == ([b"d", b"a"], [1, 0], ["D", "A"])
    assert list(part.images[1:]) == [b"a"]
    assert len(part) == 2


def test_long_lists_of_names_are_cut() -> None:
    assert enumerated(["a", "b", "c"], most=2) == "a, b and 1 more"
    assert enumerated(["a", "b"], most=2) == "a, b"
