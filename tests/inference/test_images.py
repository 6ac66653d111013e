"""What counts as an image, as many, and as none."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from rlrr.data.decode import decode
from rlrr.errors import RLRRError, UsageError
from rlrr.inference.images import given_images

PIXELS = np.arange(6 * 5 * 3, dtype=np.uint8).reshape(6, 5, 3)


@pytest.fixture
def folder(tmp_path) -> Path:
    """Images in two levels, beside other files."""
    for name in ("b.png", "a.JPG", "deep/er/c.webp", "deep/[1].png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(PIXELS).save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("words")
    (tmp_path / ".hidden.png").write_bytes(b"")
    return tmp_path


def shapes(images) -> list[tuple[int, ...]]:
    return [np.asarray(decode(image)).shape for image in given_images(images).images]


def in_file(kind: str = "PNG") -> io.BytesIO:
    Image.fromarray(PIXELS).save(file := io.BytesIO(), format=kind)
    return file  # which stands at its end


RGBA = np.dstack([PIXELS, np.full((6, 5), 255, np.uint8)])
SINGLE = {
    "array": PIXELS,
    "array of rgba": RGBA,
    "array of grey": PIXELS[..., 0],
    "array of grey with a channel": PIXELS[..., :1],
    "array that is a view": np.zeros((12, 10, 3), np.uint8)[::2, ::2],
    "memmap": PIXELS.view(np.memmap),
    "array with three rows": PIXELS[:3],
    "pil": Image.fromarray(PIXELS),
    "pil of rgba": Image.fromarray(RGBA),
    "bytes": in_file().getvalue(),
    "bytearray": bytearray(in_file().getvalue()),
    "memoryview": memoryview(in_file().getvalue()),
    "file": in_file("WEBP"),
}


@pytest.mark.parametrize("name", SINGLE)
def test_one_image_is_one_and_a_list_of_it_too(name):
    image = SINGLE[name]
    rows = 3 if "three rows" in name else 6
    assert shapes(image) == shapes([image]) == shapes((image,)) == [(rows, 5, 3)]
    assert shapes(one for one in [image, image]) == [(rows, 5, 3)] * 2


def test_a_path_is_one_in_all_its_forms(folder, monkeypatch):
    monkeypatch.setenv("HOME", str(folder))
    path = folder / "b.png"
    for form in (path, str(path), "~/b.png"):
        split = given_images(form)
        assert list(split.images) == [path]
        assert list(split.names) == [str(path)]
    with path.open("rb") as file:
        assert shapes(file) == [(6, 5, 3)]


def test_an_array_of_four_dimensions_is_many_images():
    assert shapes(np.stack([PIXELS, PIXELS])) == [(6, 5, 3)] * 2
    assert shapes(np.stack([RGBA])) == [(6, 5, 3)]
    assert shapes(np.zeros((0, 6, 5, 3), np.uint8)) == []


def test_paths_in_an_array_are_paths(folder):
    paths = [str(folder / "b.png"), str(folder / "a.JPG")]
    for dtype in (None, object):
        assert [str(image) for image in given_images(np.array(paths, dtype)).images] == paths


@pytest.mark.parametrize(
    "shape",
    [
        (3, 6, 5),
        (1, 6, 5),
        (6, 5, 2),
        (6, 5, 5),
        (6, 3),
        (6, 4),
        (6,),
        (),
        (0, 5, 3),
        (6, 0),
        (2, 3, 6, 5),
        (1, 2, 6, 5, 3),
    ],
    ids=str,
)
def test_arrays_of_other_shapes_are_refused_and_never_taken_for_rows(shape):
    with pytest.raises(UsageError, match=r"an array of uint8 of shape .* arrays \(H, W\), \(H, W, 3\) or \(H, W, 4\)"):
        given_images(np.zeros(shape, np.uint8))


@pytest.mark.parametrize("dtype", [np.float32, np.int64, bool, np.uint16], ids=str)
def test_arrays_of_other_types_are_refused(dtype):
    with pytest.raises(UsageError, match=f"an array of {np.dtype(dtype)} of shape"):
        given_images(PIXELS.astype(dtype))


def test_the_rows_of_an_image_are_no_images():
    with pytest.raises(UsageError, match=r"image 0: it is an array of uint8 of shape \(5, 3\)"):
        given_images(list(PIXELS))


@pytest.mark.parametrize(
    ("image", "named"),
    [
        (None, "it is NoneType"),
        (5, "it is int"),
        ({"path": "a.jpg"}, "it is dict"),
        (io.StringIO("words"), "it is str"),
        (torch.zeros(3, 6, 5), "it is a torch tensor"),
        (torch.zeros(2, 3, 6, 5, dtype=torch.uint8), "it is a torch tensor"),
        (object(), "it is object"),
    ],
    ids=lambda value: str(value)[:20],
)
@pytest.mark.parametrize("many", [False, True])
def test_what_is_no_image_is_refused_with_the_types_that_are_taken(image, named, many):
    with pytest.raises(UsageError, match=f"image {int(many)}: {named}.*paths, folders, patterns .* PIL images"):
        given_images([PIXELS, image] if many else image)


def test_an_empty_path_is_not_the_folder_one_is_in():
    with pytest.raises(UsageError, match="path of an image is empty"):
        given_images("")


def test_no_images_are_none():
    assert len(given_images([])) == 0


def test_a_folder_is_all_that_is_in_it_and_below(folder):
    found = [path.relative_to(folder).as_posix() for path in given_images(folder).images]
    assert found == ["a.JPG", "b.png", "deep/[1].png", "deep/er/c.webp"]
    assert list(given_images(f"{folder}/").names) == [str(folder / name) for name in found]


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("*.png", ["b.png"]),
        ("?.*", ["a.JPG", "b.png"]),
        ("*/*.png", ["deep/[1].png"]),
        ("**/*.webp", ["deep/er/c.webp"]),
        ("d*", ["deep/[1].png", "deep/er/c.webp"]),
        ("deep/[1].png", ["deep/[1].png"]),  # a name that looks like a pattern
        ("**", ["a.JPG", "b.png", "deep/[1].png", "deep/er/c.webp", "notes.txt"]),
    ],
)
def test_a_pattern_is_what_a_shell_makes_of_it(folder, pattern, found):
    paths = [path.relative_to(folder).as_posix() for path in given_images(str(folder / pattern)).images]
    assert sorted(paths) == sorted(found)


def test_positions_and_paths_are_the_names(folder):
    split = given_images([PIXELS, folder / "b.png", folder / "deep", PIXELS])
    assert list(split.names) == ["0", str(folder / "b.png"), *map(str, sorted((folder / "deep").rglob("*.*"))), "4"]


def test_nothing_found_is_a_sentence(tmp_path):
    with pytest.raises(RLRRError, match="holds no images"):
        given_images(tmp_path)
    (tmp_path / "notes.txt").write_text("words")
    with pytest.raises(RLRRError, match=r"holds no images \(only \.txt files\)"):
        given_images([str(tmp_path)])
    with pytest.raises(RLRRError, match=r"No file matches .*\*\.jpg"):
        given_images(f"{tmp_path}/*.jpg")
    (tmp_path / "deep").mkdir()
    with pytest.raises(RLRRError, match="matches folders without images"):
        given_images(f"{tmp_path}/d*")


def test_a_missing_file_is_left_to_be_named_where_it_is_read():
    assert list(given_images("none.png").images) == [Path("none.png")]
    assert list(given_images("x" * 5000).images) == [Path("x" * 5000)]
