from __future__ import annotations

import os
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFile
from tests.data.files import GREY, chunk, png

from rlrr.data.decode import EXTENSIONS, decode
from rlrr.errors import RLRRError

RED, WHITE = (255, 0, 0), (255, 255, 255)


def pixel(image: Image.Image, at: tuple[int, int] = (0, 0)) -> tuple[int, ...]:
    assert image.mode == "RGB"
    return image.getpixel(at)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_an_image_taken_sideways_is_turned_upright(tmp_path: Path, format: str) -> None:
    image = Image.new("RGB", (32, 16), "white")
    image.paste("black", (0, 0, 8, 16))  # the left edge of the sensor, the top edge once turned
    exif = Image.Exif()
    exif[274] = 6
    path = tmp_path / f"turned.{format.lower()}"
    image.save(path, exif=exif)
    turned = decode(path)
    assert turned.size == (16, 32)
    assert sum(pixel(turned, (8, 2))) < 60
    assert sum(pixel(turned, (8, 30))) > 700


@pytest.mark.parametrize("exif", [b"garbagegarbage", b"MM\0*\0\0\0\x08\0\x05garbage"])
@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_broken_exif_does_not_cost_the_image(tmp_path: Path, exif: bytes) -> None:
    Image.new("RGB", (6, 4), RED).save(tmp_path / "a.jpg", exif=b"Exif\0\0" + exif)
    assert decode(tmp_path / "a.jpg").size == (6, 4)


@pytest.mark.parametrize("extension", ["jpg", "tif"])
def test_cmyk_keeps_its_colours(tmp_path: Path, extension: str) -> None:
    image = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
    image.save(tmp_path / f"a.{extension}")
    found = pixel(decode(tmp_path / f"a.{extension}"))
    assert np.abs(np.subtract(found, RED)).max() < 8


VALUES = np.array([[0, 257], [32896, 65535]])


@pytest.mark.parametrize("extension", ["png", "tif", "pgm"])
def test_16_bit_grey_is_scaled_and_not_clipped(tmp_path: Path, extension: str) -> None:
    path = tmp_path / f"a.{extension}"
    Image.fromarray(VALUES.astype(np.uint16)).save(path)
    assert np.asarray(decode(path))[..., 1].tolist() == [[0, 1], [128, 255]]


def test_big_endian_16_bit_grey_is_read_as_such(tmp_path: Path) -> None:
    Image.frombytes("I;16B", (2, 2), VALUES.astype(">u2").tobytes()).save(tmp_path / "a.tif")
    assert np.asarray(decode(tmp_path / "a.tif"))[..., 0].tolist() == [[0, 1], [128, 255]]


def test_dark_16_bit_images_stay_dark(tmp_path: Path) -> None:
    Image.fromarray(np.full((2, 2), 257 * 9, np.uint16)).save(tmp_path / "a.png")
    assert pixel(decode(tmp_path / "a.png")) == (9, 9, 9)


def test_32_bit_integers_in_16_bit_range_are_scaled(tmp_path: Path) -> None:
    Image.fromarray(VALUES.astype(np.int32)).save(tmp_path / "a.tif")
    assert np.asarray(decode(tmp_path / "a.tif"))[..., 2].tolist() == [[0, 1], [128, 255]]


@pytest.mark.parametrize("scale", [1, 255, 65535])
@pytest.mark.parametrize("over", [0.0, 0.03])
def test_float_pixels_are_taken_on_the_scale_that_holds_them(tmp_path: Path, scale: int, over: float) -> None:
    values = np.array([[-over, 0.25], [0.5, 1 + over]]) * scale
    Image.fromarray(values.astype(np.float32)).save(tmp_path / "a.tif")
    assert np.asarray(decode(tmp_path / "a.tif"))[..., 0].tolist() == [[0, 64], [128, 255]]


@pytest.mark.parametrize("value", [1e6, -300.0, -0.5, np.nan, np.inf])
def test_float_pixels_on_no_known_scale_are_refused(tmp_path: Path, value: float) -> None:
    Image.fromarray(np.array([[0, value]], np.float32)).save(tmp_path / "a.tif")
    with pytest.raises(RLRRError, match=r"a\.tif: its values run from"):
        decode(tmp_path / "a.tif")


def test_a_palette_becomes_its_colours(tmp_path: Path) -> None:
    Image.new("RGB", (4, 4), RED).convert("P", palette=Image.Palette.ADAPTIVE).save(tmp_path / "a.png")
    assert Image.open(tmp_path / "a.png").mode == "P"
    assert pixel(decode(tmp_path / "a.png")) == RED


def _palette_with_a_hole() -> Image.Image:
    image = Image.new("P", (2, 1), 0)
    image.putpalette([0, 0, 0, *RED])
    image.putpixel((1, 0), 1)
    image.info["transparency"] = 0
    return image


def _two(mode: str, clear: tuple[int, ...], solid: tuple[int, ...]) -> Image.Image:
    image = Image.new(mode, (2, 1), clear)
    image.putpixel((1, 0), solid)
    return image


