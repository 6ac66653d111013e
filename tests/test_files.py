"""Files are wholly there or not at all, and what stands in the way is said in one sentence."""

import errno
import json
import os
import signal
from contextlib import suppress

import pytest

from rlrr.errors import RLRRError, UsageError
from rlrr.files import (
    SEAL,
    as_path,
    atomic,
    atomic_folder,
    cannot_write,
    is_full,
    is_temporary,
    read_json,
    read_sealed,
    scratch_folder,
    write_json,
    write_sealed,
)


def test_a_file_written_atomically_is_there_alone(tmp_path):
    path = tmp_path / "new folder" / "wide é.json"
    write_json(path, {"class": "Käfer"})
    assert read_json(path) == {"class": "Käfer"}
    assert "Käfer" in path.read_text(encoding="utf-8")
    assert [file.name for file in path.parent.iterdir()] == ["wide é.json"]


@pytest.mark.parametrize("error", [RuntimeError("bug"), KeyboardInterrupt(), OSError(errno.ENOSPC, "full")])
def test_failing_in_the_middle_leaves_the_old_file_and_nothing_else(tmp_path, error):
    path = tmp_path / "file"
    path.write_text("old")

    def write() -> None:
        with atomic(path) as temporary:
            temporary.write_text("half of the ne")
            raise error

    with pytest.raises(RLRRError if isinstance(error, OSError) else type(error)):
        write()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_failing_at_the_rename_leaves_the_old_file_too(tmp_path, monkeypatch):
    path = tmp_path / "file"
    path.write_text("old")

    def refuse(*args):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(RLRRError, match="Permission denied"), atomic(path) as temporary:
        temporary.write_text("new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_the_data_is_on_the_disk_before_the_name_is(tmp_path, monkeypatch):
    calls = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda file: calls.append("fsync") or fsync(file))
    monkeypatch.setattr(os, "replace", lambda *paths: calls.append("replace") or replace(*paths))
    write_json(tmp_path / "file", 1)
    assert calls == ["fsync", "replace"]


def test_a_value_that_is_no_json_leaves_the_old_file(tmp_path):
    write_json(tmp_path / "file", 1)
    with pytest.raises(TypeError):
        write_json(tmp_path / "file", {"value": object()})
    assert read_json(tmp_path / "file") == 1


def test_a_place_that_is_no_folder_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RLRRError, match=r"Cannot write .*below"):
        write_json(tmp_path / "file" / "below", 1)


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (errno.ENOSPC, "No space left on the disk to write x: free some space"),
        (errno.EDQUOT, "No space left on the disk"),
        (errno.EROFS, "Cannot write x: Read-only file system"),
    ],
)
def test_what_prevents_writing_is_said_in_one_sentence(number, said):
    assert said in str(cannot_write("x", OSError(number, os.strerror(number))))


@pytest.mark.parametrize(
    ("number", "full"), [(None, False), (errno.ENOSPC, True), (errno.EDQUOT, True), (errno.EIO, False)]
)
def test_a_disk_is_full_if_nothing_can_be_written_to_it_for_want_of_space(tmp_path, monkeypatch, number, full):
    def sync(descriptor):
        if number:
            raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", sync)
    assert is_full(tmp_path) == full
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe\x00", b'{"a": 1'])
def test_damaged_json_is_named(tmp_path, content):
    path = tmp_path / "record.json"
    path.write_bytes(content)
    with pytest.raises(RLRRError, match=r"record\.json is damaged"):
        read_json(path)


def test_missing_json_is_named(tmp_path):
    with pytest.raises(RLRRError, match=r"record\.json is missing"):
        read_json(tmp_path / "record.json")


def test_json_is_readable_by_anyone_who_may_read_the_folder(tmp_path):
    (tmp_path / "plain").write_text("")
    write_json(tmp_path / "ours", json.loads("1"))
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "plain").stat().st_mode


# Remains of processes that were killed


def killed_in(writing, path) -> None:
    """End a copy of this process in the middle of writing."""
    if not (child := os.fork()):
        with writing(path) as temporary:
            if temporary.is_dir():
                (temporary / "half").write_text("half")
            else:
                temporary.write_text("half")
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)


@pytest.mark.parametrize("before", [atomic, scratch_folder, atomic_folder])
@pytest.mark.parametrize("after", [atomic, scratch_folder, atomic_folder])
def test_the_next_one_to_write_a_path_deletes_what_a_killed_process_has_left_of_it(tmp_path, before, after):
    path = tmp_path / "new" / "[a].b"
    killed_in(before, path)
    others = [path.with_name(name) for name in (".[a].b.c.0123abcd.tmp", ".a.b.0123abcd.tmp", "[a].b.tmp")]
    for other in others:
        other.write_text("")
    left = set(path.parent.iterdir()) - set(others)
    assert left
    assert all(map(is_temporary, left))
    assert not path.exists()
    with after(path) as temporary:
        if not temporary.is_dir():
            temporary.write_text("whole")
    assert set(path.parent.iterdir()) - {path} == set(others)


