"""One pass over a split before training: every image is read once, and bad ones are named together."""

from __future__ import annotations

import logging
from collections.abc import Callable
from multiprocessing.pool import ThreadPool
from typing import Literal

import torch
from PIL import Image
from tqdm import tqdm

from rlrr.data.dataset import Split
from rlrr.data.decode import decode
from rlrr.errors import RLRRError

logger = logging.getLogger(__name__)


def prepare_split(
    split: Split,
    prepare: Callable[[Image.Image], torch.Tensor] | None,
    *,
    bad_images: Literal["error", "skip"] = "error",
    what: str = "train",
    cache_limit: int = 2 << 30,
) -> tuple[Split, torch.Tensor | None, tuple[str, ...]]:
    """Decode every image, keep the prepared ones if they fit, and deal with those that cannot be read.

    Args:
        prepare: deterministic, from an image to a uint8 tensor (3, H, W) of fixed size; None to check only.
        bad_images: "error" names all of them in one error; "skip" leaves them out.
        what: the split's name; no class may be lost from "train".
        cache_limit: bytes that the cache may take.

    Returns:
        The split without bad images, the prepared images as uint8 (N, 3, H, W) or None, and "name: reason" of
        each image that was skipped.

    Raises:
        RLRRError: images are bad, or skipping them leaves the split or one of its classes empty.
    """
    cache = _empty_cache(len(split), prepare, cache_limit)

    def read(index: int) -> str | None:
        try:
            image = decode(split.images[index], split.names[index])
            if cache is not None and prepare is not None:
                cache[index] = prepare(image)
        except RLRRError as error:
            return str(error)
        except MemoryError:  # resizing the shorter side of a strip makes the longer one huge
            return f"{split.names[index]}: too long and thin to be resized"
        return None

    # Threads, since Pillow decodes without holding the interpreter's lock.
    with ThreadPool() as pool:
        progress = tqdm(pool.imap(read, range(len(split)), chunksize=4), f"Reading {what}", len(split), disable=None)
        reasons = list(progress)
    bad = tuple(reason for reason in reasons if reason)
    if not bad:
        return split, cache, ()
    if bad_images == "error":
        lines = "\n".join(f"  {reason}" for reason in bad[:20]) + (f"\n  and {len(bad) - 20} more" * (len(bad) > 20))
        raise RLRRError(
            f"{len(bad)} of the {len(split)} images of {what} cannot be read:\n{lines}\n"
            "Fix or remove them, or use --bad-images skip."
        )
    logger.warning("%s: skipped %d of %d images that cannot be read", what, len(bad), len(split))
    good = [index for index, reason in enumerate(reasons) if not reason]
    kept = split.subset(good)
    _refuse_losses(split, kept, what)
    return kept, cache if cache is None else cache[good], bad


def _empty_cache(count: int, prepare: Callable[[Image.Image], torch.Tensor] | None, limit: int) -> torch.Tensor | None:
    if prepare is None:
        return None
    size = prepare(Image.new("RGB", (64, 64))).shape  # the same for every image
    return torch.empty((count, *size), dtype=torch.uint8) if count * size.numel() <= limit else None


def _refuse_losses(split: Split, kept: Split, what: str) -> None:
    if not len(kept):
        raise RLRRError(f"None of the {len(split)} images of {what} can be read: is this the right data?")
    if what == "train" and (lost := set(split.labels) - set(kept.labels)):
        examples = [split.names[list(split.labels).index(label)] for label in sorted(lost)]
        raise RLRRError(
            f"Skipping bad images leaves {len(lost)} classes of train without any, "
            f"those of {', '.join(examples)}: repair or add images, or remove the classes."
        )
