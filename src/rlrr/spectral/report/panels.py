"""Panels side by side: their grid, legend, titles and colour bar, and how a run is marked in all of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from rlrr.report.figures import Look, shorten
from rlrr.spectral.analysis import Analysis

LABEL = 0.22  # inches beside an axis for what it is
_MARKERS = "osD^vP*X"


def marks_of(analyses: Sequence[Analysis], look: Look) -> dict[str, dict[str, Any]]:
    """Colour, marker and line of each run, by its label."""
    lines = ("-", (0, (4, 1.2)), (0, (1, 1)))
    return {
        analysis.label: {
            "color": look.runs[place % len(look.runs)],
            "marker": _MARKERS[place % len(_MARKERS)],
            "linestyle": lines[place // len(look.runs) % len(lines)],
        }
        for place, analysis in enumerate(analyses)
    }


def keys_of(
    shown: Sequence[Analysis], analyses: Sequence[Analysis], look: Look, *, marker: bool = True, line: bool = True
) -> list[Line2D]:
    """The entries of a legend; those with neither marker nor line are patches of colour."""
    marks, keys = marks_of(analyses, look), []
    for analysis in shown:
        style = dict(marks[analysis.label])
        if not marker:
            style["marker"] = ""
        if not line:
            style["linestyle"] = "" if marker else "-"
        width = 1.6 if marker or line else 6
        keys.append(Line2D([], [], label=shorten(analysis.label, 32), markersize=5, linewidth=width, **style))
    return keys


def panels_of(
    look: Look,
    count: int,
    *,
    height: float,
    columns: int,
    width: float | None = None,
    keys: Sequence[Line2D] = (),
    x: str = "",
    y: str = "",
    left: float = 0.45,
    right: float = 0.1,
    above: float = 0.3,
    below: float = 0.22,
    gap: float = 0.42,
    sharex: bool = True,
    sharey: bool = False,
) -> tuple[Figure, list[Axes]]:
    """A figure of panels. Its layout is worked out here, since matplotlib's own takes as long as to draw it.

    Args:
        look: colours and size.
        count: of panels.
        height: of a panel, in inches, as are all lengths.
        columns: at most as many side by side.
        width: of a panel; by default what there is room for, with fewer than three columns on a wide page less.
        keys: the legend's.
        x: under all panels.
        y: beside all panels.
        left: room for tick labels; `right` for a colour bar, `below` for tick labels.
        above: room over each panel, for its title, and, without `sharex`, for the tick labels of the one above.
        gap: between panels side by side.
        sharex: Whether only the last row has tick labels.
        sharey: Whether only the first column has them, and all panels one scale.
    """
    columns = min(columns, count)
    rows = math.ceil(count / columns)
    left += LABEL * bool(y)
    below += 0.24 * bool(x)
    if width is None:
        across = look.width * (1 if look.narrow else min(columns / 3 + 0.1, 1))
        width = (across - left - right - (columns - 1) * gap) / columns
    across = left + columns * width + (columns - 1) * gap + right
    key_columns = min(
        len(keys), int(across / (0.07 * max((len(str(key.get_label())) for key in keys), default=0) + 0.55))
    )
    key_columns = max(key_columns, 1)
    top = 0.165 * math.ceil(len(keys) / key_columns) + 0.1 * bool(keys) + above - 0.2 * (not sharex)
    tall = top + rows * height + (rows - 1) * above + below

    figure = Figure(figsize=(across, tall))
    place = {"left": left / across, "right": 1 - right / across, "bottom": below / tall, "top": 1 - top / tall}
    spaces = {"wspace": gap / width, "hspace": above / height}
    grid = figure.subplots(
        rows, columns, squeeze=False, sharex=sharex, sharey=sharey, gridspec_kw=place | spaces
    ).ravel()
    for number, axes in enumerate(grid):
        axes.set_visible(number < count)
        if sharex and count - columns <= number < count:
            axes.tick_params(labelbottom=True)  # below it may be no panel
        axes.tick_params(labelsize=7)
        plain(axes, look)
    middle = {"x": (place["left"] + place["right"]) / 2, "y": (place["bottom"] + place["top"]) / 2}
    style: dict[str, Any] = {"fontsize": 8.5, "color": look.soft}
    figure.text(middle["x"], (below - 0.4) / tall, x, ha="center", va="bottom", **style)
    figure.text(0.05 / across, middle["y"], y, ha="left", va="center", rotation=90, **style)
    if keys:
        figure.legend(
            handles=list(keys),
            loc="upper left",
            bbox_to_anchor=(0, 1),
            borderaxespad=0.2,
            ncols=key_columns,
            frameon=False,
            fontsize=8,
            handlelength=1.8,
            columnspacing=1.4,
        )
    return figure, list(grid[:count])


def put_panel_title(axes: Axes, text: str, size: float, *, weight: str = "bold", room: float = 0) -> None:
    """Write a title above `room` inches for tick labels; left to find its place it would take a third of the time."""
    axes.set_title(text, fontsize=size, fontweight=weight, y=1, pad=72 * room + 4)


def plain(axes: Axes, look: Look, grid: str = "y") -> None:
    """Leave of a frame what helps to read: two sides, and the lines of a grid."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[:].set_color(look.rule)
    axes.tick_params(color=look.rule)
    axes.grid(axis=grid, color=look.rule, linewidth=0.7)  # type: ignore[arg-type]
    axes.set_axisbelow(True)


def put_colour_bar(
    figure: Figure, image: ScalarMappable, first: Axes, look: Look, label: str, ticks: Sequence[float] | None = None
) -> None:
    """Draw a colour bar under the panels on a phone, else right of them, beside the first row."""
    width, height = figure.get_size_inches()
    box = first.get_position()
    if look.narrow:
        place = (box.x0, 0.36 / height, 0.95 - box.x0, 0.09 / height)
    else:
        tall = min(box.height, 3 / height)
        place = (1 - 0.6 / width, box.y1 - tall, 0.1 / width, tall)
    bar = figure.colorbar(
        image, cax=figure.add_axes(place), orientation="horizontal" if look.narrow else "vertical", ticks=ticks
    )
    bar.set_label(label, fontsize=8)
    bar.ax.tick_params(labelsize=7, length=2)
    bar.outline.set_visible(False)


def plain_numbers(axis: Axis, steps: Sequence[int] = (1, 2, 5)) -> None:
    """Have a logarithmic axis say 0.5, 1, 2 and not powers of ten."""
    axis.set_major_locator(LogLocator(subs=steps))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_locator(NullLocator())
