"""From an image in any of Pillow's modes to 8-bit RGB, upright and on white."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import ExifTags, Image

from rlrr.errors import RLRRError

LARGEST = "largest value of 16 bits"  # in the `info` of an image that uses less than a tenth of its 16 bits
_WIDE = 65535
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_KEY_BITS = {"L;2": 2, "L;4": 4}  # raw modes that Pillow widens to 8 bits, but not their transparent value
_BITS, _PHOTOMETRIC, _PLANES, _SAMPLE_FORMAT = 258, 262, 284, 339  # tags of TIFF


def to_rgb(image: Image.Image, reopen: Callable[[], Image.Image] | None = None) -> Image.Image:
    """Turn an image into 8-bit RGB, upright, with transparency laid over white.

    Args:
        image: The image. It is loaded, and, unless `reopen` is given, not changed otherwise.
        reopen: Opens the image's file anew. Pillow keeps the high bytes of 16-bit RGB only, and a transparent colour
            is told by both; without `reopen` the high bytes decide.

    Raises:
        RLRRError: its values are on no known scale, or it has no pixels.
    """
    raw_mode, file_format, tags = _raw_mode(image), image.format, getattr(image, "tag_v2", {})  # loading forgets some
    if tags and reopen:
        turn = _TURNS.get(_orientation(image))
        if tags.get(_PLANES) == 2 and 16 in _numbers(tags.get(_BITS)):
            raw_mode = _read_16_bit_planes(image)
        image.load_end = lambda: None  # type: ignore[attr-defined] # it turns the image, and fails on odd metadata
        image = image.copy()  # of the size that the pixels have now, before the turn
    else:
        image.load()
        turn = _TURNS.get(_orientation(image))
    if not all(image.size):
        raise RLRRError("it has no pixels")
    if file_format == "FITS" and image.mode[0] == "I":
        raise RLRRError("FITS of more than 8 bits, whose offset and scale Pillow does not tell: save it as TIFF")
    if image.mode == "L" and 2 in _numbers(tags.get(_SAMPLE_FORMAT)):
        raise RLRRError("signed 8-bit values, which Pillow takes for unsigned ones")
    transparent = _transparent(image, raw_mode, reopen)
    if image.mode[0] in "IF":
        rgb, largest = _from_wide(np.asarray(image), 4095 if raw_mode == "I;12" else _WIDE, tags.get(_PHOTOMETRIC) == 0)
    else:
        rgb, largest = _on_white(image), _WIDE
        if raw_mode.endswith((";16B", ";16L", ";16N")):  # ";16" alone are 16 bits for all three colours
            largest = 257 * max(high for _, high in image.getextrema()[:3])  # type: ignore[misc]
    if transparent is not None:
        rgb.paste("white", mask=Image.fromarray(transparent))
    rgb = rgb.transpose(turn) if turn is not None else rgb
    rgb.info = {LARGEST: largest} if 0 < largest < _WIDE / 10 else {}
    return rgb


def _orientation(image: Image.Image) -> Any:
    """Read the orientation of EXIF or XMP alone: `ImageOps.exif_transpose` also writes all else, however odd."""
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation)
        hash(orientation)
    except Exception:  # no two damaged headers fail alike, and the pixels are not to blame
        return None
    return orientation


def _raw_mode(image: Image.Image) -> str:
    """Return Pillow's name for the samples as they are in the file, or "" where it is not known."""
    tiles = getattr(image, "tile", None)
    arguments = tiles[0][3] if tiles else None
    first = arguments[0] if isinstance(arguments, tuple) and arguments else arguments
    return first if isinstance(first, str) else ""


def _read_16_bit_planes(image: Any) -> str:
    """Let the samples of a TIFF that holds its colours apart be read as 16 bits, where Pillow takes them for 8."""
    width = ";16L" if image.tag_v2.prefix == b"II" else ";16B"
    image.tile = [
        tile._replace(args=(tile.args[0] + width, *tile.args[1:])) if tile.codec_name == "raw" else tile
        for tile in image.tile
    ]
    return width


def _numbers(value: Any) -> tuple[Any, ...]:
    return value if isinstance(value, tuple) else (value,)


def _transparent(image: Image.Image, raw_mode: str, reopen: Callable[[], Image.Image] | None) -> np.ndarray | None:
    """Find the pixels, bool (H, W), whose colour a file names as transparent; None if it names none.

    Pillow's own conversion compares the low byte of the named colour with pixels of 8 bits.
    """
    match image.mode, image.info.get("transparency"):
        case "1", int(key):
            return np.asarray(image) == bool(key)
        case "L", int(key):
            bits = _KEY_BITS.get(raw_mode, 8)
            return np.asarray(image) == (key % 2**bits) * 255 // (2**bits - 1)
        case (("I" | "I;16" | "I;16B" | "I;16L" | "I;16N"), int(key)):
            return np.asarray(image) == key
        case "RGB", (int(), int(), int()) as colour:
            pixels, named = np.asarray(image), np.array(colour)
            if raw_mode == "RGB;16B" and reopen:
                pixels = pixels * np.uint16(256) + _low_bytes(reopen)
            elif named.max() > 255:
                named >>= 8
            return (pixels == named).all(-1)
    return None


def _low_bytes(reopen: Callable[[], Image.Image]) -> np.ndarray:
    """Read the low byte of every 16-bit sample: the high byte, were the file's numbers the other way round."""
    with reopen() as image:
        image.tile = [tile._replace(args="RGB;16L") for tile in image.tile]  # type: ignore[attr-defined]
        return np.asarray(image)


def _on_white(image: Image.Image) -> Image.Image:
    if image.mode == "La":  # which Pillow does not turn into RGBA by itself
        image = image.convert("LA")
    if image.mode != "P" and "transparency" in image.info:  # which is dealt with, and may be of another mode
        image = image.copy()
        del image.info["transparency"]
    if image.has_transparency_data and image.mode in ("P", "PA", "LA", "RGBA", "RGBa"):
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")


def _from_wide(values: np.ndarray, scale: int, inverted: bool) -> tuple[Image.Image, float]:
    """Scale grey values of more than 8 bits, which Pillow would clip at 255, and return the largest value on 65535.

    Args:
        values: (H, W), of any type.
        scale: The largest value of whole numbers.
        inverted: Whether 0 is white.
    """
    low, high = float(values.min()), float(values.max())
    # Resizing in floats leaves a scale by a tenth at most; standardised values and NaN fit none.
    scales, over = ((1, 255, _WIDE), 0.1) if values.dtype.kind == "f" else ((scale,), 0.0)
    fitting = next((scale for scale in scales if -over * high <= low and high <= (1 + over) * scale), None)
    if fitting is None:
        raise RLRRError(f"its values run from {low:g} to {high:g}, not from 0 to {scale} at most")
    if values.dtype.kind == "f":
        grey = (values / fitting * 255).round().clip(0, 255).astype(np.uint8)
    else:  # whole numbers take half the memory of floats
        wide = values.astype(np.uint32)
        wide *= 255
        wide += fitting // 2
        wide //= fitting
        grey = wide.astype(np.uint8)
    largest = high if fitting == _WIDE else _WIDE
    return Image.fromarray(255 - grey if inverted else grey).convert("RGB"), largest
