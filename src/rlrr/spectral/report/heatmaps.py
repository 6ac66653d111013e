"""Draw fields of all weights as heat maps: blocks by kinds of weight, a panel for each run."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.colors import Normalize, PowerNorm
from matplotlib.figure import Figure

from rlrr.report.colours import PAPER, STYLE, colour_on
from rlrr.report.figures import WIDTH, put_cells, shorten
from rlrr.spectral.analysis import Analysis
from rlrr.spectral.report.panels import make_panels, put_colour_bar
from rlrr.spectral.report.pictures import blocks_of, kinds_of, numbers_of, with_weights

_CELL, _GAP, _BESIDE = 0.43, 0.15, 1.4  # inches: a cell, between panels, labels and colour bar
_NUMBERS = 33  # lines up to which the numbers in the cells are legible


@rc_context(STYLE)
def heat_maps(analyses: Sequence[Analysis], measure: str, *, whole: bool) -> Figure:
    """Draw a field of all weights.

    Args:
        analyses: The runs.
        measure: Attribute of `WeightMeasures`, a share.
        whole: Let colours run from 0 to 100 %, and not to the largest value.
    """
    shown = with_weights(analyses)
    blocks, outside = blocks_of(shown), _outside(shown)
    kinds = kinds_of(shown) if blocks else [""]
    fields = [_field(analysis, measure, kinds, blocks, outside) for analysis in shown]
    known = np.concatenate([field[np.isfinite(field)] for field in fields])
    # The square root tells small changes apart, which a linear scale would leave white.
    top = 100 if whole else max(known, default=0) or 1
    norm = Normalize(0, 100) if whole else PowerNorm(0.5, vmin=0, vmax=top)

    lines = len(outside) + len(blocks)
    step = math.ceil(len(blocks) / 13) or 1
    ticks = {len(outside) + place: str(block) for place, block in enumerate(blocks) if place % step == 0}
    ticks |= {place: shorten(name, 12 if blocks else 24) for place, name in enumerate(outside.values())}
    names = [shorten(kind, 14) for kind in kinds]
    longest = max(map(len, names)) * 0.06
    upright = longest > _CELL
    width = _CELL * len(kinds) + _GAP
    columns = min(max(int((WIDTH - _BESIDE) / width), 1), len(shown))
    height = lines * min(0.19, 6 / lines) + 0.5 + (longest if upright else 0)
    size = (width + (_BESIDE - 0.4) / columns, height)
    figure, panels = make_panels(len(shown), columns, size, y="Block" if blocks else "", sharey=True)
    for axes, analysis, field in zip(panels, shown, fields, strict=True):
        cells = put_cells(axes, field, norm)
        axes.set_title(shorten(analysis.label, max(int(width * 11), 8)), fontsize=8.5)
        axes.tick_params(length=0, labelsize=7, labeltop=True, labelbottom=False)
        axes.tick_params(axis="x", rotation=90 if upright else 0)
        axes.spines[:].set_visible(False)
        edges = np.arange(max(lines, len(kinds))) + 0.5
        axes.hlines(edges[: lines - 1], -0.5, len(kinds) - 0.5, color=PAPER, linewidth=0.8)
        axes.vlines(edges[: len(kinds) - 1], len(outside) - 0.5, lines - 0.5, color=PAPER, linewidth=0.8)
        if lines <= _NUMBERS:
            _write_cells(axes, field, len(outside), norm)
    panels[0].set_xticks(range(len(kinds)), names)
    panels[0].set_yticks(list(ticks), list(ticks.values()))
    put_colour_bar(figure, cells, panels, "%", None if whole else _round_numbers(top))
    return figure


def _outside(analyses: Iterable[Analysis]) -> dict[str, str]:
    """Name the weights outside the blocks: by their kind, where no other weight is of that kind."""
    found = {row.name: row.kind for analysis in analyses for row in analysis.rows if row.layer is None}
    kinds = list(found.values())
    return {name: kind if kinds.count(kind) == 1 else name for name, kind in found.items()}


def _field(
    analysis: Analysis, measure: str, kinds: Sequence[str], blocks: Sequence[int], outside: Iterable[str]
) -> np.ndarray:
    """Return percent (outside and blocks, kinds); a weight outside the blocks fills its line."""
    lines = [*outside, *blocks]
    field = np.full((len(lines), len(kinds)), np.nan)
    for row, value in zip(analysis.rows, 100 * numbers_of(analysis.rows, measure), strict=True):
        if row.layer is None:
            field[lines.index(row.name)] = value
        else:
            field[lines.index(row.layer), kinds.index(row.kind)] = value
    return field


def _write_cells(axes: Axes, field: np.ndarray, outside: int, norm: Normalize) -> None:
    """Write the numbers of a heat map into its cells, once for a weight outside the blocks."""
    for (line, column), value in np.ndenumerate(field):
        if not np.isfinite(value) or (line < outside and column):
            continue
        place = (field.shape[1] - 1) / 2 if line < outside else column
        colour = colour_on(norm(value))
        axes.text(place, line, in_short(value), ha="center", va="center", fontsize=7, color=colour)


def _round_numbers(top: float) -> list[float]:
    """Return 0 and the four largest of 1, 2, 5, 10, … up to `top`, well apart on a scale of square roots."""
    power = 10.0 ** math.floor(math.log10(top))
    return [0, *sorted(one for step in (5, 2, 1, 0.5, 0.2, 0.1) if (one := step * power) <= top)[-4:]]


def in_short(percent: float) -> str:
    """Format with two significant digits: 0, 0.042, 0.42, 4.2, 42, 142."""
    digits = next((digits for digits, end in ((0, 9.95), (1, 0.95), (2, 0.095)) if percent >= end), 3)
    return f"{percent:.{digits if percent else 0}f}"
