"""Decoded images on the disk: found again if and only if they are the same, and never a reason to stop."""

from __future__ import annotations

import json
import logging
import os
import pickle
import resource
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from rlrr.data import PreparedImages, Split, cache, check, prepare_split
from rlrr.data.cache import MappedImages
from rlrr.data.pipeline import preparation, uncropped
from rlrr.errors import RLRRError, UsageError

CONFIG: dict[str, Any] = {
    "input_size": (3, 32, 48),
    "interpolation": "bicubic",
    "mean": (0.5, 0.5, 0.5),
    "std": (0.5, 0.5, 0.5),
    "crop_pct": 0.9,
    "crop_mode": "center",
}
PREPARE = preparation(CONFIG)
SIZE = 6 * 3 * 32 * 48  # bytes of the six images of `split`


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache."""
    monkeypatch.setenv("RLRR_CACHE", str(tmp_path / "cache"))
    cache._warn.cache_clear()
    return tmp_path / "cache" / "images"


@pytest.fixture
def split(tmp_path: Path, picture: Callable[..., Path]) -> Split:
    """Six images of three classes."""
    names = [f"{name}/{index}.png" for name in ("a", "b", "c") for index in range(2)]
    return Split([picture(tmp_path / name, size=(60, 50)) for name in names], [0, 0, 1, 1, 2, 2], names)


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the images that are decoded from now on."""
    names: list[str] = []
    decode = check.decode
    monkeypatch.setattr(check, "decode", lambda image, name: names.append(name) or decode(image, name))
    return names


def wanted(split: Split) -> torch.Tensor:
    return torch.stack([PREPARE(check.decode(image, "")) for image in split.images])


def is_the_same(found: Any, split: Split) -> bool:
    return torch.equal(found[:], wanted(split))


def test_the_second_time_nothing_is_decoded(folder: Path, split: Split, decoded: list[str]) -> None:
    first = prepare_split(split, PREPARE)[1]
    assert sorted(decoded) == sorted(split.names)
    decoded.clear()
    again, second, skipped = prepare_split(split, preparation(dict(CONFIG)), what="another name")
    assert (again, skipped, decoded) == (split, (), [])
    assert isinstance(first, MappedImages)
    assert isinstance(second, MappedImages)
    assert (first.shape, len(second), second[0].dtype) == ((6, 3, 32, 48), 6, torch.uint8)
    assert is_the_same(first, split)
    assert is_the_same(second, split)
    assert len(list(folder.iterdir())) == 1


def test_too_many_images_for_the_memory_are_kept_on_the_disk(folder: Path, split: Split) -> None:
    assert is_the_same(prepare_split(split, PREPARE, cache_limit=0)[1], split)


def test_labels_names_and_places_of_files_have_no_part_in_it(
    folder: Path, split: Split, tmp_path: Path, decoded: list[str]
) -> None:
    prepare_split(split, PREPARE)
    copies = [Path(shutil.copy(path, tmp_path / f"copy {i}")) for i, path in enumerate(split.images)]  # type: ignore[arg-type]
    decoded.clear()
    assert isinstance(prepare_split(Split(copies, [2, 2, 1, 1, 0, 0], "abcdef"), PREPARE)[1], MappedImages)
    assert not decoded


def content(split: Split) -> Split:
    Image.new("RGB", (60, 50), "red").save(split.images[2])  # type: ignore[arg-type]
    return split


@pytest.mark.parametrize(
    "change",
    [content, lambda split: split.subset([1, 0, 2, 3, 4, 5]), lambda split: split.subset(range(5))],
    ids=["content", "order", "number"],
)
def test_other_images_are_another_file(folder: Path, split: Split, change: Callable[[Split], Split]) -> None:
    prepare_split(split, PREPARE)
    changed = change(split)
    assert is_the_same(prepare_split(changed, PREPARE)[1], changed)
    assert len(list(folder.iterdir())) == 2


