from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rlrr.data import Split, load_data
from rlrr.data.digest import data_digest
from rlrr.errors import RLRRError

PIXELS = np.arange(12, dtype=np.uint8).reshape(3, 4)
GREY = Image.fromarray(PIXELS)


def digest(image: object, name: str = "a", label: int = 0) -> str:
    return data_digest(Split([image], [label], [name]))


def test_a_copy_elsewhere_has_the_same_digest(pictures: Callable[[dict[str, int]], Path], tmp_path: Path) -> None:
    root = pictures({"train/cat": 20, "train/dog": 20})
    copy = shutil.copytree(root, tmp_path / "elsewhere")
    first, other = (load_data(folder).train for folder in (root, copy))
    assert data_digest(first) == data_digest(other)
    assert len(bytes.fromhex(data_digest(first))) == 32


def test_one_byte_of_one_file_matters(pictures: Callable[[dict[str, int]], Path]) -> None:
    root = pictures({"train/cat": 20, "train/dog": 20})
    split = load_data(root).train
    before = data_digest(split)
    path = split.images[7]
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    assert data_digest(split) != before


@pytest.mark.parametrize(
    ("images", "labels", "names"),
    [([b"x", b"y"], [0, 1], "ba"), ([b"x", b"y"], [1, 0], "ab"), ([b"y", b"x"], [0, 1], "ab"), ([b"x"], [0], "a")],
    ids=["names", "labels", "content", "number"],
)
def test_names_labels_content_and_number_matter(images: list[bytes], labels: list[int], names: str) -> None:
    assert data_digest(Split([b"x", b"y"], [0, 1], "ab")) != data_digest(Split(images, labels, names))


def test_the_order_of_images_and_of_splits_matters() -> None:
    one, other = Split([b"x"], [0], ["a"]), Split([b"y"], [1], ["b"])
    both = Split([b"x", b"y"], [0, 1], ["a", "b"])
    found = [data_digest(one, other), data_digest(other, one), data_digest(both), data_digest(both.subset([1, 0]))]
    assert len(set(found)) == 4


def test_a_file_and_its_bytes_are_the_same(picture: Callable[[Path], Path], tmp_path: Path) -> None:
    path = picture(tmp_path / "a.png")
    assert digest(path) == digest(path.read_bytes())


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (PIXELS, PIXELS.T.copy().reshape(3, 4)),
        (PIXELS, PIXELS.reshape(4, 3)),
        (PIXELS, PIXELS.view(np.int8)),
        (GREY, GREY.rotate(180)),
        (GREY, Image.frombytes("L", (3, 4), GREY.tobytes())),
        (GREY, Image.frombytes("P", GREY.size, GREY.tobytes())),
    ],
    ids=["values", "shape", "type", "pixels", "size", "mode"],
)
def test_what_an_array_or_image_is_matters(one: object, other: object) -> None:
    assert digest(one) != digest(other)
    assert digest(one) == digest(one)


def test_a_palette_matters() -> None:
    one, other = (GREY.convert("P") for _ in range(2))
    other.putpalette(bytes(reversed(range(256))) * 3)
    assert one.tobytes() == other.tobytes()
    assert digest(one) != digest(other)


def test_labels_may_be_of_numpy() -> None:
    assert digest(b"x", label=np.int64(3)) == digest(b"x", label=3)


def test_it_stays_the_same_from_version_to_version() -> None:
    """Runs record it, so that it must not change."""
    assert digest(b"x") == "848dc588f54ac0f33b0e8c0ce0b0c8541dedf3a34db0249765371665d2357d15"


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(RLRRError, match=r"Cannot read .*gone\.png: No such file.* Restore or remove it"):
        digest(tmp_path / "gone.png")
