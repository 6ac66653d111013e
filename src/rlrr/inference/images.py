"""The images that a caller gives, each as a source to decode: paths, folders, patterns and images in memory."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from rlrr.data import Split
from rlrr.data.decode import Source
from rlrr.data.folder import files_below, is_image
from rlrr.data.split import enumerated
from rlrr.errors import RLRRError, UsageError

TAKEN = (
    "Images are paths, folders, patterns such as 'photos/*.jpg', PIL images, uint8 arrays (H, W), (H, W, 3) or "
    "(H, W, 4), the bytes of a file, or an open file; one of them or a list"
)


def given_images(images: Any) -> Split:
    """Collect images, one or many; the labels of the split mean nothing.

    A folder stands for the images in it and below, a pattern for the files that match it, and an array (N, H, W, 3) for
    N images. An image is called by its path, or else by its position.

    Raises:
        RLRRError: a folder holds no images, or a pattern matches nothing.
        UsageError: something else than an image is given.
    """
    sources = [source for place, image in enumerate(_members(images)) for source in _sources(image, place)]
    names = [str(source) if isinstance(source, Path) else str(place) for place, source in enumerate(sources)]
    return Split(sources, [0] * len(sources), names)


def _members(images: Any) -> list[Any]:
    """List the given images; what is no collection of images is a single one, right or wrong."""
    if isinstance(images, np.ndarray):
        return list(images) if images.ndim == 4 or (images.dtype.kind in "OUS" and images.ndim == 1) else [images]
    is_single = isinstance(images, (str, bytes, bytearray, memoryview, os.PathLike, Image.Image, Tensor, Mapping))
    if is_single or hasattr(images, "read") or not isinstance(images, Iterable):
        return [images]
    return list(images)


def _sources(image: Any, place: int) -> list[Source]:
    if isinstance(image, (str, os.PathLike)):
        return [*_paths(os.fsdecode(image))]
    if isinstance(image, Image.Image):
        return [image]
    if isinstance(image, np.ndarray):
        return [_from_array(image, place)]
    if hasattr(image, "read"):
        if image.seekable():
            image.seek(0)  # as Pillow does: a buffer that was just written to stands at its end
        image = image.read()
    if isinstance(image, (bytes, bytearray, memoryview)):
        return [bytes(image)]
    found = type(image).__name__
    if isinstance(image, Tensor):
        found = "a torch tensor, whose scale and order of channels are not known (`classifier.model` takes tensors)"
    raise UsageError(f"Cannot read image {place}: it is {found}. {TAKEN}.")


def _from_array(pixels: np.ndarray, place: int) -> Image.Image:
    """Make an image of one array; a row of an image or channels first are refused, never taken for an image."""
    is_grey = pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] == 1)
    is_row = pixels.ndim == 2 and pixels.shape[1] in (3, 4)  # (W, 3), by iterating over an image
    is_colour = pixels.ndim == 3 and pixels.shape[2] in (3, 4)
    if pixels.dtype != np.uint8 or is_row or not (is_grey or is_colour) or not pixels.size:
        raise UsageError(
            f"Cannot read image {place}: it is an array of {pixels.dtype} of shape {pixels.shape}. {TAKEN}."
        )
    return Image.fromarray(np.ascontiguousarray(pixels.reshape(pixels.shape[:2]) if is_grey else pixels))


def _paths(text: str) -> list[Path]:
    """Return a file itself, the images of a folder, or the files that match a pattern, sorted."""
    if not text:
        raise UsageError(f"The path of an image is empty. {TAKEN}.")
    path = os.path.expanduser(text)
    if os.path.isdir(path):
        return _images_of(Path(path))
    if os.path.lexists(path) or not glob.has_magic(path):
        return [Path(path)]  # a file that is missing is named where it is read
    matches = sorted(glob.glob(path, recursive=True))
    if not matches:
        raise RLRRError(f"No file matches {text}.")
    found = (_images_of(Path(match), may_be_empty=True) if os.path.isdir(match) else [Path(match)] for match in matches)
    if not (files := [*dict.fromkeys(file for files in found for file in files)]):
        raise RLRRError(f"{text} matches folders without images.")
    return files


def _images_of(folder: Path, may_be_empty: bool = False) -> list[Path]:
    """List the images in a folder and below, sorted."""
    files = files_below(folder)
    images = sorted(filter(is_image, files))
    if not images and not may_be_empty:
        kinds = enumerated(sorted({file.suffix.lower() or file.name for file in files}), most=5)
        raise RLRRError(f"{folder} holds no images{f' (only {kinds} files)' if kinds else ''}.")
    return images
