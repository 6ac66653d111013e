"""Where things are kept, how much of them, and what makes room for what."""

import os
from pathlib import Path

import pytest

from rlrr.cache import cache_folder, cache_limit, make_room
from rlrr.errors import RLRRError

MIB = 2**20


def keep(folder: Path, name: str, age: int) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_bytes(bytes(MIB))
    os.utime(path, (10**9 - age, 10**9 - age))
    return path


def test_what_was_used_longest_ago_makes_room_whatever_kind_it_is(tmp_path, monkeypatch):
    monkeypatch.setenv("RLRR_CACHE", str(tmp_path))
    monkeypatch.setenv("RLRR_CACHE_GIB", str(3.5 / 1024))
    images, vectors = cache_folder("images"), cache_folder("svd")
    newer = keep(images, f"{'a' * 64}.uint8", age=1)
    oldest = keep(vectors, f"{'b' * 64}.safetensors", age=9)
    unfinished = keep(vectors, f".{'c' * 64}.safetensors.0123abcd.tmp", age=8)
    stranger = keep(images, "holiday.jpg", age=99)
    make_room(vectors, 2 * MIB)
    assert [path.exists() for path in (newer, oldest, unfinished, stranger)] == [True, False, False, True]


def test_a_file_that_cannot_fit_deletes_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("RLRR_CACHE", str(tmp_path))
    monkeypatch.setenv("RLRR_CACHE_GIB", str(3.5 / 1024))
    kept = keep(cache_folder("svd"), f"{'a' * 64}.safetensors", age=1)
    with pytest.raises(OSError, match="are needed, of"):
        make_room(kept.parent, 4 * MIB)
    assert kept.exists()


@pytest.mark.parametrize("limit", ["much", "-1", "nan"])
def test_a_limit_that_is_no_size_is_refused(limit, monkeypatch):
    monkeypatch.setenv("RLRR_CACHE_GIB", limit)
    with pytest.raises(RLRRError, match="RLRR_CACHE_GIB must be a number of GiB"):
        cache_limit()
