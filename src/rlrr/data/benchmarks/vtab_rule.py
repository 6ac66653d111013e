"""The rule by which VTAB-1k takes images of a whole data set, and other names of its tasks and labels.

The rules are those of google-research/task_adaptation, as NOAH's script for the usual copy applies them.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping

from rlrr.data.benchmarks.vtab import TASKS
from rlrr.data.dataset import Split
from rlrr.errors import RLRRError

logger = logging.getLogger(__name__)

# Per cent of train before val, where the original has no val.
_TAIL = {"cifar": 90, "caltech101": 90, "svhn": 90, "clevr_count": 90, "clevr_dist": 90, "oxford_iiit_pet": 80}
# Per cent of train before val and before test, where the original has neither.
_WHOLE = {"eurosat": (60, 80), "resisc45": (60, 80), "dsprites_loc": (80, 90), "dsprites_ori": (80, 90)}
_CLEVR_TRAIN = 70_000  # images of the original's train, before any val is taken from it
# Values in the original that are grouped into 16 classes.
_GROUPED = {"dsprites_loc": 32, "dsprites_ori": 40}
# Names in TFDS, VPT, APLA and CLIP_benchmark, in lower case and with "_" for all else.
_NAMES = {
    "cifar": r"cifar(_?100)?(_num_classes_100)?",
    "caltech101": r"caltech_?10[12]",
    "dtd": r"dtd(_47)?",
    "oxford_flowers102": r"(oxford_)?flowers(_?102)?",
    "oxford_iiit_pet": r"(oxford_)?(iiit_)?pets?(_37)?",
    "svhn": r"svhn(_cropped)?",
    "sun397": r"sun_?397",
    "patch_camelyon": r"patch_?camelyon|pcam",
    "eurosat": r"eurosat",
    "resisc45": r"resisc_?45",
    "diabetic_retinopathy": r"(diabetic_)?retinopathy(_detection)?",
    "clevr_count": r"clevr_(task_)?count(_all)?",
    "clevr_dist": r"clevr_(task_)?(closest_object_)?dist(ance)?",
    "dmlab": r"dmlab",
    "kitti": r"kitti(_(task_)?(closest_vehicle_)?dist(ance)?)?",
    "dsprites_loc": r"dsprites?_(predicted_attribute_)?(loc(ation)?|label_x_position)(_num_classes_16)?",
    "dsprites_ori": r"dsprites?_(predicted_attribute_)?(label_)?ori(entation)?(_num_classes_16)?",
    "smallnorb_azi": r"s(mall)?norb_(predicted_attribute_)?(label_)?azi(m|muth)?",
    "smallnorb_ele": r"s(mall)?norb_(predicted_attribute_)?(label_)?ele(v|vation)?",
}


def task_called(name: str) -> str | None:
    """Find the task that a folder or data set of that name holds, if it tells."""
    plain = re.sub(r"[^a-z0-9]+", "_", name.casefold()).strip("_")
    plain = re.sub(r"^(.*_)?vtab_?(1k_)?", "", plain)
    return next((task for task, pattern in _NAMES.items() if re.fullmatch(pattern, plain)), None)


def vtab_splits(task: str, parts: Mapping[str, Split], place: str) -> dict[str, Split]:
    """Take VTAB-1k's images from the parts of a copy or of the whole data set.

    Args:
        parts: "train800", "val200", "test" and perhaps "train800val200", which are left as they are; or "train",
            "val" and "test", of which the rule takes its own.
        place: what messages call the source.

    Returns:
        The four splits, "train800val200" last and perhaps not among them.

    Raises:
        RLRRError: what is there cannot give the official splits, or its labels are not the task's.
    """
    named = {key: parts[key] for key in ("train800", "val200", "test", "train800val200") if key in parts}
    if not {"train800", "val200"} <= named.keys():
        train, val, test = _whole(task, parts, place)
        for key, part, least in (("train", train, 800), ("val", val, 200)):
            if len(part) < least:
                raise RLRRError(f"{place}: {key} has {len(part)} images, and VTAB-1k takes its first {least}.")
        expected = TASKS[task].test_images
        if abs(len(test) - expected) > 1:  # by the version of TFDS, caltech101 has one more
            raise RLRRError(
                f"{place}: test has {len(test):,} images, and that of {task} in VTAB-1k {expected:,}: "
                "these are not the official splits. Take another source."
            )
        named = {"train800": train.subset(range(800)), "val200": val.subset(range(200)), "test": test}
        if len(train) > 800 or len(val) > 200:
            logger.warning(
                "%s: took the first 800 images of train and 200 of val for %s. They are VTAB-1k's own only if the "
                "source keeps the order of TensorFlow Datasets.",
                place,
                task,
            )
    elif "test" not in named:
        raise RLRRError(f"{place} has no test, only {', '.join(named)}: take a full copy.")
    return _labelled(task, named, place)


def _whole(task: str, parts: Mapping[str, Split], place: str) -> tuple[Split, Split, Split]:
    """Tell train, val and test apart as the task's rule does."""
    train, val, test = (parts.get(key) for key in ("train", "val", "test"))
    needs = "train, val and test"
    if task in _WHOLE:
        needs += ", or only train, which the rule divides"
        if train and not val and not test:
            first, second = (round(len(train) * percent / 100) for percent in _WHOLE[task])
            return _cut(train, 0, first), _cut(train, first, second), _cut(train, second)
    elif task.startswith("smallnorb"):
        needs += ", or train and test, whose first half is val"
        if train and not val and test:
            return train, _cut(test, 0, len(test) // 2), _cut(test, len(test) // 2)
    elif task in _TAIL:
        needs += f", or train, whose last {100 - _TAIL[task]} % are val, and test"
        if task.startswith("clevr"):
            needs += " (the original's validation)"
            if not test or (val and train and len(train) == _CLEVR_TRAIN):  # the original's has no labels
                val, test = None, val
        if train and not val and test:
            end = round(len(train) * _TAIL[task] / 100)
            return _cut(train, 0, end), _cut(train, end), test
    if train and val and test:
        return train, val, test
    raise RLRRError(f"{place} has {', '.join(parts)}. VTAB-1k's splits of {task} need {needs}: take another source.")


def _cut(split: Split, start: int, stop: int | None = None) -> Split:
    return split.subset(range(len(split))[start:stop])


def _labelled(task: str, splits: dict[str, Split], place: str) -> dict[str, Split]:
    labels = [label for split in splits.values() for label in split.labels]
    classes, low, high = TASKS[task].classes, min(labels, default=0), max(labels, default=0)
    if (values := _GROUPED.get(task)) == high + 1:
        return {
            key: Split(split.images, [label * classes // values for label in split.labels], split.names)
            for key, split in splits.items()
        }
    if low < 0 or high >= classes:
        raise RLRRError(
            f"{place} has labels from {low} to {high}, and {task} has {classes} classes, 0 to {classes - 1}."
        )
    return splits
