from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from rlrr.data import Split, prepare_split
from rlrr.errors import RLRRError


def prepare(image: Image.Image) -> torch.Tensor:
    return torch.tensor(np.asarray(image.resize((6, 5)))).permute(2, 0, 1)


@pytest.fixture
def split(tmp_path: Path, picture: Callable[..., Path]) -> Split:
    """Five images of two classes."""
    names = ["cat/0.png", "cat/1.png", "dog/0.png", "dog/1.png", "dog/2.png"]
    paths = [picture(tmp_path / name, size=(8 + i, 7)) for i, name in enumerate(names)]
    return Split(paths, [0, 0, 1, 1, 1], names)


def spoil(split: Split, *indices: int) -> None:
    for index in indices:
        split.images[index].write_bytes(b"no image at all")  # type: ignore[union-attr]


def test_good_images_are_prepared_in_order(split: Split) -> None:
    kept, cache, skipped = prepare_split(split, prepare)
    assert kept is split
    assert skipped == ()
    assert cache is not None
    assert (cache.dtype, cache.shape) == (torch.uint8, (5, 3, 5, 6))
    assert torch.equal(cache, torch.stack([prepare(Image.open(path)) for path in split.images]))
    assert len({image.numpy().tobytes() for image in cache}) == 5


def test_without_a_preparation_images_are_only_checked(split: Split) -> None:
    assert prepare_split(split, None) == (split, None, ())
    spoil(split, 1)
    with pytest.raises(RLRRError, match=r"cat/1\.png: not an image"):
        prepare_split(split, None)


@pytest.mark.parametrize(("limit", "cached"), [(5 * 90, True), (5 * 90 - 1, False)])
def test_the_cache_keeps_to_its_limit(split: Split, limit: int, cached: bool) -> None:
    assert (prepare_split(split, prepare, cache_limit=limit)[1] is not None) == cached


def test_images_too_many_for_the_cache_are_checked_all_the_same(split: Split) -> None:
    spoil(split, 3)
    with pytest.raises(RLRRError, match=r"dog/1\.png: not an image"):
        prepare_split(split, prepare, cache_limit=0)


def test_all_bad_images_are_named_at_once_with_the_reason(split: Split) -> None:
    spoil(split, 0)
    split.images[2].write_bytes(b"")  # type: ignore[union-attr]
    split.images[4].unlink()  # type: ignore[union-attr]
    with pytest.raises(RLRRError) as error:
        prepare_split(split, prepare, what="val")
    assert str(error.value) == (
        "3 of the 5 images of val cannot be read:\n  cat/0.png: not an image\n  dog/0.png: empty file\n"
        "  dog/2.png: no such file\nFix or remove them, or use `bad_images` skip."
    )


@pytest.mark.parametrize(("count", "tail"), [(20, ""), (21, "\n  and 1 more"), (300, "\n  and 280 more")])
def test_a_long_list_is_cut_at_twenty(count: int, tail: str) -> None:
    split = Split([b"bad"] * count, [0] * count, [f"{index}.png" for index in range(count)])
    with pytest.raises(RLRRError) as error:
        prepare_split(split, None)
    assert f"  19.png: not an image{tail}\nFix or" in str(error.value)
    assert "20.png" not in str(error.value)


def test_skipped_images_leave_the_others_in_line(split: Split, caplog: pytest.LogCaptureFixture) -> None:
    spoil(split, 0, 3)
    kept, cache, skipped = prepare_split(split, prepare, bad_images="skip")
    assert skipped == ("cat/0.png: not an image", "dog/1.png: not an image")
    assert list(kept.names) == ["cat/1.png", "dog/0.png", "dog/2.png"]
    assert list(kept.labels) == [0, 1, 1]
    assert cache is not None
    assert torch.equal(cache, torch.stack([prepare(Image.open(path)) for path in kept.images]))
    assert "skipped 2 of 5 images that cannot be read:\n  cat/0.png: not an image\n  dog/1.png" in caplog.text


def test_no_class_of_train_is_lost_by_skipping(split: Split) -> None:
    spoil(split, 0, 1)
    with pytest.raises(RLRRError, match=r"leaves 1 class of train without any, as of cat/0\.png"):
        prepare_split(split, prepare, bad_images="skip")
    assert len(prepare_split(split, prepare, bad_images="skip", what="val")[0]) == 3


@pytest.mark.parametrize("what", ["train", "test"])
def test_a_split_is_not_emptied_by_skipping(split: Split, what: str) -> None:
    spoil(split, *range(5))
    with pytest.raises(RLRRError, match=f"No image of {what} can be read"):
        prepare_split(split, prepare, bad_images="skip", what=what)


def test_a_fault_of_the_preparation_is_not_blamed_on_the_images(split: Split) -> None:
    def faulty(image: Image.Image) -> torch.Tensor:
        if image.size == (64, 64):
            return prepare(image)
        raise RuntimeError("a fault")

    with pytest.raises(RuntimeError, match="a fault"):
        prepare_split(split, faulty, bad_images="skip")
