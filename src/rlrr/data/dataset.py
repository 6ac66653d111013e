"""The form of every source of images: classes, and splits of undecoded images with labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rlrr.data.decode import Source


@dataclass(frozen=True)
class Split:
    """Images of one split, in a fixed order. Nothing is decoded here.

    Attributes:
        images: what `decode` reads, one per image.
        labels: index into the classes, one per image.
        names: what messages and reports call each image ("cat/1.jpg", "mnist/123").
    """

    images: Sequence[Source]
    labels: Sequence[int]
    names: Sequence[str]

    def __len__(self) -> int:
        return len(self.labels)

    def __add__(self, other: Split) -> Split:
        """Join two splits: the images of this one, then those of the other."""
        images = _Joined(self.images, other.images)
        return Split(images, (*self.labels, *other.labels), (*self.names, *other.names))

    def subset(self, indices: Sequence[int]) -> Split:
        """Pick images by position, in the order of `indices`; the images stay where they are."""
        indices = [int(index) for index in indices]
        return Split(_Picked(self.images, indices), _pick(self.labels, indices), _pick(self.names, indices))


@dataclass(frozen=True)
class ImageData:
    """A data set ready to be checked and prepared.

    Attributes:
        name: the folder, sample or Hub data set.
        classes: class names; a label is an index into them.
        val: empty if the source has none and none was to be held out.
        split_origin: one sentence on where each split comes from.
    """

    name: str
    classes: tuple[str, ...]
    train: Split
    val: Split
    test: Split | None
    split_origin: str

    def absent_classes(self, split: Split) -> list[str]:
        """Name the classes of which a split has no image."""
        present = set(split.labels)
        return [name for label, name in enumerate(self.classes) if label not in present]


class _Picked(Sequence[Any]):
    """A view, since the images of a Hub data set are only read when asked for."""

    def __init__(self, base: Sequence[Any], indices: Sequence[int]) -> None:
        self._base, self._indices = base, indices

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return _Picked(self._base, self._indices[index])
        return self._base[self._indices[index]]


class _Joined(Sequence[Any]):
    """One after the other, for the same reason a view."""

    def __init__(self, one: Sequence[Any], other: Sequence[Any]) -> None:
        self._one, self._other = one, other

    def __len__(self) -> int:
        return len(self._one) + len(self._other)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return _Picked(self, range(*index.indices(len(self))))
        index = range(len(self))[index]
        return self._one[index] if index < len(self._one) else self._other[index - len(self._one)]


def _pick(values: Sequence[Any], indices: Sequence[int]) -> tuple[Any, ...]:
    return tuple(values[index] for index in indices)
