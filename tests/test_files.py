"""Files are wholly there or not at all, and what stands in the way is said in one sentence."""

import errno
import json
import os

import pytest

from rlrr.errors import RLRRError
from rlrr.files import atomic, cannot_write, is_full, read_json, write_json


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
