"""The five fine-grained sets (FGVC) with the JSON splits of VPT, or those of its forks with `trainval.json`."""

from __future__ import annotations

import json
import posixpath
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from rlrr.data.benchmarks.lists import Fault, Files, Item, Listing, Task, class_names, folder_name, item, read_list
from rlrr.data.dataset import ImageData, Split
from rlrr.data.split import hold_out
from rlrr.errors import RLRRError, UsageError, did_you_mean


@dataclass(frozen=True)
class FgvcSet:
    """One of the five sets.

    Attributes:
        folders: what its folder may be called; capitals, hyphens and underscores do not matter.
        counts: images of train, val and test.
    """

    name: str
    title: str
    folders: tuple[str, ...]
    classes: int
    counts: tuple[int, int, int]


# In the order of the papers' tables; the first folder name is that of VPT.
SETS: dict[str, FgvcSet] = {
    one.name: one
    for one in (
        FgvcSet("cub", "CUB-200-2011", ("CUB_200_2011", "CUB200", "cub"), 200, (5394, 600, 5794)),
        FgvcSet("nabirds", "NABirds", ("nabirds",), 555, (21536, 2393, 24633)),
        FgvcSet(
            "flowers",
            "Oxford Flowers",
            ("OxfordFlower", "OxfordFlowers", "oxford_flowers102", "flowers102", "flowers"),
            102,
            (1020, 1020, 6149),
        ),
        FgvcSet("dogs", "Stanford Dogs", ("Stanford-dogs", "dogs"), 120, (10800, 1200, 8580)),
        FgvcSet("cars", "Stanford Cars", ("Stanford-cars", "cars"), 196, (7329, 815, 8041)),
    )
}


_NUMBERED = {"flowers": "oxford_flowers102", "cars": "cars"}  # whose images are not in a folder for each class


def is_fgvc(folder: Path) -> bool:
    """Tell whether a folder holds JSON splits."""
    return (folder / "test.json").is_file() and any((folder / f"{key}.json").is_file() for key in ("train", "trainval"))


def set_of(folder: Path) -> FgvcSet | None:
    """Tell by its name which set a folder holds; None if it is not one of the five."""
    name = _plain(folder_name(folder))
    return next((one for one in SETS.values() if name in map(_plain, one.folders)), None)


def find_set(root: Path, name: str) -> Path:
    """Find the folder of a set below `root`.

    Args:
        name: a key of `SETS`.

    Raises:
        RLRRError: there is no such set, or no folder for it.
    """
    if name not in SETS:
        message = f"FGVC has no set {name!r}; it has {', '.join(SETS)}.{did_you_mean(name, SETS)}"
        raise UsageError(message)
    with suppress(OSError):  # no such root
        for folder in sorted(root.iterdir()):
            if folder.is_dir() and set_of(folder) == SETS[name]:
                return folder
    names = ", ".join(SETS[name].folders)
    raise RLRRError(f"{root} has no folder of {SETS[name].title}: put it there, called {names}.")


def load_fgvc(folder: Path, *, val_fraction: float | None, seed: int) -> ImageData:
    """Load a set. No image is opened.

    Args:
        val_fraction: share of `trainval.json` that becomes val if `train.json` and `val.json` are not there; None
            holds nothing out.
        seed: of that split.

    Raises:
        RLRRError: a list or an image is missing, or a list is damaged or has the wrong classes.
    """
    task = read_fgvc(folder, whole=False)
    task.require_sound()
    test = task.split("test")
    if "trainval" not in task.listings:
        train, val, origin = task.split("train"), task.split("val"), "train: from train.json; val: from val.json"
    elif val_fraction is None:
        train, val, origin = task.split("trainval"), Split((), (), ()), "train: from trainval.json"
    else:
        train, val = hold_out(task.split("trainval"), val_fraction, seed)
        origin = f"val: {100 * val_fraction:g} % of trainval.json, stratified, seed {seed}"
    return ImageData(folder_name(folder), task.classes, train, val, test, f"{origin}; test: from test.json")


