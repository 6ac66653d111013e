"""One number that names data: two copies with the same digest train and test the same."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from functools import partial
from multiprocessing.pool import ThreadPool
from pathlib import Path

import numpy as np
from PIL import Image

from rlrr.data.dataset import Split
from rlrr.data.decode import Source
from rlrr.errors import RLRRError

UNREADABLE = "unreadable"


def data_digest(*splits: Split, skip_unreadable: bool = False) -> str:
    """Return the SHA-256, in hex, over every image's name, label and content, in order. Nothing is decoded.

    Names do not hold the folder that the data is in, so that a copy elsewhere has the same digest; a file has that of
    its bytes.

    Raises:
        RLRRError: a file cannot be read.
    """
    return digest_of(*((split, image_digests(split, skip_unreadable=skip_unreadable)) for split in splits))


def digest_of(*splits: tuple[Split, Sequence[str]]) -> str:
    """Return the digest of splits whose `image_digests` are known."""
    total = hashlib.sha256()
    for split, contents in splits:
        for name, label, content in zip(split.names, split.labels, contents, strict=True):
            total.update(json.dumps([name, int(label), content]).encode())
        total.update(b"\n")  # so that it matters where one split ends
    return total.hexdigest()


def image_digests(split: Split, *, skip_unreadable: bool = False) -> list[str]:
    """Return the SHA-256, in hex, of the content of each image. Nothing is decoded.

    Args:
        split: The images.
        skip_unreadable: Give `UNREADABLE` for a file that cannot be read.

    Raises:
        RLRRError: a file cannot be read.
    """
    with ThreadPool() as pool:  # threads, since reading and hashing let go of the interpreter's lock
        return pool.map(partial(_content, split, skip_unreadable), range(len(split)), chunksize=16)


def _content(split: Split, skip_unreadable: bool, index: int) -> str:
    try:
        return _hash(split.images[index])
    except OSError as error:
        if skip_unreadable:
            return UNREADABLE
        raise RLRRError(
            f"Cannot read {error.filename or split.names[index]}: {error.strerror or error}. Restore or remove it."
        ) from error


def _hash(image: Source) -> str:
    match image:
        case Path():
            with image.open("rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest()
        case np.ndarray():
            head: tuple[object, ...] = (image.dtype.str, image.shape)
        case Image.Image():
            head = (image.mode, image.size, image.getpalette())
        case _:
            return hashlib.sha256(image).hexdigest()
    return hashlib.sha256(json.dumps(head).encode() + image.tobytes()).hexdigest()
