"""One pass over a split before training: every image is decoded once at most, and bad ones are named together.

Images that have been decoded before are taken from `cache`.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import Literal

import torch
from PIL import Image
from tqdm.auto import tqdm

from rlrr.data.cache import CachedImages, Recorder, cache_path, open_images
from rlrr.data.dataset import Split
from rlrr.data.decode import decode
from rlrr.data.pipeline import Preparation
from rlrr.data.rgb import LARGEST
from rlrr.data.split import enumerated
from rlrr.errors import RLRRError, counted

logger = logging.getLogger(__name__)


def prepare_split(
    split: Split,
    prepare: Callable[[Image.Image], torch.Tensor] | None,
    *,
    bad_images: Literal["error", "skip"] = "error",
    what: str = "train",
    cache_limit: int = 2 << 30,
) -> tuple[Split, CachedImages | None, tuple[str, ...]]:
    """Decode every image, keep the prepared ones, and deal with those that cannot be read.

    A split with nothing to be said about its images is kept on the disk, for all who want the same, if `prepare` is a
    `Preparation`: of another function it cannot be said what it does. Images that use less than a tenth of their 16
    bits are warned of, each time.

    Args:
        prepare: deterministic, from an image to a uint8 tensor (3, H, W) of fixed size; None to check only.
        bad_images: "error" names all of them in one error; "skip" leaves them out.
        what: the split's name; no class may be lost from "train".
        cache_limit: bytes that images may take in memory where they are not kept on the disk.

    Returns:
        The split without bad images, the prepared images as uint8 (N, 3, H, W) or None, and "name: reason" of
        each image that was skipped.

    Raises:
        RLRRError: images are bad, or skipping them leaves the split or one of its classes empty.
    """
    path = pixels = None
    if prepare:
        shape = (len(split), *prepare(Image.new("RGB", (64, 64))).shape)  # the same for every image
        path = _place(split, prepare)
        if path and (images := open_images(path, shape)):
            return split, images, ()
        if math.prod(shape) <= cache_limit:
            pixels = torch.empty(shape, dtype=torch.uint8)
    low_range: dict[int, float] = {}  # the largest value of an image, by index
    recording: AbstractContextManager[Recorder | None] = Recorder(path, shape) if path else nullcontext()
    with recording as recorder:

        def read(index: int) -> str | None:
            try:
                image = decode(split.images[index], split.names[index])
                if LARGEST in image.info:
                    low_range[index] = image.info[LARGEST]
                if prepare and (recorder or pixels is not None):
                    prepared = prepare(image)
                    if recorder:
                        recorder.put(index, prepared)
                    if pixels is not None:
                        pixels[index] = prepared
            except RLRRError as error:
                return str(error)
            except MemoryError:  # resizing the shorter side of a strip makes the longer one huge
                return f"{split.names[index]}: too long and thin to be resized"
            return None

        # Threads, since Pillow decodes without holding the interpreter's lock.
        with ThreadPool() as pool:
            passed = pool.imap(read, range(len(split)), chunksize=4)
            reasons = list(tqdm(passed, f"Reading {what}", len(split), disable=None))
        bad = tuple(reason for reason in reasons if reason)
        _warn_of_low_range(split, low_range, what)
        if not bad:
            # the name promises what it was made of, which may have changed while it was read
            kept = recorder.keep() if recorder and not low_range and path == _place(split, prepare) else None
            return split, kept or pixels, ()
    if bad_images == "error":
        raise RLRRError(
            f"{len(bad)} of the {counted(len(split), 'image')} of {what} cannot be read:\n{_listed(bad)}\n"
            "Fix or remove them, or use `bad_images` skip."
        )
    whole = counted(len(split), "image")
    logger.warning("%s: skipped %d of %s that cannot be read:\n%s", what, len(bad), whole, _listed(bad))
    good = [index for index, reason in enumerate(reasons) if not reason]
    rest = split.subset(good)
    _refuse_losses(split, rest, what)
    return rest, pixels if pixels is None else pixels[good], bad


def _place(split: Split, prepare: Callable[[Image.Image], torch.Tensor] | None) -> Path | None:
    return cache_path(split, prepare.description) if isinstance(prepare, Preparation) else None


def _listed(reasons: Sequence[str]) -> str:
    return "\n".join(f"  {reason}" for reason in reasons[:20]) + f"\n  and {len(reasons) - 20} more" * (
        len(reasons) > 20
    )


def _warn_of_low_range(split: Split, low_range: Mapping[int, float], what: str) -> None:
    if low_range:
        index, largest = max(low_range.items(), key=lambda item: item[1])
        logger.warning(
            "%s: nearly black, since less than a tenth of the range of 16 bits is used: %s, of which the largest value "
            "is %g of 65535, in %s. If 12 bits were meant, multiply the values by 16.",
            what,
            counted(len(low_range), "image"),
            largest,
            split.names[index],
        )


def _refuse_losses(split: Split, kept: Split, what: str) -> None:
    if not len(kept):
        raise RLRRError(f"No image of {what} can be read: is this the right data?")
    if what == "train" and (lost := set(split.labels) - set(kept.labels)):
        examples = [split.names[list(split.labels).index(label)] for label in sorted(lost)]
        raise RLRRError(
            f"Skipping bad images leaves {counted(len(lost), 'class', 'classes')} of train without any, "
            f"as of {enumerated(examples)}: repair or add images, or remove the classes."
        )