def test_what_another_process_writes_at_the_same_time_stays(tmp_path):
    with atomic(tmp_path / "file", shared=True) as first:
        first.write_text("first")
        with atomic(tmp_path / "file", shared=True) as second:
            second.write_text("second")
    assert (tmp_path / "file").read_text() == "first"


def test_a_folder_is_there_with_all_its_files_or_not_at_all(tmp_path):
    folder = tmp_path / "new" / "folder"

    def fail() -> None:
        with atomic_folder(folder) as temporary:
            (temporary / "one").write_text("1")
            raise RuntimeError("bug")

    with pytest.raises(RuntimeError):
        fail()
    assert not list(folder.parent.iterdir())
    folder.mkdir()
    with atomic_folder(folder) as temporary:
        (temporary / "below").mkdir()
        (temporary / "below" / "one").write_text("1")
        assert not list(folder.iterdir())
    assert (folder / "below" / "one").read_text() == "1"
    assert list(folder.parent.iterdir()) == [folder]


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "full"), ValueError("of a library: I/O error")])
def test_a_disk_that_fills_while_a_library_writes_is_one_sentence(tmp_path, monkeypatch, error):
    monkeypatch.setattr("rlrr.files.is_full", lambda folder: True)
    with pytest.raises(RLRRError, match="No space left on the disk"), scratch_folder(tmp_path / "file"):
        raise error
    assert not list(tmp_path.iterdir())


def test_a_full_disk_is_told_of_the_output_and_not_of_its_scratch(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "replace", lambda *paths: (_ for _ in ()).throw(OSError(errno.ENOSPC, "full")))
    with pytest.raises(RLRRError, match=r"to write \S*/output: free"), scratch_folder(tmp_path / "output") as scratch:
        write_json(scratch / "inside.json", 1)
    assert not list(tmp_path.iterdir())


# Changes


VALUES = {"name": "Käfer", "sizes": (1, 2.5, 1e-30), "none": None, "deep": {"1": [True, {}]}, "big": 10**30}


def test_a_sealed_file_comes_back_as_json_has_it(tmp_path):
    write_sealed(tmp_path / "file", VALUES)
    assert read_sealed(tmp_path / "file") == VALUES | {"sizes": [1, 2.5, 1e-30]}
    write_sealed(tmp_path / "file", {1: "a number as a name"})
    assert read_sealed(tmp_path / "file") == {"1": "a number as a name"}


def test_each_change_of_a_value_in_a_sealed_file_is_noticed(tmp_path):
    path = tmp_path / "file"
    write_sealed(path, VALUES)
    text = path.read_bytes()
    for position in range(len(text)):
        for bit in range(8):
            path.write_bytes(text[:position] + bytes([text[position] ^ 1 << bit]) + text[position + 1 :])
            with suppress(RLRRError):  # else in white space, or in the name of the checksum itself
                content = read_sealed(path)
                assert {name: content[name] for name in VALUES} == VALUES | {"sizes": [1, 2.5, 1e-30]}


def test_a_change_by_hand_is_kept_where_the_checksum_is_deleted(tmp_path):
    path = tmp_path / "file"
    write_sealed(path, {"classes": 3})
    content = read_json(path) | {"classes": 4}
    write_json(path, content)
    with pytest.raises(RLRRError, match=f"delete the line {SEAL}"):
        read_sealed(path)
    del content[SEAL]
    write_json(path, content)
    assert read_sealed(path) == {"classes": 4}


@pytest.mark.parametrize("content", ["[" * 100_000, "9" * 5000], ids=["deep", "long number"])
def test_json_beyond_pythons_limits_is_damaged(tmp_path, content):
    (tmp_path / "file").write_text(content)
    with pytest.raises(RLRRError, match="file is damaged"):
        read_json(tmp_path / "file")


def test_a_folder_in_the_place_of_json_is_named(tmp_path):
    with pytest.raises(RLRRError, match=r"Cannot read .*directory"):
        read_json(tmp_path)


@pytest.mark.parametrize("text", ["~nobody-of-that-name/x", "a" * 5000])
def test_what_cannot_be_a_path_is_refused(text):
    with pytest.raises(UsageError, match="is no path to read"):
        as_path(text)
