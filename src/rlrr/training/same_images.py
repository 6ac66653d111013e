"""The images that a run was started with: their names, classes and contents, so that it is resumed on the same ones."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

from rlrr.data import ImageData, Split
from rlrr.data.digest import digest_of, image_digests
from rlrr.data.split import enumerated
from rlrr.errors import RLRRError, UsageError
from rlrr.files import read_json, write_json
from rlrr.recipes.recipe import Recipe
from rlrr.training.output import CHECKPOINTS, IMAGES, last_checkpoint

logger = logging.getLogger(__name__)

Listing = dict[str, list[list[str]]]
"""By split: the name, class and SHA-256 of each image, in order."""


def list_images(data: ImageData, recipe: Recipe) -> Listing:
    """List the images that training depends on: of train and val, and in the paper's protocol of test.

    Raises:
        RLRRError: a file cannot be read, and the recipe does not skip such files.
    """
    splits = {"train": data.train, "val": data.val}
    if recipe.protocol == "paper" and data.test:
        splits["test"] = data.test
    return {name: _rows(split, data.classes, recipe.bad_images == "skip") for name, split in splits.items()}


def expect_same_images(folder: Path, listing: Listing) -> None:
    """Refuse to resume a run on other images than it was started with.

    Raises:
        RLRRError: images are gone, new, changed or of another class, of which the message names some; or the list of
            the images is damaged.
    """
    path = folder / IMAGES
    if not path.exists():
        if last_checkpoint(folder / CHECKPOINTS):
            logger.warning("%s is missing: nothing tells whether the images are still the same.", path)
        return
    try:
        changes = differences(read_json(path), listing)
    except (TypeError, ValueError, AttributeError) as error:
        raise RLRRError(f"{path} is damaged: delete it to resume without a check of the images.") from error
    if changes:
        raise UsageError(
            f"The images of the run in {folder} have changed since it was started ({'; '.join(changes)}): bring them "
            "back as they were, or start anew with `overwrite`."
        )


def write_images(folder: Path, listing: Listing) -> None:
    """Write the images of a run that is started."""
    write_json(folder / IMAGES, listing)


def listing_digest(data: ImageData, listing: Listing) -> str:
    """Return the `data_digest` of the training and validation images of a list."""
    splits = {"train": data.train, "val": data.val}
    return digest_of(*((split, [digest for *_, digest in listing[name]]) for name, split in splits.items()))


def differences(before: Mapping[str, Sequence[Sequence[str]]], now: Mapping[str, Sequence[Sequence[str]]]) -> list[str]:
    """Describe in words how images differ, with a few names of each kind; nothing if they are the same."""
    if before == now:
        return []
    olds, news = _by_name(before), _by_name(now)
    gone, new = olds.keys() - news.keys(), news.keys() - olds.keys()
    by_content = {news[name][1]: name for name in sorted(new)}
    moved = {name: by_content[olds[name][1]] for name in sorted(gone) if olds[name][1] in by_content}
    both = sorted(olds.keys() & news.keys())
    kinds = {
        "{} gone": sorted(gone - moved.keys()),
        "{} new": sorted(new - set(moved.values())),
        "{} moved or renamed": [f"{old} is now {new}" for old, new in moved.items()],
        "{} edited": [name for name in both if olds[name][1] != news[name][1]],
        "{} of another class": [
            f"{name}, {olds[name][0]} and now {news[name][0]}" for name in both if olds[name][0] != news[name][0]
        ],
    }
    found = [f"{kind.format(len(names))}: {enumerated(names, 3)}" for kind, names in kinds.items() if names]
    if found:
        return found
    old_places = {(split, row[0]) for split, rows in before.items() for row in rows}
    others = [row[0] for split, rows in now.items() for row in rows if (split, row[0]) not in old_places]
    return [f"{len(others)} in another split: {enumerated(others, 3)}" if others else "their order is another"]


def _rows(split: Split, classes: Sequence[str], skip: bool) -> list[list[str]]:
    digests = image_digests(split, skip_unreadable=skip)
    named = zip(split.names, split.labels, digests, strict=True)
    return [[name, classes[label], digest] for name, label, digest in named]


def _by_name(listing: Mapping[str, Sequence[Sequence[str]]]) -> dict[str, tuple[str, str]]:
    return {name: (label, digest) for rows in listing.values() for name, label, digest in rows}