@pytest.mark.parametrize(
    ("image", "solid"),
    [
        (_palette_with_a_hole(), RED),
        (_two("RGBA", (0, 0, 0, 0), (*RED, 255)), RED),
        (_two("LA", (0, 0), (7, 255)), (7, 7, 7)),
    ],
    ids=["palette", "RGBA", "LA"],
)
def test_transparency_is_laid_over_white(tmp_path: Path, image: Image.Image, solid: tuple[int, ...]) -> None:
    image.save(tmp_path / "a.png", **image.info)
    read = decode(tmp_path / "a.png")
    assert (pixel(read), pixel(read, (1, 0))) == (WHITE, solid)


@pytest.mark.parametrize(("mode", "key"), [("RGB", (0, 0, 0)), ("L", 0)])
def test_a_transparent_key_colour_is_laid_over_white(tmp_path: Path, mode: str, key: object) -> None:
    Image.new(mode, (2, 2)).save(tmp_path / "a.png", transparency=key)
    assert pixel(decode(tmp_path / "a.png")) == WHITE


def test_half_transparent_pixels_are_mixed_with_white(tmp_path: Path) -> None:
    Image.new("RGBA", (2, 2), (*RED, 128)).save(tmp_path / "a.png")
    assert pixel(decode(tmp_path / "a.png")) == (255, 127, 127)


def test_one_bit_becomes_black_and_white(tmp_path: Path) -> None:
    _two("1", 0, 1).save(tmp_path / "a.png")  # type: ignore[arg-type]
    read = decode(tmp_path / "a.png")
    assert (pixel(read), pixel(read, (1, 0))) == ((0, 0, 0), WHITE)


@pytest.mark.parametrize("name", ["a.gif", "a.png", "a.webp", "a.tif"])
def test_the_first_of_many_frames_or_pages_is_taken(tmp_path: Path, name: str) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in (RED, "blue", "green")]
    frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:], lossless=True)
    assert Image.open(tmp_path / name).n_frames == 3
    assert pixel(decode(tmp_path / name)) == RED


@pytest.mark.parametrize("shape", [(5, 4), (5, 4, 3)])
def test_uint8_arrays_are_images(shape: tuple[int, ...]) -> None:
    array = np.arange(np.prod(shape), dtype=np.uint8).reshape(shape)
    read = np.asarray(decode(array))
    assert np.array_equal(read, array if len(shape) == 3 else np.repeat(array[..., None], 3, 2))


def test_an_array_with_alpha_is_laid_over_white() -> None:
    array = np.array([[[255, 0, 0, 255], [255, 0, 0, 0]]], np.uint8)
    assert np.asarray(decode(array)).tolist() == [[[255, 0, 0], [255, 255, 255]]]


@pytest.mark.parametrize("array", [np.zeros((5, 4)), np.zeros((3, 5, 2), np.uint8), np.zeros(5, np.uint8)])
def test_other_arrays_are_refused(array: np.ndarray) -> None:
    with pytest.raises(RLRRError, match=r"must be uint8 of shape \(H, W\) or \(H, W, 3\)"):
        decode(array)


def test_bytes_and_pil_images_are_read_too(tmp_path: Path) -> None:
    Image.new("L", (3, 2), 9).save(tmp_path / "a.png")
    from_bytes, from_pil = decode((tmp_path / "a.png").read_bytes()), decode(Image.open(tmp_path / "a.png"))
    assert pixel(from_bytes) == pixel(from_pil) == (9, 9, 9)


def noise(path: Path) -> bytes:
    Image.fromarray(np.random.RandomState(0).randint(0, 255, (64, 64, 3), dtype=np.uint8)).save(path)
    return path.read_bytes()


@pytest.mark.parametrize("extension", ["jpg", "png", "gif", "bmp", "tif"])
def test_a_truncated_file_is_named(tmp_path: Path, extension: str) -> None:
    path = tmp_path / f"half.{extension}"
    path.write_bytes(noise(path)[:3000])
    with pytest.raises(RLRRError) as error:
        decode(path)
    assert str(error.value) == f"{path}: truncated"


@pytest.mark.parametrize("extension", ["webp", "jp2"])
def test_a_damaged_file_is_named(tmp_path: Path, extension: str) -> None:
    path = tmp_path / f"half.{extension}"
    path.write_bytes(noise(path)[:3000])
    with pytest.raises(RLRRError, match=r"half\.\w+: damaged \(.+\)$"):
        decode(path)


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"", "empty file"), (b"only text\n" * 40, "not an image"), (b"%PDF-1.7", "not an image")],
)
def test_a_file_that_is_no_image_is_named(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "ein Bild, 猫.jpg"
    path.write_bytes(content)
    with pytest.raises(RLRRError) as error:
        decode(path)
    assert str(error.value) == f"{path}: {reason}"
    with pytest.raises(RLRRError) as error:
        decode(content, "number 7")
    assert str(error.value) == f"number 7: {reason}"


def test_postscript_is_not_handed_to_another_program(tmp_path: Path) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "a.eps")
    (tmp_path / "a.eps").rename(tmp_path / "a.png")
    with pytest.raises(RLRRError, match="not an image"):
        decode(tmp_path / "a.png")
    assert ".eps" not in EXTENSIONS


