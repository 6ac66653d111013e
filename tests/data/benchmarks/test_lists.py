from __future__ import annotations

from pathlib import Path

import pytest

from rlrr.data.benchmarks.lists import Fault, Files, Item, folder_name, parse_lines, read_list


def read(tmp_path: Path, content: bytes):
    (tmp_path / "test.txt").write_bytes(content)
    return read_list(tmp_path / "test.txt", parse_lines, "ask")


@pytest.mark.parametrize(
    "content",
    [
        b"images/a.jpg 3\nimages/b c.jpg 12\n",
        b"images/a.jpg 3\r\nimages/b c.jpg 12\r\n\r\n  \r\n",
        b"\xef\xbb\xbfimages/a.jpg 3\n\nimages/b c.jpg 12",
        b"  images/a.jpg\t3 \n./images//b c.jpg   12 \n",
    ],
    ids=["plain", "from Windows", "with a byte order mark", "with other blanks"],
)
def test_a_line_is_a_path_that_may_hold_spaces_and_a_label(tmp_path, content):
    listing = read(tmp_path, content)
    assert not listing.faults
    assert [(item.path, item.label) for item in listing.items] == [("images/a.jpg", 3), ("images/b c.jpg", 12)]


def test_lines_are_counted_from_one_and_blank_ones_count(tmp_path):
    listing = read(tmp_path, b"a.jpg 0\n\nb.jpg 1\n")
    assert [item.place for item in listing.items] == ["test.txt, line 1", "test.txt, line 3"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a.jpg 0\nb.jpg\n", "test.txt, line 2: 'b.jpg' is not a path and a label"),
        (b"a.jpg 0\nb.jpg cat\n", "test.txt, line 2: the label must be a whole number below a million, not 'cat'"),
        (b"a.jpg 0\nb.jpg 1.0\n", "test.txt, line 2: the label must be a whole number below a million, not '1.0'"),
        (
            b"a.jpg 0\nb.jpg 1234567\n",
            "test.txt, line 2: the label must be a whole number below a million, not '1234567'",
        ),
        (b"a.jpg 0\nb.jpg 1_0\n", "test.txt, line 2: the label must be a whole number below a million, not '1_0'"),
    ],
)
def test_a_bad_line_is_named_and_the_others_are_kept(tmp_path, content, message):
    listing = read(tmp_path, content)
    assert listing.items == (Item("a.jpg", 0, "test.txt, line 1"),)
    assert listing.faults == (Fault("bad line", message),)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "test.txt lists no images: ask"),
        (b"\n \n", "test.txt lists no images: ask"),
        (b"\xff\xfea\x00", "test.txt is not a text in UTF-8: ask"),
    ],
)
def test_a_list_that_is_none_is_said(tmp_path, content, message):
    assert [fault.message for fault in read(tmp_path, content).faults] == [message]


def test_a_missing_list_and_a_folder_in_its_place_are_said(tmp_path):
    missing = read_list(tmp_path / "test.txt", parse_lines, "ask")
    assert missing.faults == (Fault("missing list", "test.txt is missing: ask"),)
    (tmp_path / "val.txt").mkdir()
    assert "val.txt cannot be read (" in read_list(tmp_path / "val.txt", parse_lines, "ask").faults[0].message


def test_files_are_found_by_path_and_folders_are_none(tmp_path):
    (tmp_path / "images" / "deep").mkdir(parents=True)
    (tmp_path / "images" / "a b.jpg").touch()
    (tmp_path / "top.jpg").symlink_to(tmp_path / "images" / "a b.jpg")
    (tmp_path / "broken.jpg").symlink_to(tmp_path / "gone")
    files = Files(tmp_path)
    found = [
        path for path in ("images/a b.jpg", "top.jpg", "broken.jpg", "images/deep", "no/x", "\0/x") if path in files
    ]
    assert found == ["images/a b.jpg", "top.jpg"]


def test_each_folder_is_listed_once(tmp_path, monkeypatch):
    import os

    for i in range(5):
        (tmp_path / f"{i}.jpg").touch()
    scandir, calls = os.scandir, []
    monkeypatch.setattr(os, "scandir", lambda path: calls.append(path) or scandir(path))
    files = Files(tmp_path)
    assert sum(f"{i}.jpg" in files for i in range(9)) == 5
    assert len(calls) == 1


def test_a_link_keeps_its_own_name(tmp_path, monkeypatch):
    (tmp_path / "blob").mkdir()
    (tmp_path / "cifar").symlink_to(tmp_path / "blob")
    assert folder_name(tmp_path / "cifar") == "cifar"
    monkeypatch.chdir(tmp_path / "blob")
    assert folder_name(Path()) == "blob"
