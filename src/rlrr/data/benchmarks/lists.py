"""A task given by lists of images and labels, as VTAB-1k and FGVC are: its splits, and what is wrong with them.

No image is opened here.
"""

from __future__ import annotations

import json
import logging
import os
import posixpath
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from importlib.resources import files
from pathlib import Path
from typing import NamedTuple

from rlrr.data.dataset import Split
from rlrr.data.split import enumerated
from rlrr.errors import RLRRError

logger = logging.getLogger(__name__)


class Item(NamedTuple):
    """One listed image.

    Attributes:
        path: below the task's folder, with "/".
        place: where it is listed ("train800.txt, line 12").
    """

    path: str
    label: int
    place: str


class Fault(NamedTuple):
    """One thing that is wrong; the message begins with the file that it is wrong in, and has no full stop."""

    kind: str
    message: str


@dataclass(frozen=True)
class Listing:
    """The entries of one list, and the lines that could not be read."""

    file: str
    items: tuple[Item, ...]
    faults: tuple[Fault, ...]


class Files:
    """The files below a folder. Each sub-folder is listed once, which is faster than asking for every file."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._names: dict[str, frozenset[str]] = {}

    def __contains__(self, path: str) -> bool:
        folder, name = posixpath.split(path)
        return name in self.names(folder)

    def names(self, folder: str) -> frozenset[str]:
        """Name the files directly in a sub-folder; none if it cannot be listed."""
        if folder not in self._names:
            try:
                with os.scandir(self._root / folder) as entries:
                    self._names[folder] = frozenset(entry.name for entry in entries if entry.is_file())
            except (OSError, ValueError):  # not there, or no name that a file can have
                self._names[folder] = frozenset()
        return self._names[folder]


@dataclass(frozen=True)
class Task:
    """A task as its lists describe it.

    Attributes:
        title: what messages call it.
        classes: class names, by label.
        class_count: how many classes the original has; None if that is not known.
        expected: how many images the original has, by split; without those that are not known.
        listings: by split: "train", "val", "test", and "trainval" for train and val together.
        class_hint: what is known of copies that have other classes.
    """

    folder: Path
    title: str
    classes: tuple[str, ...]
    class_count: int | None
    expected: Mapping[str, int]
    listings: Mapping[str, Listing]
    files: Files
    class_hint: str = ""

    @cached_property
    def found_classes(self) -> frozenset[int]:
        """Collect the labels in range that some list has."""
        labels = {item.label for listing in self.listings.values() for item in listing.items}
        return frozenset(labels.intersection(range(len(self.classes))))

    def split(self, key: str) -> Split:
        """Turn a list into images; their names are their paths."""
        items = self.listings[key].items
        return Split([self.folder / i.path for i in items], [i.label for i in items], [i.path for i in items])

    def require_sound(self) -> None:
        """Refuse lists that cannot be used as they are, and warn of splits that have not their original size.

        Raises:
            RLRRError: something is wrong; the first such thing is said.
        """
        if faults := self.faults():
            first = faults[0]
            more = sum(fault.kind == first.kind for fault in faults) - 1
            raise RLRRError(
                f"{self.folder}/{first.message}{f' (and {more} more like it)' if more else ''}. "
                f"`rlrr data check {self.folder}` lists all that is wrong."
            )
        counts = {key: len(listing.items) for key, listing in self.listings.items() if key in self.expected}
        if any(counts[key] != self.expected[key] for key in counts):
            keys = "/".join(counts)
            here, there = ("/".join(str(of[key]) for key in counts) for of in (counts, self.expected))
            message = "%s: %s hold %s images, %s in the original: see `rlrr data check`"
            logger.warning(message, self.folder, keys, here, there)

    def faults(self) -> list[Fault]:
        """Find what makes the lists unusable: what cannot be read, labels, classes, missing and shared images."""
        listings = self.listings.values()
        faults = [fault for listing in listings for fault in listing.faults]
        faults += [fault for listing in listings for fault in self._bad_labels(listing)]
        faults += [
            Fault("missing file", f"{item.place}: there is no file {item.path}")
            for listing in listings
            for item in listing.items
            if item.path not in self.files
        ]
        for one, other in (("train", "val"), ("train", "test"), ("val", "test"), ("trainval", "test")):
            if one in self.listings and other in self.listings:
                faults += _shared(self.listings[one], self.listings[other])
        if all(listing.items for listing in listings):
            faults += self._other_classes()
        return faults

    def _bad_labels(self, listing: Listing) -> Iterator[Fault]:
        count = len(self.classes)
        for item in listing.items:
            if not 0 <= item.label < count:
                range_ = f"{self.title} has {count} classes, 0 to {count - 1}"
                yield Fault("label", f"{item.place}: label {item.label} is out of range: {range_}")

    def _other_classes(self) -> Iterator[Fault]:
        count = len(self.found_classes)
        if self.class_count not in (None, count):
            absent = [f"{i} ({name})" for i, name in enumerate(self.classes) if i not in self.found_classes]
            files = ", ".join(listing.file for listing in self.listings.values())
            without = f", without {enumerated(absent, most=5)}" if absent else ""
            message = f"{files} hold {count} classes{without}, and {self.title} has {self.class_count}"
            yield Fault("classes", f"{message}{self.class_hint}")


def read_list(file: Path, parse: Callable[[str, str], Iterator[Item | Fault]], remedy: str) -> Listing:
    """Read a list. Nothing is raised: what is wrong is kept beside what could be read.

    Args:
        parse: from the file's name and its text to what is in it.
        remedy: where a missing list comes from ("it is part of …").
    """
    try:
        # A byte order mark is dropped; any kind of line end becomes "\n".
        entries = list(parse(file.name, file.read_text(encoding="utf-8-sig")))
        entries = entries or [Fault("bad list", f"{file.name} lists no images: {remedy}")]
    except FileNotFoundError:
        entries = [Fault("missing list", f"{file.name} is missing: {remedy}")]
    except UnicodeDecodeError:
        entries = [Fault("bad list", f"{file.name} is not a text in UTF-8: {remedy}")]
    except OSError as error:
        entries = [Fault("bad list", f"{file.name} cannot be read ({error.strerror}): {remedy}")]
    items = tuple(one for one in entries if isinstance(one, Item))
    return Listing(file.name, items, tuple(one for one in entries if isinstance(one, Fault)))


def parse_lines(name: str, text: str) -> Iterator[Item | Fault]:
    """Parse lines of `path label`. The path may hold spaces, so that the label is the last word."""
    for number, line in enumerate(text.split("\n"), start=1):
        words = line.rsplit(maxsplit=1)
        place = f"{name}, line {number}"
        if len(words) == 1:
            yield Fault("bad line", f"{place}: {line.strip()!r} is not a path and a label")
        elif words:
            yield item(words[0].strip(), words[1], place)


def item(path: str, label: object, place: str) -> Item | Fault:
    """Make an item, if the label is a whole number or a text that is one, and could be that of a class."""
    if isinstance(label, bool) or not re.fullmatch(r"[+-]?[0-9]{1,6}", str(label)):
        return Fault("bad line", f"{place}: the label must be a whole number below a million, not {label!r}")
    return Item(posixpath.normpath(path), int(str(label)), place)


def folder_name(folder: Path) -> str:
    """Return a folder's own name, also of "." and of a link, which `resolve` would follow."""
    return os.path.basename(os.path.abspath(folder))


@cache
def class_names(name: str) -> tuple[str, ...]:
    """Name the classes of a task of VTAB-1k, or of "cars" in FGVC, by label."""
    text = files(__package__).joinpath("class_names.json").read_text(encoding="utf-8")
    return tuple(json.loads(text)["names"][name])


def _shared(one: Listing, other: Listing) -> Iterator[Fault]:
    places = {item.path: item.place for item in one.items}
    for item in other.items:
        if item.path in places:
            message = f"{item.place}: {item.path} is listed in {places[item.path]} too: it may be in one split only"
            yield Fault("shared", message)