def test_a_decompression_bomb_is_not_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    noise(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(RLRRError, match=r"a\.png: larger than the pixel limit$"):
        decode(tmp_path / "a.png")


def test_a_missing_file_a_broken_link_and_a_folder_are_named(tmp_path: Path) -> None:
    (tmp_path / "link.png").symlink_to(tmp_path / "nowhere.png")
    (tmp_path / "folder.png").mkdir()
    for name, reason in [
        ("gone.png", "no such file"),
        ("link.png", "no such file"),
        ("folder.png", "not a file"),
    ]:
        with pytest.raises(RLRRError, match=f"{name}: {reason}$"):
            decode(tmp_path / name)


@pytest.mark.parametrize("source", [None, 5, "a.png", [0]])
def test_what_is_no_image_at_all_is_named(source: object) -> None:
    with pytest.raises(RLRRError, match=f"picture: {type(source).__name__} is no path, bytes, array or PIL image"):
        decode(source, "picture")  # type: ignore[arg-type]


@pytest.mark.parametrize("head", [b"\x89PNG\r\n\x1a\n", b"II*\0\xff\xff\xff\0", b"GIF89a"], ids=["PNG", "TIFF", "GIF"])
def test_a_file_that_begins_as_an_image_is_no_stranger(head: bytes, request: pytest.FixtureRequest) -> None:
    kind = request.node.callspec.id
    with pytest.raises(RLRRError, match=f"x: damaged, or {kind} of a kind that Pillow does not read"):
        decode(head, "x")


HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(64)


@pytest.mark.skipif("HEIF" in Image.ID, reason="pillow-heif is installed")
@pytest.mark.parametrize("name", ["phone.heic", "phone.jpg"])
@pytest.mark.parametrize("brand", [b"heic", b"heix", b"mif1", b"msf1", b"hevc"])
def test_heic_names_the_package_that_it_needs(tmp_path: Path, name: str, brand: bytes) -> None:
    (tmp_path / name).write_bytes(HEIC.replace(b"heic", brand))
    with pytest.raises(RLRRError, match=rf"{name}: HEIC, which needs .* pip install 'rlrr\[heic\]'"):
        decode(tmp_path / name)


@pytest.mark.skipif("HEIF" not in Image.ID, reason="pillow-heif is not installed")
def test_heic_is_read_with_the_package(tmp_path: Path) -> None:
    Image.new("RGB", (64, 32), RED).save(tmp_path / "phone.heic", quality=100)
    found = decode(tmp_path / "phone.heic")
    assert found.size == (64, 32)
    assert np.abs(np.subtract(pixel(found, (9, 9)), RED)).max() < 8
    with pytest.raises(RLRRError, match="x: damaged"):
        decode(HEIC, "x")


def _text(kind: bytes, size: int) -> bytes:
    return chunk(
        kind, {b"iCCP": b"x\0\0", b"zTXt": b"x\0\0", b"iTXt": b"x\0\1\0\0\0"}[kind] + zlib.compress(bytes(size))
    )


@pytest.mark.parametrize("kind", [b"iCCP", b"zTXt", b"iTXt"])
def test_texts_and_profiles_that_unpack_to_much_are_refused(kind: bytes) -> None:
    assert decode(png(8, GREY, [9], extra=_text(kind, 1 << 16))).getpixel((0, 0)) == (9, 9, 9)
    with pytest.raises(RLRRError, match="x: its texts or colour profile unpack to more than Pillow's limit"):
        decode(png(8, GREY, [9], extra=_text(kind, 1 << 26)), "x")


@pytest.mark.parametrize("warns", ["error", "default"])
def test_pixels_are_counted_before_any_is_decoded(monkeypatch: pytest.MonkeyPatch, warns: str) -> None:
    header = struct.pack(">IIBBBBB", 60000, 60000, 8, 0, 0, 0, 0)
    bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda self: pytest.fail("decoded"))
    with warnings.catch_warnings():
        warnings.simplefilter(warns)  # type: ignore[arg-type]
        with pytest.raises(RLRRError, match=r"x: larger than the pixel limit$"):
            decode(bomb, "x")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_pipe_is_not_waited_on(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(RLRRError, match="not a file"):
        decode(tmp_path / "pipe.png")


def test_what_the_system_says_is_passed_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    noise(tmp_path / "a.png")
    monkeypatch.setattr(Image, "open", refuse)
    with pytest.raises(RLRRError, match=r"a\.png: Permission denied$"):
        decode(tmp_path / "a.png")


def test_the_usual_extensions_are_known() -> None:
    usual = ("jpg", "jpeg", "jfif", "png", "gif", "bmp", "tif", "tiff", "webp", "avif", "jp2", "pgm", "mpo", "heic")
    assert {f".{extension}" for extension in usual} <= EXTENSIONS
    assert not {".txt", ".pdf", ".h5", ".mpg"} & EXTENSIONS
