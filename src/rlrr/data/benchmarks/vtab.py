"""VTAB-1k in the layout everyone reads: `<task>/train800.txt, val200.txt, test.txt` and images. No TensorFlow."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rlrr.data.benchmarks.lists import Files, Task, class_names, folder_name, parse_lines, read_list
from rlrr.data.dataset import ImageData

_LISTS = {"train": "train800.txt", "val": "val200.txt", "test": "test.txt", "trainval": "train800val200.txt"}
_SIZES = {"train": 800, "val": 200, "trainval": 1000}


@dataclass(frozen=True)
class VtabTask:
    """A task of VTAB-1k.

    Attributes:
        name: its folder.
        title: as in the papers' tables.
        test_images: how many the original has.
    """

    name: str
    title: str
    group: Literal["natural", "specialized", "structured"]
    classes: int
    test_images: int


# In the order of the papers' tables.
TASKS: dict[str, VtabTask] = {
    task.name: task
    for task in (
        VtabTask("cifar", "CIFAR-100", "natural", 100, 10000),
        VtabTask("caltech101", "Caltech101", "natural", 102, 6084),
        VtabTask("dtd", "DTD", "natural", 47, 1880),
        VtabTask("oxford_flowers102", "Flowers102", "natural", 102, 6149),
        VtabTask("oxford_iiit_pet", "Pets", "natural", 37, 3669),
        VtabTask("svhn", "SVHN", "natural", 10, 26032),
        VtabTask("sun397", "Sun397", "natural", 397, 21750),
        VtabTask("patch_camelyon", "Camelyon", "specialized", 2, 32768),
        VtabTask("eurosat", "EuroSAT", "specialized", 10, 5400),
        VtabTask("resisc45", "Resisc45", "specialized", 45, 6300),
        VtabTask("diabetic_retinopathy", "Retinopathy", "specialized", 5, 42670),
        VtabTask("clevr_count", "Clevr-Count", "structured", 8, 15000),
        VtabTask("clevr_dist", "Clevr-Dist", "structured", 6, 15000),
        VtabTask("dmlab", "DMLab", "structured", 6, 22735),
        VtabTask("kitti", "KITTI", "structured", 4, 711),
        VtabTask("dsprites_loc", "dSpr-Loc", "structured", 16, 73728),
        VtabTask("dsprites_ori", "dSpr-Ori", "structured", 16, 73728),
        VtabTask("smallnorb_azi", "sNORB-Azim", "structured", 18, 12150),
        VtabTask("smallnorb_ele", "sNORB-Elev", "structured", 9, 12150),
    )
}


def is_vtab(folder: Path) -> bool:
    """Tell whether a folder holds lists of VTAB-1k."""
    return any((folder / _LISTS[key]).is_file() for key in ("train", "val", "trainval"))


def load_vtab(folder: Path) -> ImageData:
    """Load a task: train is `train800.txt`, val is `val200.txt`. No image is opened.

    A folder with the name of no task has as many classes as its labels ask for.

    Raises:
        RLRRError: a list or an image is missing, or a label or the classes are wrong.
    """
    task = read_vtab(folder, whole=False)
    task.require_sound()
    origin = "; ".join(f"{key}: from {listing.file}" for key, listing in task.listings.items())
    train, val, test = (task.split(key) for key in ("train", "val", "test"))
    return ImageData(folder_name(folder), task.classes, train, val, test, origin)


def read_vtab(folder: Path, *, whole: bool = True) -> Task:
    """Read a task's lists, whatever is wrong with them.

    Args:
        whole: also the list of train and val together, which loading does not need.
    """
    remedy = "take it from a full copy, or make it from another copy with `rlrr data convert`"
    listings = {
        key: read_list(folder / file, parse_lines, remedy) for key, file in _LISTS.items() if whole or key != "trainval"
    }
    name = folder_name(folder)
    if known := TASKS.get(name):
        classes, expected = class_names(name), {**_SIZES, "test": known.test_images}
    else:
        labels = [item.label for listing in listings.values() for item in listing.items]
        classes, expected = tuple(str(label) for label in range(max(labels, default=-1) + 1)), _SIZES
    hint = " (some copies leave the background out, and number the classes anew: take one with it)"
    hint = hint if name == "caltech101" else ""
    return Task(folder, name, classes, known.classes if known else None, expected, listings, Files(folder), hint)
