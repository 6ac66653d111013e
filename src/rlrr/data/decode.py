"""Decoding: from a file or an array to an upright 8-bit RGB image. Resizing and normalising are in `pipeline`."""

from __future__ import annotations

import io
from contextlib import suppress
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from rlrr.data.rgb import to_rgb
from rlrr.errors import RLRRError

with suppress(ImportError):  # the extra `heic`
    from pillow_heif import register_heif_opener

    register_heif_opener()


Source = Path | bytes | np.ndarray | Image.Image

# Pillow names these but cannot decode them by itself: it needs a handler, Windows, or runs Ghostscript.
_NOT_DECODED = {"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"}
Image.init()
_FORMATS = [name for name in Image.ID if name not in _NOT_DECODED]
_HEIC = frozenset({".heic", ".heics", ".heif", ".heifs", ".hif"})  # images, whether they can be decoded here or not
_HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1")
EXTENSIONS = _HEIC | frozenset(  # lower case, with the dot; MPO is opened by the JPEG plugin
    extension for extension, name in Image.registered_extensions().items() if name in {*_FORMATS, "MPO"}
)


def decode(source: Source, name: str | None = None) -> Image.Image:
    """Read an image wholly, upright, as 8-bit RGB.

    EXIF orientation is applied; transparency is laid over white; of an animation or a file of many pages the
    first is taken; 16 bits are scaled to 8, and `info` says under `rgb.LARGEST` if less than a tenth of them is used.
    Float pixels are taken to be on a scale of 0 to 1, 255 or 65535, whichever is the smallest that holds them.

    An image of more than twice `PIL.Image.MAX_IMAGE_PIXELS` pixels is refused before any pixel is decoded.

    Args:
        source: a path, the bytes of a file, a uint8 array (H, W), (H, W, 3) or (H, W, 4), or a PIL image.
        name: what the error calls the image; by default its path.

    Raises:
        RLRRError: it cannot be read; the message is the name and the reason in a few words.
    """
    try:
        return _decode(source)
    except Exception as error:
        name = name or (str(source) if isinstance(source, Path) else type(source).__name__)
        raise RLRRError(f"{name}: {_reason(error, source)}") from error


def _decode(source: Source) -> Image.Image:
    match source:
        case Image.Image():
            return to_rgb(source)
        case np.ndarray():
            return _from_array(source)
        case Path():
            size = source.stat().st_size
            if not source.is_file():  # a pipe would be waited on for ever
                raise RLRRError("not a file")
        case bytes():
            size = len(source)
        case _:
            raise RLRRError(f"{type(source).__name__} is no path, bytes, array or PIL image")
    if not size:
        raise RLRRError("empty file")

    def open_image() -> Image.Image:
        return Image.open(source if isinstance(source, Path) else io.BytesIO(source), formats=_FORMATS)

    with open_image() as image:
        return to_rgb(image, open_image)


def _from_array(pixels: np.ndarray) -> Image.Image:
    if pixels.dtype != np.uint8 or not (pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] in (3, 4))):
        found = f"{pixels.dtype} of shape {pixels.shape}"
        raise RLRRError(f"an array must be uint8 of shape (H, W) or (H, W, 3), or (H, W, 4) with alpha, not {found}")
    if not pixels.size:
        raise RLRRError("it has no pixels")
    return to_rgb(Image.fromarray(pixels))


def _reason(error: Exception, source: Source) -> str:
    match error:
        case RLRRError():
            return str(error)
        case Image.DecompressionBombError() | Image.DecompressionBombWarning():  # the warning where it is an error
            return "larger than the pixel limit"
        case FileNotFoundError():
            return "no such file"
        case OSError(strerror=str(reason)):
            return reason
        case MemoryError():
            return "too large for the memory"
        case ValueError() if "MAX_TEXT" in str(error):
            return "its texts or colour profile unpack to more than Pillow's limit: save it without"
    head = _head(source)
    if head[4:8] == b"ftyp" and head[8:12] in _HEIC_BRANDS and "HEIF" not in Image.ID:
        return "HEIC, which needs the package pillow-heif: pip install 'rlrr[heic]'"
    if "truncated" in str(error).lower():
        return "truncated"
    if not isinstance(error, UnidentifiedImageError):
        return f"damaged ({error})"
    kind = next((name for name in _FORMATS if _begins(name, head)), None)
    return f"damaged, or {kind} of a kind that Pillow does not read" if kind else "not an image"


def _begins(name: str, head: bytes) -> bool:
    """Tell whether a file that begins so is of one of Pillow's formats."""
    accept = Image.OPEN[name][1]
    try:
        return accept is not None and accept(head) is True
    except Exception:  # of too few bytes
        return False


def _head(source: Source) -> bytes:
    """Read the first bytes, by which the kind of a file is told."""
    with suppress(OSError):
        if isinstance(source, Path):
            with source.open("rb") as file:
                return file.read(16)
    return source[:16] if isinstance(source, bytes) else b""
