"""Decoding: from a file or an array to an upright 8-bit RGB image. Resizing and normalising are in `pipeline`."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from rlrr.errors import RLRRError

Source = Path | bytes | np.ndarray | Image.Image

# Pillow names these but cannot decode them by itself: it needs a handler, Windows, or runs Ghostscript.
_NOT_DECODED = {"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"}
Image.init()
_FORMATS = [name for name in Image.ID if name not in _NOT_DECODED]
EXTENSIONS = frozenset(  # lower case, with the dot; MPO is opened by the JPEG plugin
    extension for extension, name in Image.registered_extensions().items() if name in {*_FORMATS, "MPO"}
)


def decode(source: Source, name: str | None = None) -> Image.Image:
    """Read an image wholly, upright, as 8-bit RGB.

    EXIF orientation is applied; transparency is laid over white; of an animation or a file of many pages the
    first is taken; 16 bits are scaled to 8. Float pixels are taken to be on a scale of 0 to 1, 255 or 65535,
    whichever is the smallest that holds them.

    Args:
        source: a path, the bytes of a file, a uint8 array (H, W) or (H, W, 3), or a PIL image.
        name: what the error calls the image; by default its path.

    Raises:
        RLRRError: it cannot be read; the message is the name and the reason in a few words.
    """
    try:
        return _decode(source)
    except Exception as error:
        name = name or (str(source) if isinstance(source, Path) else type(source).__name__)
        raise RLRRError(f"{name}: {_reason(error)}") from error


def _decode(source: Source) -> Image.Image:
    if isinstance(source, Image.Image):
        return _rgb(source)
    if isinstance(source, np.ndarray):
        return _from_array(source)
    if isinstance(source, Path):
        size = source.stat().st_size
        if not source.is_file():  # a pipe would be waited on for ever
            raise RLRRError("not a file")
        if not size:
            raise RLRRError("empty file")
        with Image.open(source, formats=_FORMATS) as image:
            return _rgb(image)
    if not source:
        raise RLRRError("empty file")
    with Image.open(io.BytesIO(source), formats=_FORMATS) as image:
        return _rgb(image)


def _from_array(pixels: np.ndarray) -> Image.Image:
    if pixels.dtype != np.uint8 or not (pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] == 3)):
        found = f"{pixels.dtype} of shape {pixels.shape}"
        raise RLRRError(f"an array must be uint8 of shape (H, W) or (H, W, 3), not {found}")
    return Image.fromarray(pixels).convert("RGB")


def _rgb(image: Image.Image) -> Image.Image:
    image = ImageOps.exif_transpose(image)
    if image.mode[0] in "IF":
        return _to_8_bit(np.asarray(image)).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")


def _to_8_bit(pixels: np.ndarray) -> Image.Image:
    """Scale grey values of any width; Pillow's own conversion would clip them at 255."""
    low, high = float(pixels.min()), float(pixels.max())
    # Resizing in floats leaves a scale by a tenth at most; standardised values and NaN fit none.
    scales = (1, 255, 65535) if pixels.dtype.kind == "f" else (65535,)
    scale = next((scale for scale in scales if -0.1 * high <= low and high <= 1.1 * scale), None)
    if scale is None:
        raise RLRRError(f"its values run from {low:g} to {high:g}, not from 0 to 65535 at most")
    return Image.fromarray((pixels / scale * 255).round().clip(0, 255).astype(np.uint8))


def _reason(error: Exception) -> str:
    match error:
        case RLRRError():
            return str(error)
        case UnidentifiedImageError():
            return "not an image"
        case Image.DecompressionBombError():
            return "larger than the pixel limit"
        case FileNotFoundError():
            return "no such file"
        case OSError(strerror=str(reason)):
            return reason
        case MemoryError():
            return "too large for the memory"
    return "truncated" if "truncated" in str(error).lower() else f"damaged ({error})"
