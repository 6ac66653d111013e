"""Turn figures into files and into SVG inside a page.

Text stays text: it is searchable, smaller than outlines, and the browser has fonts for scripts that matplotlib lacks.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from xml.etree import ElementTree

from markupsafe import Markup
from matplotlib import rc_context
from matplotlib.figure import Figure

from rlrr.files import atomic
from rlrr.report.colours import COLOURS

_VARIABLES = {colour.light: f"var(--{name})" for name, colour in COLOURS.items()}
_COLOUR = re.compile(r"(?<=: )#[0-9a-f]{6}")
_FONT = re.compile(r"(font: [^;]*?px|font-family:) [^;]*")
_REFERENCE = re.compile(r"(?:^|url\()#([^)]+)")
_NARROWEST = 640  # CSS pixels; a picture scales down to this width, then scrolls, so that its letters can be read


def save(figure: Figure, path: Path, dpi: int = 150) -> None:
    """Write `figure` to `path`, atomically, in the format of its suffix (".png").

    Raises:
        RLRRError: The folder cannot be written to, or the disk is full.
    """
    with atomic(path) as temporary, _quiet():
        figure.savefig(temporary, format=path.suffix.lstrip("."), dpi=dpi)


def inline_svg(figure: Figure, prefix: str, description: str) -> Markup:
    """Return `figure` as an SVG element for a page that has the variables of `COLOURS`.

    Args:
        figure: A figure in the light colours of `COLOURS`.
        prefix: Prefix of all ids, different for each picture of a page.
        description: The content in words, for readers who cannot see it.
    """
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "rlrr"}), _quiet():
        figure.savefig(file := io.BytesIO(), format="svg", dpi=144, metadata={"Date": None})  # dpi: of photos
    root = ElementTree.fromstring(file.getvalue())
    for parent in root.iter():
        for child in [*parent]:
            if child.tag.endswith(("}metadata", "}style")):
                parent.remove(child)
    references = {found for element in root.iter() for value in element.attrib.values() for found in _ids_in(value)}
    for element in root.iter():
        _simplify(element, prefix, references)
    width, height = (round(inches * 96) for inches in figure.get_size_inches())
    del root.attrib["version"]
    root.attrib |= {"width": str(width), "height": str(height), "role": "img", "aria-label": description}
    root.set("style", f"min-width: {min(width, _NARROWEST)}px")
    return Markup(ElementTree.tostring(root, encoding="unicode"))


def _ids_in(value: str) -> list[str]:
    return _REFERENCE.findall(value)


def _simplify(element: ElementTree.Element, prefix: str, references: set[str]) -> None:
    """Drop namespaces and unused ids, prefix the others, and replace colours and fonts by variables."""
    element.tag = element.tag.rpartition("}")[2]
    attributes = {name.rpartition("}")[2]: value for name, value in element.attrib.items()}
    if attributes.get("id") not in references:
        attributes.pop("id", None)
    for name, value in attributes.items():
        if name == "id":
            attributes[name] = f"{prefix}-{value}"
        elif name == "style":
            value = _COLOUR.sub(lambda found: _VARIABLES.get(found[0], found[0]), value)
            attributes[name] = _FONT.sub(r"\1 var(--letters)", value)
        elif not value.startswith("data:"):
            attributes[name] = _REFERENCE.sub(lambda found: found[0].replace("#", f"#{prefix}-"), value)
    element.attrib.clear()
    element.attrib.update(attributes)
    if not (element.text or "").strip():
        element.text = None
    element.tail = None


@contextmanager
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        # matplotlib warns of every letter without a font, which helps nobody: a file has boxes, a page has the letter.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        yield
