"""Guesses at folders that are not laid out as expected: a folder too deep, labels in a table, or files still packed."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from rlrr.data.listing import as_text, cannot_list, entries_of, is_image
from rlrr.data.split import enumerated, split_meant

_TABLES = {".csv", ".tsv", ".jsonl", ".json", ".ndjson", ".parquet", ".xls", ".xlsx", ".ods", ".feather"}
_ARCHIVES = {".zip", ".tar", ".tgz", ".gz", ".bz2", ".xz", ".zst", ".7z", ".rar"}
_DEEPEST = 3  # folders to look into, one in the other


def guess(root: Path, folder: Path) -> str:
    """Write a sentence, after a space, on what may be meant by a folder that has no two classes; "" if unknown.

    Args:
        root: The data.
        folder: `root`, or the split's folder in it that has no two classes.
    """
    if inner := inner_data(folder):
        return (
            f" Did you mean {inner}?"
            if folder == root
            else f" If the folders in {inner} are the classes, move them up."
        )
    return unread(file for place in dict.fromkeys((folder, root)) for file in entries_of(place)[1])


def unread(files: Iterable[Path]) -> str:
    """Write a sentence, after a space, on files that are packed or may hold labels; "" if there are none."""
    files = list(files)
    if packed := archives(files):
        return f" Unpack {enumerated(packed, 3)} first."
    if found := tables(files):
        may = f"{enumerated(found, 3)} may hold the labels, but tables of labels are not read yet"
        return f" {may}: put the images of each class into a folder of its name."
    return ""


def tables(files: Iterable[Path]) -> list[str]:
    """Name the files that may hold labels."""
    return [as_text(file.name) for file in files if file.suffix.casefold() in _TABLES]


def archives(files: Iterable[Path]) -> list[str]:
    """Name the files that are packed."""
    return [as_text(file.name) for file in files if file.suffix.casefold() in _ARCHIVES]


def splits_in(folder: Path) -> set[str]:
    """Tell which of train, val and test a folder has as a folder with classes in it."""
    try:
        with os.scandir(folder) as entries:  # without a look at each image
            named = [Path(entry.path) for entry in entries if split_meant(entry.name) and entry.is_dir()]
    except OSError as error:
        cannot_list(error)
        raise
    return {split_meant(inner.name) or "" for inner in named if holds_classes(inner)}


def holds_classes(folder: Path) -> bool:
    """Tell whether a folder has folders, and no images beside them."""
    folders, files = entries_of(folder)
    return bool(folders) and not any(is_image(file) for file in files)


def inner_data(folder: Path) -> Path | None:
    """Find the nearest folder below with a train folder or with two folders of images."""
    level = [folder]
    for _ in range(_DEEPEST):
        level = [inner for outer in level for inner in entries_of(outer)[0]]
        for inner in level:
            if "train" in splits_in(inner) or sum(_has_images(each) for each in entries_of(inner)[0]) > 1:
                return inner
    return None


def _has_images(folder: Path) -> bool:
    return any(is_image(file) for file in _files(folder, _DEEPEST))


def _files(folder: Path, depth: int) -> Iterator[Path]:
    folders, files = entries_of(folder)
    yield from files
    for inner in folders if depth else ():
        yield from _files(inner, depth - 1)
