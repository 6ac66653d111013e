"""What is said of images that are not those that a run was started with."""

from __future__ import annotations

import json

import numpy as np
import pytest

from rlrr.data import ImageData, Split, load_data
from rlrr.data.digest import data_digest
from rlrr.errors import RLRRError
from rlrr.recipes.recipe import Recipe
from rlrr.training.output import IMAGES
from rlrr.training.same_images import (
    differences,
    expect_same_images,
    list_images,
    listing_digest,
    write_images,
)

BEFORE = {"train": [["r/0", "r", "a"], ["r/1", "r", "b"], ["g/0", "g", "c"]], "val": [["g/1", "g", "d"]]}


def changed(**splits) -> dict:
    return BEFORE | splits


@pytest.mark.parametrize(
    ("now", "said"),
    [
        (BEFORE, []),
        (changed(train=BEFORE["train"][1:]), ["1 gone: r/0"]),
        (changed(train=[]), ["3 gone: g/0, r/0, r/1"]),
        (changed(train=[*BEFORE["train"], ["r/2", "r", "e"]]), ["1 new: r/2"]),
        (changed(train=[["r/0", "r", "z"], *BEFORE["train"][1:]]), ["1 edited: r/0"]),
        (changed(train=[["r/0", "g", "a"], *BEFORE["train"][1:]]), ["1 of another class: r/0, r and now g"]),
        (changed(train=[["g/2", "g", "a"], *BEFORE["train"][1:]]), ["1 moved or renamed: r/0 is now g/2"]),
        (
            {"train": BEFORE["train"][:2], "val": [*BEFORE["val"], BEFORE["train"][2]]},
            ["1 in another split: g/0"],
        ),
        (changed(train=BEFORE["train"][::-1]), ["their order is another"]),
        (changed(train=[["r/0", "r", "z"], ["r/2", "r", "e"]]), ["2 gone: g/0, r/1", "1 new: r/2", "1 edited: r/0"]),
    ],
)
def test_each_change_is_named(now, said):
    assert differences(BEFORE, now) == said


def test_a_listing_goes_through_its_file_and_has_the_digest_of_the_data(images, tmp_path):
    recipe, data = Recipe(str(images)), load_data(images)
    listing = list_images(data, recipe)
    assert list(listing) == ["train", "val"]
    assert listing["train"][0][:2] == ["train/blue/0.png", "blue"]
    assert listing_digest(data, listing) == data_digest(data.train, data.val)
    write_images(tmp_path, listing)
    expect_same_images(tmp_path, listing)
    assert list(list_images(data, Recipe(str(images), protocol="paper"))) == ["train", "val", "test"]


@pytest.mark.parametrize("content", ["[]", "{", "3", '{"train": [1]}', '{"train": [["a"]]}', '{"train": {"a": "b"}}'])
def test_a_damaged_list_is_named(tmp_path, content):
    (tmp_path / IMAGES).write_text(content)
    with pytest.raises(RLRRError, match=f"{IMAGES} is damaged"):
        expect_same_images(tmp_path, BEFORE)


def test_images_of_one_name_are_told_apart(tmp_path):
    split = Split([np.zeros((2, 2)), np.ones((2, 2))], [0, 1], ["x", "x"])
    data = ImageData("d", ("a", "b"), split, Split((), (), ()), None, "")
    listing = list_images(data, Recipe("d"))
    assert differences(listing, json.loads(json.dumps(listing))) == []
    other = {"train": [listing["train"][0], ["x", "b", "other"]], "val": []}
    assert differences(listing, other)
