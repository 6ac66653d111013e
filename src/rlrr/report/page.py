"""Write a report as one HTML file that holds its pictures and asks the network for nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from types import MappingProxyType
from typing import Any

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.figure import Figure

from rlrr.files import atomic
from rlrr.report.colours import COLOURS
from rlrr.report.svg import inline_svg
from rlrr.report.table import Table

_PACKAGE, _PAGE = "rlrr.report", "page.html.jinja"


@dataclass(frozen=True)
class Picture:
    """A figure with a caption, one sentence on how to read it, and its content in words for readers without sight."""

    figure: Figure
    caption: str
    alt: str
    title: str = ""


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
    """Write a report to `path`, one HTML file that can be mailed as it is.

    Args:
        path: The file.
        title: The heading.
        summary: The result, in a few sentences.
        tables: The numbers.
        pictures: The figures.
        facts: How it was made: backbone, data, seed, versions.
        commands: Commands that make it again, a line each.

    Raises:
        RLRRError: `path` cannot be written.
    """
    write_page(
        path,
        environment(),
        _PAGE,
        title=title,
        summary=summary,
        tables=tables,
        pictures=pictures,
        facts=facts,
        commands=commands,
    )


def environment(*packages: str) -> Environment:
    """Return an environment with the templates here and in other packages."""
    return Environment(
        loader=ChoiceLoader([PackageLoader(package, ".") for package in (*packages, _PACKAGE)]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def write_page(path: Path, environment: Environment, template: str, **values: Any) -> None:
    """Write a page from a template that is `page.html.jinja` or extends it.

    The template has `svg(figure, description)` for pictures, and `values`.

    Args:
        path: The file.
        environment: As from `environment`.
        template: Name of the template.
        values: Values of the template.

    Raises:
        RLRRError: `path` cannot be written.
    """
    numbers = count(1)

    def svg(figure: Figure, description: str | Markup) -> Markup:
        text = description.unescape() if isinstance(description, Markup) else description
        return inline_svg(figure, f"picture-{next(numbers)}", " ".join(text.split()))

    page = environment.get_template(template).render(colours=COLOURS, svg=svg, **values)
    with atomic(path) as temporary:
        # "replace": the name of a folder may hold bytes that are no text.
        temporary.write_text(page, encoding="utf-8", errors="replace")
