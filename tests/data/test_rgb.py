"""Every mode of Pillow on every scale, held against values worked out by hand."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image
from tests.data.files import GREY, GREY_ALPHA, RGB, RGBA, Entry, exif, png, tiff

from rlrr.data.decode import decode
from rlrr.data.rgb import LARGEST
from rlrr.errors import RLRRError

WHITE = [255, 255, 255]


def pixels(source: bytes | Image.Image) -> list[list[int]]:
    """Decode an image one pixel high."""
    return np.asarray(decode(source))[0].tolist()


def saved(image: Image.Image, file_format: str, **options: object) -> bytes:
    image.save(buffer := io.BytesIO(), file_format, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
@pytest.mark.parametrize("key", ["least", "middle", "most"])
def test_the_transparent_value_of_a_grey_png_is_white_at_every_depth(bits: int, key: str) -> None:
    most = 2**bits - 1
    named = {"least": 0, "middle": most // 2, "most": most}[key]
    values = [0, most // 2, most, max(most // 2 - 1, 0)]
    expected = [255 if value == named else round(value * 255 / most) for value in values]
    assert [pixel[0] for pixel in pixels(png(bits, GREY, values, [named]))] == expected


def test_a_transparent_value_names_no_neighbour_and_no_value_of_the_same_low_byte() -> None:
    values = [40000, 40001, 39999, 64, 0]  # 40000 is 156 * 256 + 64
    assert pixels(png(16, GREY, values, [40000])) == [WHITE, [156] * 3, [156] * 3, [0] * 3, [0] * 3]


@pytest.mark.parametrize("bits", [8, 16])
def test_the_transparent_colour_of_an_rgb_png_is_white_and_no_other(bits: int) -> None:
    key = [value << (bits - 8) | 3 for value in (16, 32, 64)]
    near = [*key[:2], key[2] + 1]
    found = pixels(png(bits, RGB, [*key, *near, *reversed(key)], key))
    assert found[0] == WHITE
    assert all(value <= 68 for pixel in found[1:] for value in pixel)


def test_the_low_bytes_of_a_16_bit_colour_name_no_8_bit_one() -> None:
    assert pixels(png(16, RGB, [64 * 256] * 3, [40000] * 3)) == [[64] * 3]


@pytest.mark.parametrize("loaded", [False, True])
def test_a_16_bit_transparent_colour_of_a_pil_image_is_told_by_its_high_bytes(loaded: bool) -> None:
    image = Image.open(io.BytesIO(png(16, RGB, [40000] * 3 + [64 * 256] * 3, [40000] * 3)))
    if loaded:
        image.load()
    assert pixels(image) == [WHITE, [64] * 3]


def _alpha(mode: str, clear: bytes, half: bytes) -> Image.Image:
    return Image.frombytes(mode, (2, 1), clear + half)


@pytest.mark.parametrize(
    ("image", "half"),
    [
        (_alpha("LA", bytes([0, 0]), bytes([0, 128])), 127),
        (_alpha("La", bytes([0, 0]), bytes([64, 128])), 191),
        (_alpha("RGBA", bytes(4), bytes([0, 0, 0, 128])), 127),
        (_alpha("RGBa", bytes(4), bytes([64, 64, 64, 128])), 191),
    ],
    ids=["LA", "La", "RGBA", "RGBa"],
)
def test_every_alpha_is_laid_over_white(image: Image.Image, half: int) -> None:
    found = pixels(image)
    assert found[0] == WHITE
    assert abs(found[1][0] - half) <= 1


def test_a_palette_with_its_own_alpha_is_laid_over_white() -> None:
    image = Image.frombytes("PA", (2, 1), bytes([1, 0, 1, 255]))
    image.putpalette([0, 0, 0, 9, 8, 7])
    assert pixels(image) == [WHITE, [9, 8, 7]]


@pytest.mark.parametrize("file_format", ["PNG", "GIF"])
@pytest.mark.parametrize("key", [0, 1, 200])
def test_the_transparent_entry_of_a_palette_is_white(file_format: str, key: int) -> None:
    image = Image.frombytes("P", (3, 1), bytes([0, 1, 2]))
    image.putpalette(bytes(range(256)) * 3)
    found = pixels(saved(image, file_format, transparency=key))
    assert [pixel == WHITE for pixel in found] == [index == key for index in range(3)]


def test_each_entry_of_a_palette_may_have_its_own_alpha() -> None:
    image = Image.frombytes("P", (3, 1), bytes([0, 1, 2]))
    image.putpalette(bytes(9))
    assert [pixel[0] for pixel in pixels(saved(image, "PNG", transparency=bytes([0, 128, 255])))] == [255, 127, 0]


@pytest.mark.parametrize("stale", [b"\0", "red", (1, 2), -1, None], ids=str)
@pytest.mark.parametrize("mode", ["RGB", "L", "I;16", "CMYK", "YCbCr"])
def test_a_transparency_that_does_not_fit_the_mode_is_ignored(mode: str, stale: object) -> None:
    image = Image.new(mode, (1, 1))
    expected = pixels(image)
    image.info["transparency"] = stale
    assert pixels(image) == expected


@pytest.mark.parametrize(
    ("mode", "value", "expected"),
    [
        ("1", 1, WHITE),
        ("L", 9, [9] * 3),
        ("P", 9, [9] * 3),
        ("RGBX", (1, 2, 3, 0), [1, 2, 3]),
        ("CMYK", (0, 255, 255, 0), [255, 0, 0]),
        ("YCbCr", (76, 85, 255), [254, 0, 0]),
        ("HSV", (0, 255, 255), [255, 0, 0]),
        ("LAB", (255, 0, 0), WHITE),
        ("I;16", 257 * 9, [9] * 3),
        ("I;16B", 257 * 9, [9] * 3),
        ("I;16L", 257 * 9, [9] * 3),
        ("I", 257 * 9, [9] * 3),
        ("F", 9.0, [9] * 3),
    ],
)
def test_every_mode_gives_its_colour(mode: str, value: object, expected: list[int]) -> None:
    image = Image.new(mode, (2, 3), value)  # type: ignore[arg-type]
    if mode == "P":
        image.putpalette(bytes(index for index in range(256) for _ in range(3)))
    if mode == "LAB":
        image = Image.frombytes("LAB", (2, 3), bytes([255, 0, 0]) * 6)
    assert np.abs(np.subtract(pixels(image)[0], expected)).max() <= 2


VALUES = np.array([[0, 257], [32896, 65535]], np.uint16)
AS_8_BITS = [[0, 1], [128, 255]]


def short(number: int) -> bytes:
    return struct.pack("<H", number)


@pytest.mark.parametrize("inverted", [False, True])
def test_16_bit_grey_of_tiff_is_right_whichever_end_is_white(inverted: bool) -> None:
    found = np.asarray(decode(tiff(2, (16,), VALUES.tobytes(), photometric=0 if inverted else 1)))[..., 0]
    assert found.tolist() == (255 - np.array(AS_8_BITS)).tolist() if inverted else AS_8_BITS


def test_12_bits_that_a_tiff_says_it_has_are_its_whole_scale() -> None:
    packed = bytes([0x00, 0x0F, 0xFF, 0x80, 0x04, 0x00])  # 0, 4095, 2048, 1024
    image = decode(tiff(4, (12,), packed))
    assert np.asarray(image)[0, :, 0].tolist() == [0, 255, 128, 64]
    assert LARGEST not in image.info


@pytest.mark.parametrize("apart", [False, True], ids=["together", "apart"])
@pytest.mark.parametrize("order", ["<", ">"])
def test_16_bit_colours_of_tiff_are_right_together_and_apart(apart: bool, order: str) -> None:
    colours = np.stack([VALUES, VALUES.T, VALUES], 0 if apart else -1)
    options = {"photometric": "rgb", "planarconfig": "separate" if apart else "contig", "byteorder": order}
    pytest.importorskip("tifffile").imwrite(buffer := io.BytesIO(), colours, **options)
    found = np.asarray(decode(buffer.getvalue()))
    assert found[..., 0].tolist() == [[0, 1], [128, 255]]
    assert found[..., 1].tolist() == [[0, 128], [1, 255]]


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        (tiff(2, (8,), bytes([1, 255]), (339, 3, 1, short(2))), "signed 8-bit"),
        (tiff(2, (16,), np.array([-1, 5], np.int16).tobytes(), (339, 3, 1, short(2))), "run from -1 to 5"),
        (tiff(1, (64,), bytes(8), (339, 3, 1, short(3))), "TIFF of a kind that Pillow does not read"),
        (tiff(1, (32,) * 3, bytes(12), (339, 3, 1, short(3)), photometric=2), "TIFF of a kind that Pillow does not"),
        (tiff(1, (16, 16), bytes(4), (338, 3, 1, short(2))), "TIFF of a kind that Pillow does not read"),
    ],
    ids=["int8", "int16", "float64", "float RGB", "16-bit grey with alpha"],
)
def test_what_pillow_reads_wrongly_or_not_at_all_is_refused_by_name(image: bytes, reason: str) -> None:
    with pytest.raises(RLRRError, match=rf"^x\.tif: .*{reason}"):
        decode(image, "x.tif")


def _fits(bits: int, values: np.ndarray) -> bytes:
    cards = [f"SIMPLE  = {'T':>20}", f"BITPIX  = {bits:20}", f"NAXIS   = {2:20}"]
    cards += [f"NAXIS1  = {values.shape[1]:20}", f"NAXIS2  = {values.shape[0]:20}", "END"]
    data = values.tobytes()
    return "".join(card.ljust(80) for card in cards).ljust(2880).encode() + data.ljust(2880, b"\0")


def test_fits_with_an_offset_that_pillow_does_not_read_is_refused() -> None:
    assert decode(_fits(8, np.full((2, 2), 9, np.uint8))).getpixel((0, 0)) == (9, 9, 9)
    with pytest.raises(RLRRError, match="FITS of more than 8 bits"):
        decode(_fits(16, np.full((2, 2), 9, ">i2")))


@pytest.mark.parametrize(
    "image",
    [
        png(16, GREY, [4095, 0]),
        png(16, RGB, [4095, 0, 0]),
        png(16, RGBA, [0, 4095, 0, 65535]),
        png(16, GREY_ALPHA, [4095, 65535]),
        saved(Image.fromarray(np.array([[4095]], np.uint16)), "TIFF"),
        saved(Image.fromarray(np.array([[4095]], np.int32)), "TIFF"),
        saved(Image.fromarray(np.array([[4095]], np.float32)), "TIFF"),
    ],
    ids=["grey", "RGB", "RGBA", "grey with alpha", "TIFF", "32-bit TIFF", "float TIFF"],
)
def test_less_than_a_tenth_of_16_bits_is_noted(image: bytes) -> None:
    assert 3840 <= decode(image).info[LARGEST] <= 4095


@pytest.mark.parametrize(
    "image",
    [
        png(16, GREY, [7000, 0]),
        png(16, GREY, [0, 0]),
        png(16, RGB, [9000, 0, 0]),
        png(8, GREY, [3]),
        png(8, RGB, [3, 3, 3]),
        saved(Image.fromarray(np.array([[0.01]], np.float32)), "TIFF"),
        saved(Image.new("RGB", (1, 1), (3, 3, 3)), "BMP"),
    ],
    ids=["above a tenth", "black", "RGB", "8-bit grey", "8-bit RGB", "0 to 1", "BMP"],
)
def test_other_dark_images_are_not_noted(image: bytes) -> None:
    assert LARGEST not in decode(image).info


SIDEWAYS: Entry = (0x112, 3, 1, short(6))
ODD: dict[str, Entry] = {
    "negative offset of EXIF": (0x8769, 9, 1, struct.pack("<l", -5)),
    "offset of EXIF behind the end": (0x8769, 4, 1, struct.pack("<L", 2**32 - 1)),
    "offset of EXIF is a float": (0x8769, 11, 1, struct.pack("<f", 5.5)),
    "EXIF within itself": (0x8769, 4, 1, struct.pack("<L", 8)),
    "negative offset of GPS": (0x8825, 9, 1, struct.pack("<l", -5)),
    "negative width": (0x100, 8, 1, struct.pack("<h", -3)),
    "negative height": (0x101, 9, 1, struct.pack("<l", -7)),
    "NaN": (0x11A, 11, 1, struct.pack("<f", float("nan"))),
    "infinity": (0x11A, 11, 1, struct.pack("<f", float("inf"))),
    "rational of zeros": (0x11A, 5, 1, struct.pack("<L", 200)),
    "signed byte": (0x11A, 6, 1, b"\xff"),
    "unknown type": (0x11A, 99, 1, b"\1"),
    "offsets of strips": (0x111, 4, 1, struct.pack("<L", 2**32 - 1)),
    "floats for folders": (0x14A, 11, 1, struct.pack("<f", 1.5)),
    "text of no alphabet": (0x10E, 2, 4, b"\xff\xfe\xfd\0"),
    "more values than the file holds": (0x9000, 4, 0xFFFFFF, bytes(4)),
}


def _half_black() -> Image.Image:
    image = Image.new("RGB", (32, 16), "white")
    image.paste("black", (0, 0, 16, 16))  # the left half, which is the upper one once turned
    return image


def _in_tiff(*entries: Entry) -> bytes:
    kept = [entry for entry in entries if entry[0] not in (0x100, 0x101, 0x111)]  # without which there is no image
    return tiff(32, (8,), np.asarray(_half_black().convert("L")).tobytes(), *kept)


Writer = Callable[..., bytes]
WRITERS: dict[str, Writer] = {
    **{
        name: lambda *entries, name=name: saved(_half_black(), name, exif=b"Exif\0\0" + exif(*entries))
        for name in ("JPEG", "PNG", "WEBP")
    },
    "TIFF": _in_tiff,
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
@pytest.mark.parametrize("entry", ODD.values(), ids=ODD)
def test_odd_metadata_beside_the_orientation_cost_neither_the_image_nor_its_turn(write: Writer, entry: Entry) -> None:
    turned = decode(write(SIDEWAYS, entry))
    assert turned.size == (16, 32)
    assert turned.getpixel((8, 2)) < (60, 60, 60)
    assert turned.getpixel((8, 30)) > (200, 200, 200)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
@pytest.mark.parametrize(
    "entry",
    [
        (0x112, 3, 1, short(0)),
        (0x112, 3, 1, short(9)),
        (0x112, 3, 1, short(65535)),
        (0x112, 2, 2, b"6\0"),
        (0x112, 9, 1, struct.pack("<l", -1)),
        (0x112, 11, 1, struct.pack("<f", float("nan"))),
        (0x112, 5, 1, struct.pack("<L", 4000)),
        (0x112, 3, 0, b""),
    ],
    ids=["0", "9", "65535", "text", "negative", "NaN", "behind the end", "none"],
)
def test_an_orientation_that_is_none_leaves_the_image_as_it_is(write: Writer, entry: Entry) -> None:
    assert decode(write(entry)).size == (32, 16)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("packed", [False, True])
def test_every_orientation_of_tiff_is_turned_upright(orientation: int, bits: int, packed: bool) -> None:
    values = (np.arange(6).reshape(2, 3) * (257 * 40 if bits == 16 else 40)).astype(f"<u{bits // 8}")
    file = tiff(3, (bits,), values.tobytes(), (274, 3, 1, short(orientation)))
    if packed:
        tags = {274: orientation}
        file = saved(Image.fromarray(values), "TIFF", compression="tiff_deflate", tiffinfo=tags)
    eight = (np.arange(6).reshape(2, 3) * 40).astype(np.uint8)
    upright = {
        1: eight,
        2: eight[:, ::-1],
        3: eight[::-1, ::-1],
        4: eight[::-1],
        5: eight.T,
        6: np.rot90(eight, -1),
        7: np.rot90(eight.T, 2),
        8: np.rot90(eight),
    }[orientation]
    assert np.asarray(decode(file))[..., 0].tolist() == upright.tolist()


def test_a_pil_image_is_left_as_it_is() -> None:
    file = tiff(3, (8,), bytes(range(6)), (274, 3, 1, short(6)))
    image, other = Image.open(io.BytesIO(file)), Image.open(io.BytesIO(file))
    assert decode(image).size == (2, 3)
    other.load()
    assert (image.size, image.mode, image.tobytes()) == (other.size, other.mode, other.tobytes())
    assert decode(image).size == (2, 3)
    assert "load_end" not in vars(image)


@pytest.mark.parametrize("size", [(0, 3), (3, 0)])
def test_an_image_without_pixels_is_refused(size: tuple[int, int]) -> None:
    with pytest.raises(RLRRError, match="no pixels"):
        decode(Image.new("RGB", size))
    with pytest.raises(RLRRError, match="no pixels"):
        decode(np.zeros((*size, 3), np.uint8))
