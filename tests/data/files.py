"""Files of images with contents and headers that Pillow does not write."""

from __future__ import annotations

import struct
import zlib

GREY, RGB, PALETTE, GREY_ALPHA, RGBA = 0, 2, 3, 4, 6  # colour types of PNG


def chunk(kind: bytes, data: bytes) -> bytes:
    """Write a chunk of a PNG."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(bits: int, colour: int, samples: list[int], transparent: list[int] | None = None, extra: bytes = b"") -> bytes:
    """Write a PNG one pixel high; `transparent` is the named colour, `extra` further chunks before the pixels."""
    width = len(samples) // {GREY: 1, RGB: 3, PALETTE: 1, GREY_ALPHA: 2, RGBA: 4}[colour]
    row = "".join(f"{sample:0{bits}b}" for sample in samples)
    row += "0" * (-len(row) % 8)
    pixels = int(row, 2).to_bytes(len(row) // 8, "big")
    header = struct.pack(">IIBBBBB", width, 1, bits, colour, 0, 0, 0)
    key = b"" if transparent is None else chunk(b"tRNS", struct.pack(f">{len(transparent)}H", *transparent))
    data = chunk(b"IDAT", zlib.compress(b"\0" + pixels))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + extra + key + data + chunk(b"IEND", b"")


Entry = tuple[int, int, int, bytes]  # tag, type, count, value


def exif(*entries: Entry) -> bytes:
    """Write EXIF with entries as they are, right or wrong, and some bytes that offsets may point to."""
    rows = b"".join(
        struct.pack("<HHL", tag, kind, count) + value.ljust(4, b"\0") for tag, kind, count, value in entries
    )
    return b"II*\0\x08\0\0\0" + struct.pack("<H", len(entries)) + rows + bytes(4) + b"\1\2\3\4" * 5


def tiff(width: int, bits: tuple[int, ...], pixels: bytes, *entries: Entry, photometric: int = 1) -> bytes:
    """Write a TIFF without compression, one strip for all rows, with more or other entries."""
    height = len(pixels) * 8 // (sum(bits) * width)
    own: dict[int, Entry] = {
        256: (256, 3, 1, struct.pack("<H", width)),
        257: (257, 3, 1, struct.pack("<H", height)),
        259: (259, 3, 1, struct.pack("<H", 1)),
        262: (262, 3, 1, struct.pack("<H", photometric)),
        277: (277, 3, 1, struct.pack("<H", len(bits))),
        278: (278, 3, 1, struct.pack("<H", height)),
        279: (279, 4, 1, struct.pack("<L", len(pixels))),
    }
    own |= {entry[0]: entry for entry in entries}
    start = 8 + 2 + 12 * (len(own) + 2) + 4  # of what follows the entries
    long = len(bits) > 2
    own[258] = (258, 3, len(bits), struct.pack("<L", start) if long else struct.pack(f"<{len(bits)}H", *bits))
    more = struct.pack(f"<{len(bits)}H", *bits) if long else b""
    own[273] = (273, 4, 1, struct.pack("<L", start + len(more)))
    head = exif(*(own[tag] for tag in sorted(own)))[:start]
    return head + more + pixels
