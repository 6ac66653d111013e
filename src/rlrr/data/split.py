"""Data sets out of the splits a source found, with val held out of train if there is none."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from rlrr.data.dataset import ImageData, Split
from rlrr.errors import RLRRError, UsageError

_SPLIT = re.compile("(?:(train|training)|(val|valid|validation)|(test|testing))[ _-]*(?:set|split|data|images)?")


def split_meant(name: str) -> str | None:
    """Return "train", "val" or "test" if a folder's or split's name means one, as "Training", "valid" or "test_set"."""
    match = _SPLIT.fullmatch(name.casefold())
    return ("train", "val", "test")[(match.lastindex or 0) - 1] if match else None


def assemble(
    name: str,
    classes: Sequence[str],
    splits: Mapping[str, Split],
    origins: Mapping[str, str],
    *,
    val_fraction: float | None,
    seed: int,
) -> ImageData:
    """Make a data set of the splits that a source found.

    Args:
        splits: "train" and, where the source has them, "val" and "test".
        origins: where each of them was found ("folder val/").
        val_fraction: share of each class of train that becomes val if the source has none; None leaves val empty.

    Raises:
        RLRRError: train has only one class, or no class of two images to hold one out of.
    """
    train = splits["train"]
    if val_fraction is None:
        origin = "; ".join(f"{key}: from {origins[key]}" for key in splits)
        return ImageData(name, tuple(classes), train, splits.get("val", Split((), (), ())), splits.get("test"), origin)
    counts = Counter(train.labels)
    if len(counts) < 2:
        only = "".join(repr(classes[label]) for label in counts) or "none"
        raise RLRRError(f"{name} has one class only ({only}): at least two are needed to learn to tell apart.")
    found = [f"{key}: from {origins[key]}" for key in ("val", "test") if key in splits]
    if "val" in splits:
        return ImageData(name, tuple(classes), train, splits["val"], splits.get("test"), "; ".join(found))
    if max(counts.values()) == 1:
        raise RLRRError(
            f"{name} has a single image of each class, of which none can be held out to choose the epoch: add images, "
            "or a val folder or split."
        )
    train, val = hold_out(train, val_fraction, seed)
    found.insert(0, f"val: {100 * val_fraction:g} % of train, stratified, seed {seed}")
    return ImageData(name, tuple(classes), train, val, splits.get("test"), "; ".join(found))


def hold_out(split: Split, fraction: float, seed: int) -> tuple[Split, Split]:
    """Divide a split class by class; the second part gets `fraction` of each class.

    Both parts get at least one image of each class, which scikit-learn's stratified split does not promise
    for a rare class; the only image of a class stays in the first.

    Raises:
        RLRRError: `fraction` is not between 0 and 1.
    """
    if not 0 < fraction < 1:
        raise UsageError(f"val_fraction must be between 0 and 1, not {fraction}.")
    # RandomState, and not default_rng: its numbers are frozen, so that a seed names a split for ever.
    random, labels = np.random.RandomState(seed), np.asarray(split.labels)
    held = np.zeros(len(split), dtype=bool)
    for label in np.unique(labels):
        members = random.permutation(np.flatnonzero(labels == label))
        held[members[: min(max(1, round(fraction * len(members))), len(members) - 1)]] = True
    return split.subset(np.flatnonzero(~held).tolist()), split.subset(np.flatnonzero(held).tolist())


def one_form(name: str) -> str:
    """Write the name of a class in one Unicode form: Macs write some letters as two characters."""
    return unicodedata.normalize("NFC", name)


def enumerated(names: Sequence[str], most: int = 20) -> str:
    """Join names for a message, the first `most` of them."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