@pytest.mark.parametrize(
    "other",
    [
        preparation(CONFIG | {"input_size": (3, 48, 32)}),  # as many bytes
        preparation(CONFIG | {"interpolation": "bilinear"}),
        preparation(CONFIG | {"crop_pct": 0.8}),
        preparation(CONFIG | {"crop_mode": "squash"}),
        preparation(CONFIG | {"crop_mode": "border"}),
        preparation(CONFIG | {"crop_mode": "border", "mean": (0.1, 0.2, 0.3)}),  # which is the colour of the border
        uncropped(CONFIG),
    ],
)
def test_another_preparation_is_another_file(folder: Path, split: Split, other: Any) -> None:
    prepare_split(split, PREPARE)
    prepare_split(split, preparation(CONFIG | {"crop_mode": "border"}) if "border" in other.description else PREPARE)
    found = prepare_split(split, other)[1]
    assert torch.equal(found[:], torch.stack([other(Image.open(path)) for path in split.images]))  # type: ignore[index,arg-type]


@pytest.mark.parametrize("library", ["PIL", "timm", "torchvision"])
def test_another_version_of_a_library_is_another_file(
    folder: Path, split: Split, library: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = cache.cache_path(split, "x")
    monkeypatch.setattr(f"{library}.__version__", "99")
    cache._libraries.cache_clear()
    try:
        assert cache.cache_path(split, "x") != before
    finally:
        cache._libraries.cache_clear()


def test_a_preparation_read_from_json_is_the_same() -> None:
    assert preparation(json.loads(json.dumps(CONFIG))).description == PREPARE.description


@pytest.mark.parametrize(
    "image",
    [Image.new("RGB", (60, 50)), Path("missing.png"), Path("/dev/zero"), Path("/")],
    ids=["in memory", "missing", "a device", "a folder"],
)
def test_images_without_bytes_of_their_own_have_no_place(folder: Path, image: Any) -> None:
    assert cache.cache_path(Split([image], [0], ["x"]), "x") is None


def test_any_function_is_kept_in_memory_only(folder: Path, split: Split) -> None:
    found = prepare_split(split, lambda image: PREPARE(image))[1]
    assert isinstance(found, torch.Tensor)
    assert is_the_same(found, split)
    assert not folder.exists()


@pytest.mark.parametrize("length", [0, SIZE - 1, SIZE + 1])
def test_a_file_of_the_wrong_size_is_made_again(folder: Path, split: Split, length: int, decoded: list[str]) -> None:
    prepare_split(split, PREPARE)
    (file,) = folder.iterdir()
    os.truncate(file, length)
    decoded.clear()
    found = prepare_split(split, PREPARE)[1]
    assert sorted(decoded) == sorted(split.names)
    assert is_the_same(found, split)
    assert [path.stat().st_size for path in folder.iterdir()] == [SIZE]


def test_bad_images_are_named_each_time_and_nothing_is_kept(folder: Path, split: Split) -> None:
    split.images[1].write_bytes(b"no image at all")  # type: ignore[union-attr]
    split.images[4].unlink()  # type: ignore[union-attr]
    message = (
        "2 of the 6 images of train cannot be read:\n  a/1.png: not an image\n  c/0.png: no such file\n"
        "Fix or remove them, or use `bad_images` skip."
    )
    for _ in range(2):
        with pytest.raises(RLRRError) as error:
            prepare_split(split, PREPARE)
        assert str(error.value) == message
        kept, found, skipped = prepare_split(split, PREPARE, bad_images="skip")
        assert skipped == ("a/1.png: not an image", "c/0.png: no such file")
        assert is_the_same(found, kept)
    assert not folder.exists() or not list(folder.iterdir())


def test_a_split_mended_is_kept(folder: Path, split: Split, picture: Callable[..., Path]) -> None:
    split.images[1].write_bytes(b"no image at all")  # type: ignore[union-attr]
    with pytest.raises(RLRRError):
        prepare_split(split, PREPARE)
    picture(split.images[1])
    assert isinstance(prepare_split(split, PREPARE)[1], MappedImages)


def test_a_run_stopped_halfway_leaves_nothing(folder: Path, split: Split, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:

        def stop(*args: Any) -> None:
            raise KeyboardInterrupt

        patch.setattr(cache.Recorder, "keep", stop)
        with pytest.raises(KeyboardInterrupt):
            prepare_split(split, PREPARE)
    assert not list(folder.iterdir())


def test_two_runs_at_once_both_have_their_images(
    folder: Path, split: Split, monkeypatch: pytest.MonkeyPatch, decoded: list[str]
) -> None:
    other = []
    keep = cache.Recorder.keep

    def late(self: Any) -> Any:  # the other begins and ends between the last image of the one and its end
        monkeypatch.setattr(cache.Recorder, "keep", keep)
        other.append(prepare_split(split, PREPARE)[1])
        return keep(self)

    monkeypatch.setattr(cache.Recorder, "keep", late)
    one = prepare_split(split, PREPARE)[1]
    assert len(decoded) == 12
    assert isinstance(one, MappedImages)
    assert isinstance(other[0], MappedImages)
    assert is_the_same(one, split)
    assert is_the_same(other[0], split)
    assert len(list(folder.iterdir())) == 1


def test_images_that_change_while_they_are_read_are_not_kept(
    folder: Path, split: Split, monkeypatch: pytest.MonkeyPatch
) -> None:
    decode = check.decode
    monkeypatch.setattr(check, "decode", lambda image, name: content(split) and decode(image, name))
    assert isinstance(prepare_split(split, PREPARE)[1], torch.Tensor)
    assert not list(folder.iterdir())


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """As on a disk that is full, writing beyond this size fails."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("written", [SIZE // 3, SIZE - 1], ids=["while reading", "at the end"])
@pytest.mark.parametrize("in_memory", [True, False])
def test_a_disk_that_gets_full_costs_one_warning(
    folder: Path, split: Split, written: int, in_memory: bool, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(2):
        with largest_file(written):
            found = prepare_split(split, PREPARE, cache_limit=SIZE * in_memory)[1]
        if in_memory:
            assert is_the_same(found, split)
        else:
            assert found is None
    assert not list(folder.iterdir())
    assert [(record.levelno, record.name) for record in caplog.records] == [(logging.WARNING, "rlrr.data.cache")]


def a_file(folder: Path, patch: pytest.MonkeyPatch) -> str:
    folder.parent.write_text("")
    return "Not a directory"


def little_space(folder: Path, patch: pytest.MonkeyPatch) -> str:
    patch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10 * SIZE, 8 * SIZE, 2 * SIZE - 1))  # type: ignore[attr-defined]
    return "No space left on device"


def low_limit(folder: Path, patch: pytest.MonkeyPatch) -> str:
    patch.setenv("RLRR_CACHE_GIB", str((SIZE - 1) / 2**30))
    return "GiB are needed, of"


def no_home(folder: Path, patch: pytest.MonkeyPatch) -> str:
    for name in ("RLRR_CACHE", "XDG_CACHE_HOME"):
        patch.delenv(name, raising=False)
    patch.setattr(os.path, "expanduser", lambda path: path)
    return "home"


@pytest.mark.parametrize("trouble", [a_file, little_space, low_limit, no_home])
def test_a_place_that_does_not_serve_costs_one_warning_that_names_it(
    folder: Path, split: Split, trouble: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    reason = trouble(folder, monkeypatch)
    assert is_the_same(prepare_split(split, PREPARE)[1], split)
    assert prepare_split(split, PREPARE, cache_limit=0)[1] is None
    (record,) = caplog.records
    assert reason in record.getMessage()
    assert "RLRR_CACHE names another folder" in record.getMessage()


def test_a_place_that_can_only_be_read_serves(folder: Path, split: Split, monkeypatch: pytest.MonkeyPatch) -> None:
    prepare_split(split, PREPARE)

    def refuse(*args: Any) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "utime", refuse)
    assert isinstance(prepare_split(split, PREPARE)[1], MappedImages)


def test_nothing_is_kept_where_the_limit_is_0(
    folder: Path, split: Split, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("RLRR_CACHE_GIB", "0")
    assert isinstance(prepare_split(split, PREPARE)[1], torch.Tensor)
    assert not folder.exists()
    assert not caplog.records


@pytest.mark.parametrize("limit", ["much", "-1", "nan"])
def test_a_limit_that_is_no_size_is_refused(folder: Path, split: Split, limit: str, monkeypatch: Any) -> None:
    monkeypatch.setenv("RLRR_CACHE_GIB", limit)
    with pytest.raises(RLRRError, match=f"RLRR_CACHE_GIB must be a number of GiB.*{limit}") as error:
        prepare_split(split, PREPARE)
    assert isinstance(error.value, UsageError)


def test_the_file_used_longest_ago_makes_room(folder: Path, split: Split, monkeypatch: pytest.MonkeyPatch) -> None:
    def use(name: int) -> Path:
        """Prepare one of several splits; gives its file."""
        chosen = split.subset([name, *range(6)])
        prepare_split(chosen, PREPARE)
        path = cache.cache_path(chosen, PREPARE.description)
        assert path is not None
        return path

    monkeypatch.setenv("RLRR_CACHE_GIB", str(3.5 * SIZE * 7 / 6 / 2**30))
    first, second, third = (use(name) for name in range(3))
    for age, path in enumerate((third, second, first)):
        os.utime(path, (1000 - age, 1000 - age))
    use(0)
    foreign = folder / "photo.png"
    foreign.write_bytes(bytes(SIZE))
    os.utime(foreign, (1, 1))
    fourth = use(3)
    assert set(folder.iterdir()) == {first, third, fourth, foreign}


def test_what_a_killed_run_left_makes_room_too(folder: Path, split: Split, monkeypatch: pytest.MonkeyPatch) -> None:
    path = cache.cache_path(split, PREPARE.description)
    assert path is not None
    recorder = cache.Recorder(path, (6, 3, 32, 48)).__enter__()
    recorder.put(5, torch.zeros(3, 32, 48, dtype=torch.uint8))
    (left,) = folder.iterdir()
    monkeypatch.setenv("RLRR_CACHE_GIB", str(1.5 * SIZE / 2**30))
    os.truncate(left, SIZE)
    assert isinstance(prepare_split(split, PREPARE)[1], MappedImages)
    assert list(folder.iterdir()) == [path]
    assert recorder.keep() is None


def test_images_in_use_can_be_deleted(folder: Path, split: Split) -> None:
    found = prepare_split(split, PREPARE)[1]
    shutil.rmtree(folder)
    assert is_the_same(found, split)


def test_only_the_path_goes_to_worker_processes(folder: Path, split: Split) -> None:
    images = PreparedImages(
        split, replace(PREPARE), cache=prepare_split(split, PREPARE)[1], mean=CONFIG["mean"], std=CONFIG["std"]
    )
    pickled = pickle.dumps(images.pixels)
    assert len(pickled) < 5000 < SIZE
    there = pickle.loads(pickled)
    assert isinstance(there.cache, MappedImages)
    assert all(torch.equal(there[i]["pixel_values"], images.pixels[i]["pixel_values"]) for i in range(6))
    (batch,) = DataLoader(images.pixels, batch_size=6, num_workers=1)
    assert torch.equal(batch["pixel_values"], wanted(split))
    shutil.rmtree(folder)
    there = pickle.loads(pickled)  # a worker that comes too late decodes
    assert there.cache is None
    assert torch.equal(there[3]["pixel_values"], images.pixels[3]["pixel_values"])


@pytest.mark.parametrize(
    ("variables", "place"),
    [
        ({"RLRR_CACHE": "~/mine", "XDG_CACHE_HOME": "/x"}, "/home/me/mine/images"),
        ({"XDG_CACHE_HOME": "/x"}, "/x/rlrr/images"),
        ({}, "/home/me/.cache/rlrr/images"),
    ],
)
def test_the_place_is_the_user_s_choice(variables: dict[str, str], place: str, monkeypatch: Any) -> None:
    for name in ("RLRR_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"HOME": "/home/me", **variables}.items():
        monkeypatch.setenv(name, value)
    found = cache.cache_path(Split([np.zeros((2, 2), np.uint8)], [0], ["x"]), "x")
    assert found is not None
    assert str(found.parent) == place
