"""Decoded images on the disk: made once, then mapped into memory by every run and worker that wants the same.

A file is named by all that its content depends on, so it never needs an update. Files used longest ago make room for
new ones, and a place that cannot be written to costs a warning, not the run. What is decoded is in `check`.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
import json
import logging
import math
import os
import platform
import secrets
import sys
import threading
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO, Self

import numpy as np
import PIL
import timm
import torch
import torchvision
from PIL import Image, ImageFile, features

from rlrr.cache import FOLDER, LIMIT, cache_folder, cache_limit, make_room
from rlrr.data.dataset import Split
from rlrr.data.decode import Source, decode
from rlrr.data.digest import data_digest
from rlrr.data.rgb import to_rgb
from rlrr.errors import RLRRError

_CODECS = ("jpg", "libjpeg_turbo", "jpg_2000", "zlib", "libtiff", "webp", "avif")

logger = logging.getLogger(__name__)


class MappedImages:
    """uint8 (N, 3, H, W) in a file, read where it is looked at, and not to be written into.

    Only its path is pickled. A worker process that finds the file gone gets None, as if there had been no cache.

    Raises:
        OSError: the file is not there, or does not hold as many bytes.
    """

    def __init__(self, path: Path, shape: tuple[int, ...]) -> None:
        if path.stat().st_size != math.prod(shape):
            raise OSError(f"{path} is damaged")
        pixels = np.memmap(path, np.uint8, "r", shape=shape)
        with warnings.catch_warnings():  # torch knows no tensors that are read only, and says so
            warnings.simplefilter("ignore")
            self._pixels = torch.from_numpy(pixels)
        self._path, self.shape = path, shape

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Any) -> torch.Tensor:
        return self._pixels[index]

    def __reduce__(self) -> tuple[Any, ...]:
        return open_images, (self._path, self.shape)


CachedImages = torch.Tensor | MappedImages


def cache_path(split: Split, transform: str) -> Path | None:
    """Return the file of a split's images after a transform, whether it is there or not.

    Labels and names have no part in it.

    Args:
        transform: says all that the result depends on besides the images and the libraries.

    Returns:
        None if images are not kept (`RLRR_CACHE_GIB` is 0), cannot be read, or are PIL images, of which there are no
        bytes that say all.

    Raises:
        RLRRError: `RLRR_CACHE_GIB` is not a number of 0 or more.
    """
    if not (cache_limit() and len(split) and all(map(_has_bytes, split.images))):
        return None
    try:
        content = data_digest(Split(split.images, [0] * len(split), [""] * len(split)))
    except RLRRError:  # which will be found and named where the images are decoded
        return None
    parts = [content, transform, _libraries(), ImageFile.LOAD_TRUNCATED_IMAGES, Image.MAX_IMAGE_PIXELS]
    try:
        folder = cache_folder("images")
    except RuntimeError as error:
        _warn(f"the home folder ({error})")
        return None
    return folder / f"{hashlib.sha256(json.dumps(parts).encode()).hexdigest()}.uint8"


def open_images(path: Path, shape: tuple[int, ...]) -> MappedImages | None:
    """Map a file of the cache, or return None if it is not there, is damaged or cannot be read."""
    try:
        images = MappedImages(path, shape)
    except OSError:
        return None
    with suppress(OSError):  # the time says when it was last used; a place that is read only has none
        os.utime(path)
    return images


class Recorder:
    """Writes a file of the cache, image by image from any thread; used as a context, which leaves no half file.

    Where that fails there is one warning, and nothing is written any more.

    Args:
        path: from `cache_path`.
        shape: (N, 3, H, W).
    """

    def __init__(self, path: Path, shape: tuple[int, ...]) -> None:
        self._path, self._shape = path, shape
        self._temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
        self._lock = threading.Lock()
        self._file: BinaryIO | None = None

    def __enter__(self) -> Self:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            make_room(self._path.parent, math.prod(self._shape))
            self._file = self._temporary.open("xb")
        except OSError as error:
            self._fail(error)
        return self

    def __exit__(self, *raised: object) -> None:
        self._close()

    def put(self, index: int, image: torch.Tensor) -> None:
        """Write the image at a position, uint8 (3, H, W)."""
        data = image.numpy().tobytes()
        with self._lock:
            if self._file is None:
                return
            try:
                self._file.seek(index * len(data))
                self._file.write(data)
            except OSError as error:
                self._fail(error)

    def keep(self) -> MappedImages | None:
        """Let the file, once all images are put, become one of the cache; return it, or None if writing failed."""
        if self._file is None:
            return None
        try:
            with self._file:
                self._file.flush()
                os.fsync(self._file.fileno())  # before the rename: the name promises the whole content
            os.replace(self._temporary, self._path)
        except OSError as error:
            self._fail(error)
            return None
        return open_images(self._path, self._shape)

    def _fail(self, error: OSError) -> None:
        _warn(f"{self._path.parent} ({error.strerror})")
        self._close()

    def _close(self) -> None:
        if self._file is not None:
            with suppress(OSError):  # on a full disk
                self._file.close()
            self._file = None
        with suppress(OSError):
            self._temporary.unlink(missing_ok=True)


@functools.cache
def _warn(where: str) -> None:
    """Warn once per process, as all splits have the same trouble."""
    logger.warning(
        "Decoded images cannot be kept in %s: this run goes on without. %s names another folder, %s the most to keep "
        "(0 for none).",
        where,
        FOLDER,
        LIMIT,
    )


def _has_bytes(image: Source) -> bool:
    """Tell whether an image is wholly given by bytes: no PIL image is, and a path only if it is a file."""
    return image.is_file() if isinstance(image, Path) else not isinstance(image, Image.Image)


@functools.cache
def _libraries() -> list[Any]:
    """Describe what decoding depends on besides the images: libraries by version, our own code by its text."""
    versions = [library.__version__ for library in (PIL, timm, torchvision)]
    versions.append(getattr(sys.modules.get("pillow_heif"), "__version__", None))
    codecs = [features.version(name) for name in _CODECS]
    sources = [inspect.getsource(sys.modules[function.__module__]) for function in (decode, to_rgb)]
    return [*versions, *codecs, platform.machine(), *sources]
