"""The contents of a copy of VTAB-1k or FGVC, and all that is wrong with it. Every image is read."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import Any, Literal

from tqdm.auto import tqdm

from rlrr.data.benchmarks import fgvc, vtab
from rlrr.data.benchmarks.lists import Fault, Item, Listing, Task, folder_name
from rlrr.data.decode import EXTENSIONS, decode
from rlrr.errors import RLRRError, UsageError, counted

Benchmark = Literal["vtab1k", "fgvc"]

# Worth knowing, but no reason to distrust a copy: even originals hold some images twice.
NOTES = frozenset({"duplicate", "unlisted"})


@dataclass(frozen=True)
class TaskInventory:
    """One task.

    Attributes:
        name: its folder.
        images: by split, how many are listed and how many the original has (None if that is not known).
        classes: likewise.
    """

    name: str
    images: dict[str, tuple[int, int | None]]
    classes: tuple[int, int | None]
    faults: tuple[Fault, ...]

    @property
    def problems(self) -> tuple[Fault, ...]:
        """The faults that are not mere notes."""
        return tuple(fault for fault in self.faults if fault.kind not in NOTES)

    @property
    def notes(self) -> tuple[Fault, ...]:
        """The faults that are."""
        return tuple(fault for fault in self.faults if fault.kind in NOTES)

    def to_dict(self) -> dict[str, Any]:
        """Return all of it as JSON has it."""
        return {
            "name": self.name,
            "images": {key: {"found": found, "expected": known} for key, (found, known) in self.images.items()},
            "classes": {"found": self.classes[0], "expected": self.classes[1]},
            "problems": [fault._asdict() for fault in self.problems],
            "notes": [fault._asdict() for fault in self.notes],
        }


@dataclass(frozen=True)
class Inventory:
    """The contents of a copy.

    Attributes:
        missing: the tasks of the benchmark that have no folder.
    """

    root: str
    benchmark: Benchmark
    missing: tuple[str, ...]
    tasks: tuple[TaskInventory, ...]

    @property
    def clean(self) -> bool:
        """Nothing is missing and no task has a problem."""
        return not self.missing and not any(task.problems for task in self.tasks)

    def to_dict(self) -> dict[str, Any]:
        """Return all of it as JSON has it."""
        return {
            "root": self.root,
            "benchmark": self.benchmark,
            "clean": self.clean,
            "missing": list(self.missing),
            "tasks": [task.to_dict() for task in self.tasks],
        }


def take_inventory(root: Path, benchmark: Benchmark | None = None) -> Inventory:
    """Check all tasks below `root`, or `root` itself if it is one.

    Args:
        benchmark: by default told by the lists that are there.

    Raises:
        RLRRError: there are no tasks, or those of both benchmarks and none is named. Bad data raises nothing.
    """
    try:
        children = sorted(child for child in root.iterdir() if child.is_dir())
    except OSError as error:
        raise RLRRError(f"Cannot list {root} ({error.strerror}): give the folder of a copy.") from None
    benchmark = benchmark or _told_by_lists(root, children)
    rules = _RULES[benchmark]
    if rules.is_task(root):
        return Inventory(str(root), benchmark, (), (_check(rules.read(root)),))
    others = [other.is_task for key, other in _RULES.items() if key != benchmark]
    named = {child: rules.name_of(child) for child in children if not any(is_task(child) for is_task in others)}
    folders = [child for name in rules.names for child in named if named[child] == name]
    folders += [child for child in named if not named[child] and rules.is_task(child)]
    if not folders:
        raise RLRRError(f"{root} holds no task of {rules.title}: its tasks are folders such as {rules.names[0]}.")
    missing = tuple(name for name in rules.names if name not in named.values())
    return Inventory(str(root), benchmark, missing, tuple(_check(rules.read(folder)) for folder in folders))


def holds_tasks(root: Path) -> bool:
    """Tell whether a folder is a task of VTAB-1k or FGVC, or holds one."""
    try:
        folders = [root, *(child for child in root.iterdir() if child.is_dir())]
    except OSError:
        return False
    return any(rules.is_task(folder) for rules in _RULES.values() for folder in folders)


@dataclass(frozen=True)
class _Rules:
    title: str
    names: tuple[str, ...]
    is_task: Callable[[Path], bool]
    name_of: Callable[[Path], str | None]  # by the folder's name
    read: Callable[[Path], Task]


def _vtab_name(folder: Path) -> str | None:
    return folder.name if folder.name in vtab.TASKS else None


def _fgvc_name(folder: Path) -> str | None:
    known = fgvc.set_of(folder)
    return known.name if known else None


_RULES: dict[Benchmark, _Rules] = {
    "vtab1k": _Rules("VTAB-1k", tuple(vtab.TASKS), vtab.is_vtab, _vtab_name, vtab.read_vtab),
    "fgvc": _Rules("FGVC", tuple(fgvc.SETS), fgvc.is_fgvc, _fgvc_name, fgvc.read_fgvc),
}


def _told_by_lists(root: Path, children: list[Path]) -> Benchmark:
    benchmarks = [key for key, rules in _RULES.items() if any(rules.is_task(folder) for folder in (root, *children))]
    if len(benchmarks) > 1:
        raise UsageError(f"{root} holds tasks of both VTAB-1k and FGVC: choose with `benchmark`.")
    if not benchmarks:
        raise RLRRError(
            f"{root} holds no task of VTAB-1k (a folder with train800.txt) or of FGVC (one with test.json and "
            "train.json or trainval.json)."
        )
    return benchmarks[0]


def _check(task: Task) -> TaskInventory:
    digests, corrupt = _read_images(task)
    faults = [*task.faults(), *_other_counts(task), *corrupt, *_other_union(task, digests)]
    faults += [*_duplicates(task, digests), *_unlisted(task)]
    images = {key: (len(listing.items), task.expected.get(key)) for key, listing in task.listings.items()}
    classes = (len(task.found_classes), task.class_count)
    return TaskInventory(folder_name(task.folder), images, classes, tuple(faults))


def _read_images(task: Task) -> tuple[dict[str, bytes], list[Fault]]:
    """Decode every image once; return the SHA-256 of each file by path, and those that cannot be decoded."""
    items = {item.path: item for listing in task.listings.values() for item in listing.items}
    existing = [item for item in items.values() if item.path in task.files]

    def read(item: Item) -> bytes | Fault:
        name = f"{item.place}: {item.path}"
        try:
            content = (task.folder / item.path).read_bytes()
            decode(content, name)
        except RLRRError as error:
            return Fault("corrupt", str(error))
        except OSError as error:
            return Fault("corrupt", f"{name}: {error.strerror}")
        return hashlib.sha256(content).digest()

    with ThreadPool() as pool:  # Pillow decodes without holding the interpreter's lock
        reading = pool.imap(read, existing, chunksize=16)
        results = list(tqdm(reading, f"Reading {folder_name(task.folder)}", len(existing), disable=None))
    digests = {item.path: result for item, result in zip(existing, results, strict=True) if isinstance(result, bytes)}
    return digests, [result for result in results if isinstance(result, Fault)]


def _other_counts(task: Task) -> Iterator[Fault]:
    for key, listing in task.listings.items():
        known = task.expected.get(key)
        if listing.items and known is not None and len(listing.items) != known:
            yield Fault("count", f"{listing.file} lists {counted(len(listing.items), 'image')}, the original {known}")


def _other_union(task: Task, digests: Mapping[str, bytes]) -> Iterator[Fault]:
    """Compare the list of train and val together with the two, by content: its images may be copies."""
    if not {"train", "val", "trainval"} <= task.listings.keys():
        return
    train, val, both = (task.listings[key] for key in ("train", "val", "trainval"))
    if not (train.items and val.items and both.items):
        return  # said already
    apart, together = _contents((train, val), digests), _contents((both,), digests)
    if None in apart or None in together or apart == together:
        return
    yield Fault(
        "union",
        f"{both.file} is not {train.file} and {val.file} together: {(together - apart).total()} of its images, with "
        f"their labels, are in neither, and {(apart - together).total()} of theirs are not in it",
    )


def _contents(listings: tuple[Listing, ...], digests: Mapping[str, bytes]) -> Counter[tuple[bytes, int] | None]:
    items = (item for listing in listings for item in listing.items)
    return Counter((digests[item.path], item.label) if item.path in digests else None for item in items)


def _duplicates(task: Task, digests: Mapping[str, bytes]) -> Iterator[Fault]:
    """Find images that are listed twice in one list, or whose content is that of another image."""
    first: dict[bytes, Item] = {}
    for key, listing in task.listings.items():
        paths: dict[str, Item] = {}
        for item in listing.items:
            if item.path in paths:
                yield Fault("repeated", f"{item.place}: {item.path} is listed in {paths[item.path].place} already")
                continue
            paths[item.path] = item
            if item.path not in digests or (key == "trainval" and "train" in task.listings):
                continue
            earlier = first.setdefault(digests[item.path], item)
            if earlier.path != item.path:
                same = f"{item.path} is the same image as {earlier.path} ({earlier.place})"
                yield Fault("duplicate", f"{item.place}: {same}")


def _unlisted(task: Task) -> Iterator[Fault]:
    """Count the images that no list has, in the folders of those that a list has."""
    listed: dict[str, set[str]] = {}
    for listing in task.listings.values():
        for item in listing.items:
            folder, _, name = item.path.rpartition("/")
            listed.setdefault(folder, set()).add(name)
    for folder, names in listed.items():
        others = sorted(n for n in task.files.names(folder) - names if Path(n).suffix.lower() in EXTENSIONS)
        if others:
            yield Fault(
                "unlisted", f"{folder or '.'} holds {counted(len(others), 'image')} that no list has, as {others[0]}"
            )
