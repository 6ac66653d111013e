"""What training says of its images, and keeps in its record: duplicates, classes that are missing, narrow ranges."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rlrr.adapters.record import RECORD
from rlrr.data import load_data
from rlrr.errors import RLRRError
from rlrr.recipes.recipe import Recipe
from rlrr.training.images import TrainingImages, training_images
from rlrr.training.run import train

CONFIG = {
    "input_size": (3, 32, 32),
    "interpolation": "bicubic",
    "mean": (0.5, 0.5, 0.5),
    "std": (0.5, 0.5, 0.5),
    "crop_pct": 0.9,
    "crop_mode": "center",
}
Made = Callable[..., TrainingImages]


@pytest.fixture
def folder(make_images: Callable[..., None], tmp_path: Path) -> Path:
    """Three classes in train (4 each), val (2 each) and test (2 each), all images different."""
    for seed, (split, number) in enumerate({"train": 4, "val": 2, "test": 2}.items()):
        make_images(tmp_path / "images" / split, number, seed)
    return tmp_path / "images"


@pytest.fixture
def made(folder: Path) -> Made:
    def make(**options: object) -> TrainingImages:
        recipe = Recipe(data=str(folder), batch_size=4, **options)  # type: ignore[arg-type]
        return training_images(recipe, load_data(folder), CONFIG)

    return make


def copy(folder: Path, one: str, other: str) -> None:
    shutil.copy(folder / one, folder / other)


def test_different_images_of_all_classes_are_worth_no_word(made: Made, caplog: pytest.LogCaptureFixture) -> None:
    images = made()
    assert (images.duplicates.found, images.missing_classes) == ([], {})
    assert not caplog.records


def test_duplicates_in_train_and_val_are_said_before_training(
    folder: Path, made: Made, caplog: pytest.LogCaptureFixture
) -> None:
    copy(folder, "train/red/0.png", "val/red/0.png")
    copy(folder, "train/red/1.png", "train/blue/1.png")
    found = {each["kind"]: each for each in made().duplicates.found}
    assert found["between"]["example"] == ["train/red/0.png", "val/red/0.png"]
    assert found["labels"]["splits"] == found["within"]["splits"] == ["train"]
    assert "1 of 6 images of val is also in train" in caplog.text
    assert "is under two labels" in caplog.text


def test_val_that_is_trained_on_is_no_other_split(folder: Path, made: Made) -> None:
    copy(folder, "train/red/0.png", "val/red/0.png")
    assert [each["splits"] for each in made(train_on="trainval", select="last").duplicates.found] == [["train"]]


def test_test_images_are_compared_where_they_are_read_anyway(folder: Path, made: Made) -> None:
    copy(folder, "train/red/0.png", "test/red/0.png")
    assert made().duplicates.found == []
    (found,) = made(protocol="paper", train_on="trainval").duplicates.found
    assert found["splits"] == ["train", "test"]


@pytest.mark.parametrize("split", ["val", "test"])
def test_a_class_without_images_is_warned_of(
    folder: Path, made: Made, caplog: pytest.LogCaptureFixture, split: str
) -> None:
    shutil.rmtree(folder / split / "blue")
    assert made().missing_classes == {split: ["blue"]}
    assert f"{split} has no image of blue: its accuracy says nothing of this class" in caplog.text


def test_a_test_that_is_not_held_may_miss_classes(folder: Path, made: Made) -> None:
    shutil.rmtree(folder / "test" / "blue")
    assert made(test=False).missing_classes == {}


@pytest.mark.slow
def test_a_run_says_and_keeps_all_of_it(
    folder: Path, tiny_backbone: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    copy(folder, "train/red/0.png", "test/red/0.png")
    copy(folder, "train/red/1.png", "test/blue/1.png")
    shutil.rmtree(folder / "val" / "green")
    train(Recipe(data=str(folder), model=tiny_backbone, epochs=1, batch_size=4), tmp_path / "run")
    data = json.loads((tmp_path / "run" / RECORD).read_text())["data"]
    assert data["missing_classes"] == {"val": ["green"]}
    found = {each["kind"]: each for each in data["duplicates"]}
    assert (found["between"]["splits"], found["between"]["images"]) == (["train", "test"], 2)
    assert found["labels"] == {
        "kind": "labels",
        "splits": ["train", "test"],
        "images": 1,
        "example": ["train/red/1.png", "test/blue/1.png"],
    }
    assert "2 of 6 images of test are also in train" in caplog.text


def test_images_of_less_than_a_tenth_of_16_bits_are_warned_of_every_time(
    folder: Path, made: Made, caplog: pytest.LogCaptureFixture
) -> None:
    for number in (1, 2):
        pixels = np.full((40, 36), 2000 * number, np.uint16)
        Image.fromarray(pixels).save(folder / "train" / "red" / f"{number}.png")
    for _ in range(2):  # the second time images may come from the cache
        caplog.clear()
        made()
        assert "train: nearly black" in caplog.text
        assert "2 images, of which the largest value is 4000 of 65535, in train/red/2.png" in caplog.text


def test_heic_that_cannot_be_read_here_stops_the_training_with_the_package_it_needs(folder: Path, made: Made) -> None:
    if "HEIF" in Image.ID:
        pytest.skip("pillow-heif is installed")
    (folder / "train/red/phone.heic").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(64))
    with pytest.raises(RLRRError, match=r"red/phone\.heic: HEIC, which needs the package pillow-heif: pip install"):
        made()
    assert len(made(bad_images="skip").train) == 12