def read_fgvc(folder: Path, *, whole: bool = True) -> Task:
    """Read a set's lists, whatever is wrong with them; class ids become labels from 0, in their order.

    Args:
        whole: also `trainval.json` where `train.json` and `val.json` do without it.
    """
    there = {key for key in ("train", "val", "trainval") if (folder / f"{key}.json").is_file()}
    apart = {"train", "val"} <= there or "trainval" not in there
    keys = ["train", "val", "test"] if apart else ["trainval", "test"]
    if whole and apart and "trainval" in there:
        keys.append("trainval")

    remedy = "take it from the splits that VPT published"
    raw = {key: read_list(folder / f"{key}.json", _parse_json, remedy) for key in keys}
    ids = sorted({item.label for listing in raw.values() for item in listing.items})
    labels, files = {id_: label for label, id_ in enumerate(ids)}, Files(folder)
    listings = {key: _placed(listing, labels, files) for key, listing in raw.items()}

    known = set_of(folder)
    classes = _class_names(folder, known, ids, listings)
    sizes = dict(zip(("train", "val", "test"), known.counts, strict=True)) if known else {}
    if known:
        sizes["trainval"] = sizes["train"] + sizes["val"]
    title, count = (known.title, known.classes) if known else (folder_name(folder), None)
    return Task(folder, title, classes, count, sizes, listings, files)


class _Pairs(list[tuple[str, object]]):
    """A JSON object as it is written; a dictionary would hide that a key is there twice."""


def _parse_json(name: str, text: str) -> Iterator[Item | Fault]:
    try:
        pairs = json.loads(text, object_pairs_hook=_Pairs)
    except (ValueError, RecursionError) as error:
        line, reason = (f", line {error.lineno}", error.msg) if isinstance(error, json.JSONDecodeError) else ("", error)
        yield Fault("bad list", f"{name}{line}: this is not JSON ({reason})")
        return
    if not isinstance(pairs, _Pairs):
        yield Fault("bad list", f"{name} is not a JSON object of image paths and class ids")
        return
    for path, label in pairs:
        yield item(path, label, f"{name}, key {path!r}")


def _placed(listing: Listing, labels: Mapping[int, int], files: Files) -> Listing:
    """Number the classes, and find each image: some lists leave out the folder `images` or `Images`."""

    def place(one: Item) -> Item:
        choices = (one.path, f"images/{one.path}", f"Images/{one.path}")
        path = next((path for path in choices if path in files), one.path)
        return Item(path, labels[one.label], one.place)

    return replace(listing, items=tuple(place(one) for one in listing.items))


def _class_names(
    folder: Path, known: FgvcSet | None, ids: list[int], listings: Mapping[str, Listing]
) -> tuple[str, ...]:
    """Name the classes by the set's own `classes.txt`, else by the folders of their images, else by what we know.

    Ids that run from 0 or 1 may be a fork's own; with them the file is used if it names just those. What is left is
    numbered.
    """
    parents: dict[int, set[str]] = defaultdict(set)
    for listing in listings.values():
        for one in listing.items:
            parents[one.label].add(posixpath.basename(posixpath.dirname(one.path)))
    folders = [min(parents[label]) for label in range(len(ids)) if len(parents[label]) == 1]
    own = _classes_file(folder / "classes.txt")
    renumbered = ids in (list(range(len(ids))), list(range(1, len(ids) + 1)))
    # NABirds' file names all nodes of a hierarchy by ids of its own: with new ids it would name others
    choices = [[] if renumbered and own.keys() != set(ids) else [own[id_] for id_ in ids if id_ in own], folders]
    if known and known.name in _NUMBERED and renumbered:
        choices.append(list(class_names(_NUMBERED[known.name])))
    for names in choices:
        bare = tuple(re.sub(r"^(\d+\.|n\d+-)", "", name) for name in names)  # of CUB, of Stanford Dogs
        if len(set(bare)) == len(ids):
            return bare
    return tuple(str(label) for label in range(len(ids)))


def _classes_file(file: Path) -> dict[int, str]:
    """Read lines of `id name`, as CUB and NABirds have; nothing if there are others."""
    try:
        pairs = [line.split(maxsplit=1) for line in file.read_text(encoding="utf-8-sig").splitlines()]
        return {int(pair[0]): pair[1].strip() for pair in pairs if pair}
    except (OSError, ValueError, IndexError):
        return {}


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.casefold())
