"""Draw panels side by side: their grid, legend, titles and colour bar, and one mark for each run in all of them."""

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

from rlrr.report.colours import RULE, RUNS
from rlrr.report.figures import WIDTH, plain_bar, shorten
from rlrr.spectral.analysis import Analysis

_MARKERS = "osD^vP*X"
_LINES = ("-", (0, (4, 1.2)), (0, (1, 1)))
_LEGEND_LINE, _LABELS = 0.17, 0.4  # inches: a line of the legend, the labels beside and below all panels


def marks_of(analyses: Sequence[Analysis]) -> dict[str, dict[str, Any]]:
    """Return colour, marker and line style of each run, by its label."""
    return {
        analysis.label: {
            "color": RUNS[place % len(RUNS)],
            "marker": _MARKERS[place % len(_MARKERS)],
            "linestyle": _LINES[place // len(RUNS) % len(_LINES)],
        }
        for place, analysis in enumerate(analyses)
    }


def keys_of(
    shown: Sequence[Analysis], analyses: Sequence[Analysis], *, marker: bool = True, line: bool = True
) -> list[Line2D]:
    """Return the entries of a legend; without marker and line an entry is a patch of colour."""
    marks, keys = marks_of(analyses), []
    for analysis in shown:
        style = dict(marks[analysis.label])
        if not marker:
            style["marker"] = ""
        if not line:
            style["linestyle"] = "" if marker else "-"
        width = 1.6 if marker or line else 6
        keys.append(Line2D([], [], label=shorten(analysis.label, 32), markersize=5, linewidth=width, **style))
    return keys


def make_panels(
    count: int,
    columns: int,
    size: tuple[float, float],
    *,
    keys: Sequence[Line2D] = (),
    x: str = "",
    y: str = "",
    sharex: bool = True,
    sharey: bool = False,
) -> tuple[Figure, list[Axes]]:
    """Make a figure of panels.

    Args:
        count: Number of panels.
        columns: Number of panels side by side, at most.
        size: Width and height of a panel with its labels, in inches.
        keys: Entries of the legend.
        x: Label under all panels.
        y: Label beside all panels.
        sharex: Give all panels one scale, and tick labels only to the last row.
        sharey: Give all panels one scale, and tick labels only to the first column.
    """
    columns = min(columns, count)
    rows = math.ceil(count / columns)
    width = min(columns * size[0] + _LABELS, WIDTH)
    longest = max((len(str(key.get_label())) for key in keys), default=0)
    key_columns = max(int(width / (0.07 * longest + 0.55)), 1)
    legend = math.ceil(len(keys) / key_columns) * _LEGEND_LINE
    figure = Figure(figsize=(width, rows * size[1] + legend + _LABELS), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False, sharex=sharex, sharey=sharey).ravel()
    for number, axes in enumerate(grid):
        axes.set_visible(number < count)
        if sharex and count - columns <= number < count:
            axes.tick_params(labelbottom=True)  # below it may be no panel
        axes.tick_params(labelsize=7)
        plain(axes)
    figure.supxlabel(x, fontsize=8.5, color=grid[0].xaxis.label.get_color())
    figure.supylabel(y, fontsize=8.5, color=grid[0].yaxis.label.get_color())
    if keys:
        figure.legend(
            handles=list(keys),
            loc="outside upper left",
            ncols=min(key_columns, len(keys)),
            frameon=False,
            fontsize=8,
            handlelength=1.8,
            columnspacing=1.4,
        )
    return figure, list(grid[:count])


def plain(axes: Axes, grid: str = "y") -> None:
    """Reduce the frame of a panel to two sides and the lines of a grid."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[:].set_color(RULE)
    axes.tick_params(color=RULE)
    axes.grid(axis=grid, color=RULE, linewidth=0.7)  # type: ignore[arg-type]
    axes.set_axisbelow(True)


def put_colour_bar(
    figure: Figure, image: ScalarMappable, panels: Sequence[Axes], label: str, ticks: Sequence[float] | None = None
) -> None:
    """Draw a colour bar right of the panels."""
    bar = figure.colorbar(image, ax=list(panels), ticks=ticks, pad=0.02, fraction=0.04, shrink=0.9, aspect=25)
    bar.set_label(label, fontsize=8)
    bar.ax.tick_params(labelsize=7, length=2)
    plain_bar(bar)


def plain_numbers(axis: Axis, steps: Sequence[int] = (1, 2, 5)) -> None:
    """Label a logarithmic axis with plain numbers as 0.5, 1, 2, and not powers of ten."""
    axis.set_major_locator(LogLocator(subs=steps))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_locator(NullLocator())
