"""Images that are there twice: in one split, in two splits, or under two labels. Contents are compared, not decoded."""

from __future__ import annotations

import logging
from collections import Counter
from typing import Any

from rlrr.data.dataset import Split
from rlrr.data.digest import UNREADABLE, image_digests
from rlrr.errors import counted

logger = logging.getLogger(__name__)


class Duplicates:
    """The images of a data set that are there twice, byte for byte. The same picture in another file is not found.

    Attributes:
        found: One dict for each kind and place, as JSON has it: `kind` ("within" one split, "between" two, or under two
            "labels"), `splits`, the number of `images` in the last of these that are in the first too, and an
            `example`, the names of two such images.
    """

    def __init__(self) -> None:
        self.found: list[dict[str, Any]] = []
        self._first: dict[str, dict[tuple[str, int], str]] = {}  # by digest: an image's name by split and label

    def add(self, name: str, split: Split) -> None:
        """Compare the images of a split with each other and with all that were added before, and warn of duplicates."""
        counts: Counter[tuple[str, tuple[str, ...]]] = Counter()
        examples: dict[tuple[str, tuple[str, ...]], list[str]] = {}
        digests = image_digests(split, skip_unreadable=True)
        for digest, label, image in zip(digests, split.labels, split.names, strict=True):
            if digest == UNREADABLE:  # which is said elsewhere
                continue
            earlier = self._first.setdefault(digest, {})
            same: dict[tuple[str, tuple[str, ...]], str] = {}
            for (other_split, other_label), other in earlier.items():
                same.setdefault(("within", (name,)) if other_split == name else ("between", (other_split, name)), other)
                if other_label != label:
                    same.setdefault(("labels", tuple(dict.fromkeys((other_split, name)))), other)
            counts.update(same.keys())
            for key, other in same.items():
                examples.setdefault(key, [other, image])
            earlier.setdefault((name, label), image)
        for (kind, splits), number in counts.items():
            finding = {"kind": kind, "splits": list(splits), "images": number, "example": examples[kind, splits]}
            self.found.append(finding)
            logger.warning("%s", _sentence(finding, len(split)))


def _sentence(finding: dict[str, Any], total: int) -> str:
    first, last, number = finding["splits"][0], finding["splits"][-1], finding["images"]
    where = {
        "within": f"twice in {last}",
        "between": f"also in {first}",
        "labels": "under two labels" if first == last else f"under another label in {first}",
    }[finding["kind"]]
    other, image = finding["example"]
    duplicates = f"{number} of {counted(total, 'image')} of {last} {'is' if number == 1 else 'are'} {where}"
    return f"{duplicates}: {image} is the same image as {other}, byte for byte."
