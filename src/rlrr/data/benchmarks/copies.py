"""Copies of VTAB-1k as people have them: folders with lists, folders of labelled images, zips, `datasets`, the Hub.

A copy tells its tasks and the images of each; nothing is decoded.
"""

from __future__ import annotations

import os
import re
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from tqdm.auto import tqdm

from rlrr.data.benchmarks.vtab import is_vtab, read_vtab
from rlrr.data.dataset import Split
from rlrr.data.hub import ColumnImages, label_columns, load_parts
from rlrr.data.listing import as_text, cannot_list, entries_of, is_image, is_litter
from rlrr.data.split import split_meant
from rlrr.errors import RLRRError, UsageError, did_you_mean

if TYPE_CHECKING:
    import datasets

_LISTS = ("train800", "val200", "train800val200")
_MOST = {"train": 800, "val": 200}


@dataclass(frozen=True)
class Copy:
    """A task found in a source.

    Attributes:
        name: of its folder, configuration or data set; it may tell which task it is.
        place: what messages call it.
        read: finds its images by the name of the split, as `vtab_splits` takes them.
    """

    name: str
    place: str
    read: Callable[[], dict[str, Split]]


def find_copies(source: str, scratch: Path) -> Iterator[Copy]:
    """Find the tasks in a folder, zip or data set of the Hub (`hub:OWNER/NAME`, `hub:OWNER/NAME#label_column`).

    Args:
        scratch: folder to unpack zips into.

    Raises:
        RLRRError: there is no such source, it cannot be had, or a zip is damaged or not safe to unpack.
    """
    name, _, column = source.removeprefix("hub:").partition("#") if source.startswith("hub:") else (source, "", "")
    path = Path(name).expanduser()
    if path.is_dir():
        yield from _below(path, str(path), scratch, column)
    elif path.is_file():
        yield from _below(_unpacked(path, str(path), scratch), str(path), scratch, column)
    elif source.startswith("hub:"):
        yield from _on_hub(name, scratch, column)
    else:
        near = did_you_mean(path.name, (p.name for p in path.parent.iterdir())) if path.parent.is_dir() else ""
        raise UsageError(f"There is no {source}.{near} A source is a folder, a zip or hub:OWNER/NAME.")


def _below(root: Path, shown: str, scratch: Path, column: str) -> Iterator[Copy]:
    """Find tasks in a folder; `shown` is what messages call it, since an unpacked zip is in none that will stay."""
    for parent, folders, files in os.walk(root, onerror=cannot_list):
        folder, place = Path(parent), os.path.normpath(os.path.join(shown, os.path.relpath(parent, root)))
        folders[:] = sorted(name for name in folders if not is_litter(name))
        names = {name.casefold() for name in folders}
        name = Path(os.path.abspath(folder)).name
        if is_vtab(folder):
            yield Copy(name, place, partial(_from_lists, folder, place))
        elif {"dataset_dict.json", "state.json"} & set(files):
            yield Copy(name, place, partial(_from_saved, folder, place, column))
        elif any(file.endswith(".parquet") for file in files):
            whole = folder.parent if name == "data" else folder  # as on the Hub, where the splits' names are read
            yield Copy(Path(os.path.abspath(whole)).name, place, partial(_from_saved, whole, place, column))
        elif names & {"train", "train800"} and "test" in names:
            yield Copy(name, place, partial(_from_images, folder, place))
        else:
            for file in sorted(files):
                if file.casefold().endswith(".zip") and not is_litter(file):
                    inside = os.path.join(place, file)
                    yield from _below(_unpacked(folder / file, inside, scratch), inside, scratch, column)
            continue
        folders.clear()  # what is below belongs to the task


def _unpacked(archive: Path, shown: str, scratch: Path) -> Path:
    """Unpack a zip into a folder of its name: the task's, if its lists are at the top."""
    folder = scratch / str(sum(1 for _ in scratch.iterdir())) / archive.stem
    folder.mkdir(parents=True)
    try:
        with zipfile.ZipFile(archive) as file:
            for name in file.namelist():
                if (path := PurePosixPath(name.replace("\\", "/"))).is_absolute() or ".." in path.parts:
                    raise RLRRError(f"{shown} is not safe to unpack: it holds the path {name!r}. Take another source.")
            for name in tqdm(file.namelist(), f"Unpacking {archive.name}", disable=None):
                file.extract(name, folder)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, PermissionError) as error:
        raise RLRRError(
            f"{shown} cannot be unpacked ({str(error).rstrip('.')}): it is no zip, incomplete or locked. "
            "Download it again."
        ) from error
    return folder


def _from_lists(folder: Path, place: str) -> dict[str, Split]:
    whole = (folder / "train800val200.txt").exists()  # it can be made of the others
    task = read_vtab(folder, whole=whole)
    # `rlrr data check` judges the classes and the number of images.
    if faults := [fault for fault in task.faults() if fault.kind != "classes"]:
        more = f" (and {len(faults) - 1} more things are wrong)" if len(faults) > 1 else ""
        raise RLRRError(f"{place}/{faults[0].message}{more}. Mend this copy or take another.")
    names = {"train": "train800", "val": "val200", "test": "test", "trainval": "train800val200"}
    splits = {names[key]: task.split(key) for key in task.listings}
    for split in splits.values():
        if outside := [name for name in split.names if name.startswith(("/", "../"))]:
            raise RLRRError(f"{place} lists {outside[0]}, which is not inside it: take another copy.")
    return splits


