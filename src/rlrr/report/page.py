"""A report as one HTML file that holds its pictures and asks the network for nothing."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from jinja2 import Environment, PackageLoader, StrictUndefined
from PIL import Image

from rlrr.errors import RLRRError
from rlrr.files import atomic

_NUMBER = re.compile(r"[-\N{MINUS SIGN}+±~≈<>≤≥]?\s?\d.*|[-\N{EN DASH}—]?")


@dataclass(frozen=True)
class Picture:
    """What is shown, one sentence on how to read it, and its content in words for who cannot see it."""

    image: Path | Mapping[str, bytes]
    """A PNG file, or what `figures.renderings` gives: one for each medium, the same media for all pictures."""
    caption: str
    alt: str
    title: str = ""


@dataclass(frozen=True)
class Table:
    """Rows of text under `columns`; the first cell of a row names it."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""

    @property
    def numeric(self) -> list[bool]:
        """Which columns hold numbers only, and are set flush right."""
        return [all(_NUMBER.fullmatch(cell) for cell in column) for column in zip(*self.rows, strict=True)]


@dataclass(frozen=True)
class _Embedded:
    """A picture by the addresses of its PNG files, one for each of `media`, and its width in CSS pixels."""

    picture: Picture
    media: Sequence[str]
    sources: Sequence[str]
    width: int


def write_report(
    path: Path,
    *,
    title: str,
    summary: str,
    tables: Sequence[Table],
    pictures: Sequence[Picture],
    facts: Mapping[str, str] = MappingProxyType({}),
    commands: Sequence[str] = (),
) -> None:
    """Write `path`, one HTML file that can be mailed as it is.

    Args:
        path: where to write.
        title: the heading.
        summary: what came out, in a few sentences.
        tables: the numbers.
        pictures: the figures, which are copied into the file.
        facts: how it was made: backbone, data, seed, versions.
        commands: what to type to run it again, a line each.

    Raises:
        RLRRError: a picture is missing or no PNG, or `path` cannot be written.
    """
    environment = Environment(
        loader=PackageLoader("rlrr.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    figures = [_embed(picture) for picture in pictures]
    page = environment.get_template("page.html.jinja").render(
        title=title,
        summary=summary,
        tables=tables,
        figures=figures,
        media=next((figure.media for figure in figures if len(figure.media) > 1), []),
        facts=facts,
        commands=commands,
    )
    with atomic(path) as temporary:
        # "replace": the name of a folder may hold bytes that are no text.
        temporary.write_text(page, encoding="utf-8", errors="replace")


def _embed(picture: Picture) -> _Embedded:
    """Put the files of a picture into addresses.

    Raises:
        RLRRError: its file is missing, or is no PNG.
    """
    try:
        files = {"": picture.image.read_bytes()} if isinstance(picture.image, Path) else picture.image
        with Image.open(io.BytesIO(files[""]), formats=["PNG"]) as image:
            width = image.width * 96 / image.info.get("dpi", (96, 96))[0]  # its size on paper
    except OSError as error:  # Pillow's for what is no image is one, too
        what = picture.image if isinstance(picture.image, Path) else picture.title
        reason = error.strerror or "it is no PNG file"
        raise RLRRError(f"The picture {what} cannot be put into the report: {reason}. Draw it again.") from error
    sources = ["data:image/png;base64," + base64.b64encode(content).decode("ascii") for content in files.values()]
    return _Embedded(picture, list(files), sources, round(width))
