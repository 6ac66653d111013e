from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rlrr.data import decode, load_data, prepare_split
from rlrr.errors import RLRRError

datasets = pytest.importorskip("datasets")


def saved(folder: Path, **splits: list[int | None]) -> str:
    """Write a DatasetDict whose image number i of label l is a flat grey of 10 * l + i."""
    features = datasets.Features(
        {
            "id": datasets.Value("int64"),
            "image": datasets.Image(),
            "label": datasets.ClassLabel(names=["cat", "dog"]),
        }
    )
    made = {
        name: datasets.Dataset.from_dict(
            {
                "id": list(range(len(labels))),
                "image": [
                    Image.fromarray(np.full((4, 4), 10 * max(label or 0, 0) + i, np.uint8))
                    for i, label in enumerate(labels)
                ],
                "label": labels,
            },
            features=features,
        )
        for name, labels in splits.items()
    }
    datasets.DatasetDict(made).save_to_disk(folder)
    return f"hub:{folder}"


@pytest.fixture(autouse=True)
def no_progress_bars() -> None:
    datasets.disable_progress_bars()


def test_a_saved_data_set_keeps_its_splits(tmp_path: Path) -> None:
    data = load_data(saved(tmp_path / "d", train=[0, 1, 1, 0], validation=[1, 0], test=[1]))
    assert data.test is not None
    assert data.classes == ("cat", "dog")
    assert (list(data.train.labels), list(data.val.labels), list(data.test.labels)) == (
        [0, 1, 1, 0],
        [1, 0],
        [1],
    )
    origin = "val: from the data set's own val split; test: from the data set's own test split"
    assert data.split_origin == origin
    assert [decode(image).getpixel((0, 0))[0] for image in data.train.images] == [0, 11, 12, 3]
    assert data.val.names == ["val/0", "val/1"]


def test_val_is_held_out_of_a_single_saved_split(tmp_path: Path) -> None:
    reference = saved(tmp_path / "d", train=[0, 1] * 5)
    datasets.load_from_disk(tmp_path / "d")["train"].save_to_disk(tmp_path / "single")
    both, single = load_data(reference), load_data(f"hub:{tmp_path / 'single'}")
    assert (len(single.train), len(single.val), single.test) == (8, 2, None)
    assert both.val.names == single.val.names
    for split in (single.train, single.val):
        for image, label, name in zip(split.images, split.labels, split.names, strict=True):
            assert decode(image).getpixel((0, 0))[0] == 10 * label + int(name.removeprefix("train/"))


def test_a_hub_data_set_goes_through_the_check(tmp_path: Path) -> None:
    data = load_data(saved(tmp_path / "d", train=[0, 1] * 5))
    split, cache, skipped = prepare_split(data.val, None)
    assert (len(split), cache, skipped) == (2, None, ())


def test_a_bad_image_of_a_data_set_is_named_and_not_raised_on_loading(tmp_path: Path) -> None:
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b"])})
    good = tmp_path / "good.png"
    Image.new("RGB", (4, 4)).save(good)
    images = [{"bytes": good.read_bytes(), "path": None}, {"bytes": b"text", "path": None}, None]
    images += [{"bytes": b"", "path": "a.png"}, str(good)]
    part = datasets.Dataset.from_dict({"image": images, "label": [0, 0, 1, 1, 1]}, features=features)
    datasets.DatasetDict({"train": part, "val": part}).save_to_disk(tmp_path / "d")
    with pytest.raises(
        RLRRError, match=r"(?s)3 of the 5 images.*/1: not an image\n.*/2: empty file\n.*/3: empty file\n"
    ):
        prepare_split(load_data(f"hub:{tmp_path / 'd'}").train, None)


def test_a_folder_that_datasets_can_load_is_loaded(
    tmp_path: Path, pictures: Callable[[dict[str, int]], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    root = pictures({"train/cat": 2, "train/dog": 2, "validation/cat": 1})
    data = load_data(f"hub:{root}")
    assert data.classes == ("cat", "dog")
    assert (sorted(data.train.labels), list(data.val.labels)) == ([0, 0, 1, 1], [0])
    assert decode(data.val.images[0]).size == (12, 10)


def test_a_test_split_without_labels_is_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = load_data(saved(tmp_path / "d", train=[0, 1] * 5, test=[-1, -1]))
    assert data.test is None
    assert "labels are missing" in caplog.text


def test_missing_labels_in_train_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RLRRError, match="labels are missing in train"):
        load_data(saved(tmp_path / "d", train=[0, 1, None]))


def test_a_data_set_without_train_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RLRRError, match="has no train split, only test"):
        load_data(saved(tmp_path / "d", test=[0, 1]))


def fine_and_coarse(folder: Path) -> str:
    names = {key: datasets.ClassLabel(names=[f"{key}0", f"{key}1"]) for key in ("fine", "coarse")}
    image = Image.new("L", (4, 4))
    columns = {"img": [image] * 4, "fine": [0, 0, 1, 1], "coarse": [1, 0, 1, 0]}
    part = datasets.Dataset.from_dict(columns, features=datasets.Features({"img": datasets.Image(), **names}))
    part.save_to_disk(folder)
    return f"hub:{folder}"


def test_one_of_many_label_columns_is_asked_for(tmp_path: Path) -> None:
    with pytest.raises(RLRRError, match=r"class labels in fine, coarse: choose one, as in hub:.*#fine"):
        load_data(fine_and_coarse(tmp_path / "d"))


def test_one_of_many_label_columns_can_be_chosen(tmp_path: Path) -> None:
    reference = fine_and_coarse(tmp_path / "d")
    assert load_data(f"{reference}#coarse").classes == ("coarse0", "coarse1")
    with pytest.raises(RLRRError, match=r"not 'coars'. Did you mean coarse\?"):
        load_data(f"{reference}#coars")


@pytest.mark.parametrize(("column", "message"), [("image", "no column of class labels"), ("label", "of images")])
def test_a_data_set_without_images_or_labels_is_refused(tmp_path: Path, column: str, message: str) -> None:
    saved(tmp_path / "d", train=[0, 1, 0, 1])
    datasets.load_from_disk(tmp_path / "d")["train"].select_columns(column).save_to_disk(tmp_path / "part")
    with pytest.raises(RLRRError, match=message):
        load_data(f"hub:{tmp_path / 'part'}")


@pytest.mark.parametrize("error", [ConnectionError("no route"), FileNotFoundError("not found"), ValueError("Config?")])
def test_a_data_set_that_cannot_be_had_says_how_to_go_on(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def fail(name: str) -> None:
        assert name == "owner/name"
        raise error

    monkeypatch.setattr(datasets, "load_dataset", fail)
    with pytest.raises(RLRRError, match=rf"'owner/name' \({str(error)[:6]}.*local folder of images, or set HF_HOME"):
        load_data("hub:owner/name")


def test_without_the_package_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(RLRRError, match=r"pip install 'rlrr\[hub\]'"):
        load_data("hub:owner/name")