def _from_images(root: Path, place: str) -> dict[str, Split]:
    """Read `train/img_12-label_3.png` in the order of the numbers, or `train/3/x.png`."""
    folders, _ = entries_of(root)
    parts = {key: folder for folder in folders if (key := _split(folder.name))}
    return {key: _by_label(folder, f"{place}/{folder.name}", _MOST.get(key)) for key, folder in parts.items()}


def _split(name: str) -> str | None:
    """Return the split's name here, of one that it may have in any source."""
    return name.casefold() if name.casefold() in _LISTS else split_meant(name)


def _by_label(folder: Path, place: str, most: int | None) -> Split:
    classes, files = entries_of(folder)
    labelled: list[tuple[int, int, Path]] = []  # number, label and file
    for path in filter(is_image, files):
        if not (match := re.fullmatch(r"img_(\d+)-label_(\d+)", path.stem)):
            raise RLRRError(
                f"{place}/{as_text(path.name)} has no label in its name, as img_0-label_5.png has: add lists."
            )
        labelled.append((int(match[1]), int(match[2]), path))
    for one in classes:
        if not one.name.isdecimal():
            raise RLRRError(
                f"{place}/{as_text(one.name)}: a folder of images must be called by its label, as {place}/5."
            )
        labelled += [(len(labelled) + i, int(one.name), p) for i, p in enumerate(filter(is_image, entries_of(one)[1]))]
    labelled.sort()
    if twice := [path for (one, _, _), (other, _, path) in pairwise(labelled) if one == other]:
        raise RLRRError(f"{place}/{twice[0].name}: another image has the same number; remove the one that is wrong.")
    if classes and most and len(labelled) > most:
        raise RLRRError(f"{place} has {len(labelled)} images sorted by class, so that its first {most} cannot be told.")
    names = [f"{place}/{as_text(path.relative_to(folder))}" for _, _, path in labelled]
    return Split([path for _, _, path in labelled], [label for _, label, _ in labelled], names)


def _from_saved(folder: Path, place: str, column: str) -> dict[str, Split]:
    return _from_dataset(load_parts(str(folder)), place, column)


def _from_dataset(parts_by_name: Mapping[str, datasets.Dataset], place: str, column: str) -> dict[str, Split]:
    parts = {key: part for name, part in parts_by_name.items() if (key := _split(name))}
    splits = {}
    for key, part in parts.items():
        image_column, label_column = _image_and_label(place, part, column)
        labels = list(part[label_column])
        if all(label is not None and label >= 0 for label in labels):
            splits[key] = Split(
                ColumnImages(part, image_column), labels, [f"{place}, {key}/{i}" for i in range(len(labels))]
            )
        elif key != "test":  # as in CLEVR, where those of test are kept back
            raise RLRRError(f"{place}: labels are missing in {key}: take another source.")
    return splits


def _image_and_label(place: str, part: datasets.Dataset, column: str) -> tuple[str, str]:
    """Find the columns as for any data set of the Hub, or a label that is a mere whole number."""
    import datasets

    features = part.features
    images = [key for key, feature in features.items() if isinstance(feature, datasets.Image)]
    named = any(isinstance(feature, datasets.ClassLabel) for feature in features.values())
    usual = [column] if column else [] if named else ["label", "labels", "cls"]
    numbers = [key for key in usual if isinstance(features.get(key), datasets.Value) and "int" in features[key].dtype]
    return (images[0], numbers[0]) if images and numbers else label_columns(place, part, column)


def _on_hub(name: str, scratch: Path, column: str) -> Iterator[Copy]:
    """Find zips in a data set of the Hub, or else its configurations."""
    zips, configs = None, list[str]()
    with suppress(Exception):  # loading fails for the same reason, and says so in a sentence
        import datasets
        from huggingface_hub import snapshot_download

        folder = Path(snapshot_download(name, repo_type="dataset", allow_patterns="*.zip"))
        zips = next(folder.rglob("*.zip"), None)
        configs = [] if zips else datasets.get_dataset_config_names(name)
    if zips:
        yield from _below(folder, f"hub:{name}", scratch, column)
    elif len(configs) < 2:
        yield Copy(
            name.rpartition("/")[2], f"hub:{name}", lambda: _from_dataset(load_parts(name), f"hub:{name}", column)
        )
    else:
        for config in configs:
            yield Copy(config, f"hub:{name} ({config})", partial(_from_config, name, config, column))


def _from_config(name: str, config: str, column: str) -> dict[str, Split]:
    import datasets

    place = f"hub:{name} ({config})"
    try:
        loaded = datasets.load_dataset(name, config)
    except Exception as error:  # of the network, the cache, the Hub or a reader: all end the same way
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise RLRRError(f"Cannot load {place} ({reason.rstrip('.')}). Try again, or give a local copy.") from error
    return _from_dataset(loaded, place, column)
