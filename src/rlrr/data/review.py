"""A look at all images of a data set before it is used: unreadable ones, duplicates, and classes without images."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rlrr.data.check import prepare_split
from rlrr.data.duplicates import Duplicates
from rlrr.data.load import load_data


@dataclass(frozen=True)
class Review:
    """The content of a data set.

    Attributes:
        name: The folder, sample or Hub data set.
        classes: Class names.
        images: The number of images in each split.
        unreadable: By split, "name: reason" of the images that cannot be read.
        missing_classes: By split, the classes without an image.
        duplicates: The images that are there twice, as in `Duplicates.found`.
    """

    name: str
    classes: tuple[str, ...]
    images: dict[str, int]
    unreadable: dict[str, list[str]]
    missing_classes: dict[str, list[str]]
    duplicates: list[dict[str, Any]]

    @property
    def clean(self) -> bool:
        """Whether every image can be read."""
        return not any(self.unreadable.values())

    def to_dict(self) -> dict[str, Any]:
        """Return all of it as JSON has it."""
        return asdict(self) | {"clean": self.clean}


def review(data: str | Path) -> Review:
    """Read every image of a data set, and warn of what should be known before it is used.

    Args:
        data: A folder, sample or Hub data set as for `train`; the splits are its own.

    Raises:
        RLRRError: there is no such data, it cannot be used as it is, or no image of a split or class can be read.
    """
    content = load_data(data, val_fraction=None)
    splits = {"train": content.train, "val": content.val, "test": content.test}
    present = {name: split for name, split in splits.items() if split}
    duplicates, unreadable = Duplicates(), {}
    for name, split in present.items():
        unreadable[name] = list(prepare_split(split, None, bad_images="skip", what=name)[2])
        duplicates.add(name, split)
    return Review(
        name=content.name,
        classes=content.classes,
        images={name: len(split) for name, split in present.items()},
        unreadable=unreadable,
        missing_classes={name: content.absent_classes(split) for name, split in present.items()},
        duplicates=duplicates.found,
    )
