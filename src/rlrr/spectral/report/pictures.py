"""Figures of what tuning did to the weights: small multiples on the same scales, from any number of runs.

A run has the same colour and the same marker in all figures made of the same analyses. Each function takes all of them,
and leaves out those that lack what it shows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize, PowerNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from rlrr.report.figures import LIGHT, Look, readable, shorten, styled
from rlrr.spectral.analysis import Analysis, WeightMeasures
from rlrr.spectral.report.panels import (
    LABEL,
    keys_of,
    marks_of,
    panels_of,
    plain,
    plain_numbers,
    put_colour_bar,
    put_panel_title,
)

SIDES = {"left": "outputs", "right": "inputs"}
SCALINGS = {"explained_left": ("outputs", "^"), "explained_right": ("inputs", "v"), "explained_both": ("both", "o")}
BANDS = 3  # runs up to which the spread over the blocks can be shown without covering each other
_NUMBERS = 33  # lines of a heat map up to which the numbers in its cells are legible
_ZERO = 1e-6  # of the largest singular value: below, a quotient of two of them is noise
_STEADY = 0.95  # the rest of the singular values, the smallest, may leave the frame of their quotients
_POINTS = 90


def with_weights(analyses: Iterable[Analysis]) -> list[Analysis]:
    """Those whose weights changed."""
    return [analysis for analysis in analyses if any(row.norm_change for row in analysis.rows)]


def kinds_of(analyses: Iterable[Analysis]) -> list[str]:
    """What there is in the blocks, in the model's order; in models without blocks, what there is."""
    rows = [row for analysis in analyses for row in analysis.rows]
    return list(dict.fromkeys(row.kind for row in rows if row.layer is not None) or dict.fromkeys(r.kind for r in rows))


@styled
def overview(analyses: Sequence[Analysis], *, look: Look = LIGHT) -> Figure:
    """Draw each weight as a dot: by how much it changed, and what the change is like."""
    shown, marks = with_weights(analyses), marks_of(analyses, look)
    titles = {
        "rotation_share": ("Turns the bases (%)", 100),
        "explained_both": ("A rescaling explains (%)", 100),
        "effective_rank_change": ("Effective rank of ΔW", 1),
    }
    if any(analysis.truncation_error for analysis in analyses):
        del titles["rotation_share"]
    height, columns = (1.7, 1) if look.narrow else (2.4, 3)
    keys = keys_of(shown, analyses, look, line=False)
    x = "Relative change (%), log scale"
    figure, panels = panels_of(look, len(titles), height=height, columns=columns, keys=keys, x=x)
    for axes, (measure, (title, factor)) in zip(panels, titles.items(), strict=True):
        for analysis in shown:
            rows = [row for row in analysis.rows if row.relative_change]
            style = {key: marks[analysis.label][key] for key in ("color", "marker")}
            places = 100 * _numbers(rows, "relative_change"), factor * _numbers(rows, measure)
            axes.scatter(*places, s=9, alpha=0.4, linewidth=0, **style)
            mean = 100 * (analysis.relative_change or np.nan), factor * getattr(analysis, measure)
            axes.scatter(*mean, s=75, edgecolor=look.paper, linewidth=1.2, zorder=4, clip_on=False, **style)
        put_panel_title(axes, title, 9)
        axes.set_xscale("log")
        axes.set_ylim(0, 102 if factor == 100 else None)
        plain_numbers(axes.xaxis)
    return figure


@styled
def heat_maps(analyses: Sequence[Analysis], measure: str, *, whole: bool, look: Look = LIGHT) -> Figure:
    """Draw a field of all weights, blocks by kinds of weight, a panel for each run.

    Args:
        analyses: the runs.
        measure: name of the field, a share.
        whole: colours run from 0 to 100 %, and not to the largest value.
        look: colours and size.
    """
    shown = with_weights(analyses)
    blocks, outside = _blocks(shown), _outside(shown)
    kinds = kinds_of(shown) if blocks else [""]
    fields = [_field(analysis, measure, kinds, blocks, outside) for analysis in shown]
    known = np.concatenate([field[np.isfinite(field)] for field in fields])
    # The square root tells small changes apart, which would all be white on a linear scale.
    top = 100 if whole else max(known, default=0) or 1
    norm = Normalize(0, 100) if whole else PowerNorm(0.5, vmin=0, vmax=top)

    lines = len(outside) + len(blocks)
    step = math.ceil(len(blocks) / 13) or 1
    ticks = {len(outside) + place: str(block) for place, block in enumerate(blocks) if place % step == 0}
    ticks |= {place: shorten(name, 12 if blocks else 24) for place, name in enumerate(outside.values())}
    left = 0.06 * max(map(len, ticks.values())) + 0.1
    room, gap, cell = look.width - left - LABEL - (0.05 if look.narrow else 0.7), 0.12, 0.43
    if look.narrow and len(shown) > 1:  # two runs side by side say more than numbers
        cell = min(cell, max((room - gap) / 2 / len(kinds), 0.14))
    written = lines <= _NUMBERS and cell > 0.3
    names = [shorten(kind, 14) for kind in kinds]
    upright = max(map(len, names)) * 0.06 > cell
    above = 0.26 + (0.06 * max(map(len, names)) if upright else 0.16)
    figure, panels = panels_of(
        look,
        len(shown),
        height=lines * min(0.19, 6 / lines),
        width=cell * len(kinds),
        columns=max(int((room + gap + 0.01) / (cell * len(kinds) + gap)), 1),
        y="Block" if blocks else "",
        left=left,
        right=0.05 if look.narrow else 0.7,
        above=above,
        below=0.62 if look.narrow else 0.08,
        gap=gap,
        sharey=True,
    )
    for axes, analysis, field in zip(panels, shown, fields, strict=True):
        image = axes.imshow(field, cmap=look.shares, norm=norm, aspect="auto", interpolation="nearest")
        put_panel_title(axes, shorten(analysis.label, max(int(cell * len(kinds) * 11), 8)), 8.5, room=above - 0.26)
        axes.tick_params(length=0, labelsize=7, labeltop=True, labelbottom=False)
        axes.tick_params(axis="x", rotation=90 if upright else 0)
        axes.spines[:].set_visible(False)
        axes.grid(visible=False)
        edges = np.arange(max(lines, len(kinds))) + 0.5
        axes.hlines(edges[: lines - 1], -0.5, len(kinds) - 0.5, color=look.paper, linewidth=0.8)
        axes.vlines(edges[: len(kinds) - 1], len(outside) - 0.5, lines - 0.5, color=look.paper, linewidth=0.8)
        if written:
            _write_cells(axes, field, len(outside), look, lambda value: look.shares(norm(value)))
    panels[0].set_xticks(range(len(kinds)), names)
    panels[0].set_yticks(list(ticks), list(ticks.values()))
    put_colour_bar(figure, image, panels[0], look, "%", None if whole else _round_numbers(top))
    return figure


@styled
def ratios(analyses: Sequence[Analysis], *, look: Look = LIGHT) -> Figure:
    """Draw the singular values of W' over those of W by their index: the median over the blocks, and their spread."""
    shown, marks = with_weights(analyses), marks_of(analyses, look)
    keys = keys_of(shown, analyses, look, marker=False)
    figure, panels = _by_kind(shown, look, keys, "Index of the singular value", "After / before")
    medians = []
    for kind, axes in panels.items():
        axes.axhline(1, color=look.soft, linewidth=0.9)
        for analysis in shown:
            curves = []
            for row in _of_kind(analysis, kind):
                count = int((row.values_before > _ZERO * row.values_before[:1]).sum())
                curves.append(row.values_after[:count] / row.values_before[:count])
            places, (low, middle, high) = _over_blocks(curves, (0.1, 0.5, 0.9))
            medians.append(middle[places <= _STEADY * places.max(initial=0)])
            colour = marks[analysis.label]["color"]
            axes.plot(places, middle, color=colour, linestyle=marks[analysis.label]["linestyle"], linewidth=1.5)
            if len(shown) <= BANDS and len(curves) > 1:
                axes.fill_between(places, low, high, color=colour, alpha=0.18, linewidth=0)
        axes.set_xscale("log")
        plain_numbers(axes.xaxis, (1,))
    _scale_ratios(list(panels.values()), np.concatenate(medians))
    return figure


@styled
def spectra(analyses: Sequence[Analysis], *, look: Look = LIGHT) -> Figure:
    """Draw the singular values of W, W' and ΔW over the largest of W: the median over the blocks, both axes in logs."""
    shown, marks = with_weights(analyses), marks_of(analyses, look)
    keys = [
        *keys_of(shown, analyses, look, marker=False, line=False),
        Line2D([], [], color=look.rule, linewidth=4, label="W, before"),
        Line2D([], [], color=look.soft, linewidth=0.9, label="W', after"),
        Line2D([], [], color=look.soft, linewidth=1.5, linestyle="--", label="ΔW, the change"),
    ]
    figure, panels = _by_kind(shown, look, keys, "Index of the singular value", "Part of the largest of W")
    lowest = 1.0
    for kind, axes in panels.items():
        for analysis in shown:
            rows = [row for row in _of_kind(analysis, kind) if row.values_before[:1].any()]
            styles = (
                ("values_before", {"color": look.rule, "linewidth": 4, "zorder": 1}),
                ("values_after", {"color": marks[analysis.label]["color"], "linewidth": 0.9}),
                ("values_change", {"color": marks[analysis.label]["color"], "linewidth": 1.5, "linestyle": "--"}),
            )
            for name, style in styles:
                curves = [getattr(row, name) / row.values_before[0] for row in rows]
                places, (middle,) = _over_blocks(curves, (0.5,))
                axes.plot(places, np.where(middle > 0, middle, np.nan), **style)
                if len(middle):
                    known = middle[middle > _ZERO]
                    lowest = min(lowest, np.percentile(known, 10) / 2 if len(known) else 1)
        axes.set(xscale="log", yscale="log")
        plain_numbers(axes.xaxis, (1,))
        plain_numbers(axes.yaxis, (1,))
    next(iter(panels.values())).set_ylim(max(lowest, 1e-5), 2)
    return figure


@styled
def energies(analyses: Sequence[Analysis], *, look: Look = LIGHT) -> Figure:
    """Draw the share of the change's energy in the leading singular directions of W, beside that of W itself."""
    shown, marks = with_weights(analyses), marks_of(analyses, look)
    keys = [
        *keys_of(shown, analyses, look, marker=False),
        Line2D([], [], color=look.rule, linewidth=4, label="W itself"),
        Line2D([], [], color=look.soft, linewidth=0.9, linestyle=":", label="evenly spread"),
    ]
    figure, panels = _by_kind(shown, look, keys, "Leading directions of W (%)", "Share of the energy (%)")
    shares = np.linspace(0, 1, 51)
    for kind, axes in panels.items():
        axes.plot([0, 100], [0, 100], color=look.soft, linewidth=0.9, linestyle=":")
        for analysis in shown:
            rows = [row for row in _of_kind(analysis, kind) if row.energy.any()]
            if not rows:
                continue
            own = [cumulated(row.values_before[: len(row.energy)] ** 2, shares) for row in rows]
            change = [cumulated(row.energy, shares) for row in rows]
            axes.plot(100 * shares, 100 * np.median(own, axis=0), color=look.rule, linewidth=4, zorder=1)
            style = {key: marks[analysis.label][key] for key in ("color", "linestyle")}
            axes.plot(100 * shares, 100 * np.median(change, axis=0), linewidth=1.5, **style)
        axes.set(xlim=(0, 100), ylim=(0, 102))
    return figure


@styled
def by_block(analyses: Sequence[Analysis], measure: str, label: str, *, look: Look = LIGHT) -> Figure:
    """Draw a field of both sides of the weights over the blocks, a panel for each side and kind.

    Args:
        analyses: the runs.
        measure: name of the field, with {side} for "left" or "right".
        label: what it is, with its unit.
        look: colours and size.
    """
    shown, marks = with_weights(analyses), marks_of(analyses, look)
    kinds = kinds_of(shown)
    pairs = [(side, kind) for side in SIDES for kind in kinds]
    columns = len(kinds)
    if look.narrow:
        pairs, columns = [(side, kind) for kind in kinds for side in SIDES], len(SIDES)
    keys = keys_of(shown, analyses, look)
    figure, panels = panels_of(
        look, len(pairs), height=1.05, columns=columns, keys=keys, x="Block", y=label, gap=0.14, sharey=True
    )
    for axes, (side, kind) in zip(panels, pairs, strict=True):
        for analysis in shown:
            rows = [row for row in _of_kind(analysis, kind) if row.relative_change]
            places = [place if row.layer is None else row.layer for place, row in enumerate(rows)]
            style = marks[analysis.label] | {"markersize": 2.6 if look.narrow else 3, "linewidth": 1.1}
            axes.plot(places, _numbers(rows, measure.format(side=side)), clip_on=False, **style)
        axes.set_xlim(-0.6, max(_blocks(shown), default=len(shown[0].rows) - 1) + 0.6)
        put_panel_title(axes, f"{shorten(kind, 12)}, {SIDES[side]}", 8, weight="normal")
        axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    panels[0].set_ylim(0)
    return figure


@styled
def scalings(analyses: Sequence[Analysis], *, look: Look = LIGHT) -> Figure:
    """Draw how much of each run's change scalings of outputs, of inputs and of both explain: mean and spread."""
    shown, marks = with_weights(analyses), marks_of(analyses, look)
    names = [shorten(analysis.label, 15 if look.narrow else 30) for analysis in shown]
    keys = [
        Line2D([], [], color=look.soft, linestyle="", marker=marker, markersize=6, label=f"scaling {name}")
        for name, marker in SCALINGS.values()
    ]
    figure, (axes,) = panels_of(
        look,
        1,
        height=0.55 * len(shown),
        width=None if look.narrow else 5,
        columns=1,
        keys=keys,
        x="Share of the change explained (%)",
        left=0.07 * max(map(len, names)) + 0.15,
        above=0.1,
    )
    for place, analysis in enumerate(shown):
        rows = [row for row in analysis.rows if row.norm_change]
        colour = marks[analysis.label]["color"]
        for offset, (measure, (_, marker)) in zip((-0.24, 0, 0.24), SCALINGS.items(), strict=True):
            values = 100 * _numbers(rows, measure)
            axes.plot(np.quantile(values, (0.1, 0.9)), [place + offset] * 2, color=colour, linewidth=1.2, alpha=0.6)
            mean = 100 * (analysis.mean_by_energy(measure) or 0)
            axes.plot(mean, place + offset, marker, color=colour, markersize=6, markeredgecolor=look.paper)
    axes.set_yticks(range(len(shown)), names)
    axes.set(xlim=(-2, 102), ylim=(len(shown) - 0.5, -0.5))
    plain(axes, look, "x")
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0, labelcolor=look.ink, labelsize=8)
    return figure


def _by_kind(
    shown: Sequence[Analysis], look: Look, keys: Sequence[Line2D], x: str, y: str
) -> tuple[Figure, dict[str, Axes]]:
    """A panel for each kind of weight."""
    kinds = kinds_of(shown)
    columns = 2 if look.narrow else 4 if len(kinds) in (4, 7, 8) else 3
    height = 1.1 if look.narrow else 1.5
    figure, panels = panels_of(
        look, len(kinds), height=height, columns=columns, keys=keys, x=x, y=y, gap=0.16, sharey=True
    )
    for axes, kind in zip(panels, kinds, strict=True):
        put_panel_title(axes, shorten(kind, 20), 9)
    return figure, dict(zip(kinds, panels, strict=True))


def _scale_ratios(axes: Sequence[Axes], medians: np.ndarray) -> None:
    """Scale axes of ratios so that the medians are on them; by logarithms if they are far apart."""
    known = medians[np.isfinite(medians) & (medians > 0)]
    low, high = min(known.min(initial=1), 1), max(known.max(initial=1), 1)
    if high > 3 * low:
        for one in axes:
            one.set(yscale="log", ylim=(low / 1.15, high * 1.15))
            plain_numbers(one.yaxis)
        return
    room = max(0.08 * (high - low), 0.005)
    axes[0].set_ylim(low - room, high + room)


def _of_kind(analysis: Analysis, kind: str) -> list[WeightMeasures]:
    rows = [row for row in analysis.rows if row.kind == kind]
    return [row for row in rows if row.layer is not None] or rows


def _blocks(analyses: Iterable[Analysis]) -> list[int]:
    return sorted({row.layer for analysis in analyses for row in analysis.rows if row.layer is not None})


def _outside(analyses: Iterable[Analysis]) -> dict[str, str]:
    """The weights outside the blocks by name, with what to call them: their kind, if no other is of it."""
    found = {row.name: row.kind for analysis in analyses for row in analysis.rows if row.layer is None}
    kinds = list(found.values())
    return {name: kind if kinds.count(kind) == 1 else name for name, kind in found.items()}


def _numbers(rows: Iterable[WeightMeasures], measure: str) -> np.ndarray:
    """A field of some weights; NaN where it is not defined."""
    return np.array([np.nan if (value := getattr(row, measure)) is None else value for row in rows])


def _field(
    analysis: Analysis, measure: str, kinds: Sequence[str], blocks: Sequence[int], outside: Iterable[str]
) -> np.ndarray:
    """Percent, (outside, then blocks; kinds); what is outside the blocks fills its line."""
    lines = [*outside, *blocks]
    field = np.full((len(lines), len(kinds)), np.nan)
    for row, value in zip(analysis.rows, 100 * _numbers(analysis.rows, measure), strict=True):
        if row.layer is None:
            field[lines.index(row.name)] = value
        else:
            field[lines.index(row.layer), kinds.index(row.kind)] = value
    return field


def _write_cells(
    axes: Axes, field: np.ndarray, outside: int, look: Look, colour: Callable[[float], Sequence[float]]
) -> None:
    """Write the numbers of a heat map into its cells."""
    for (line, column), value in np.ndenumerate(field):
        if not np.isfinite(value) or (line < outside and column):
            continue
        place = (field.shape[1] - 1) / 2 if line < outside else column
        axes.text(place, line, in_short(value), ha="center", va="center", fontsize=7, color=readable(colour(value)))


def _round_numbers(top: float) -> list[float]:
    """0 and the four largest of 1, 2, 5, 10, … up to `top`, which are well apart on a scale of square roots."""
    power = 10.0 ** math.floor(math.log10(top))
    return [0, *sorted(one for step in (5, 2, 1, 0.5, 0.2, 0.1) if (one := step * power) <= top)[-4:]]


def in_short(percent: float) -> str:
    """As many digits as matter: 0, 0.042, 0.42, 4.2, 42, 142."""
    digits = next((digits for digits, end in ((0, 9.95), (1, 0.95), (2, 0.095)) if percent >= end), 3)
    return f"{percent:.{digits if percent else 0}f}"


def _over_blocks(curves: Sequence[np.ndarray], quantiles: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """Quantiles over curves of different lengths, at indices evenly spread on a log scale.

    Returns:
        Indices from 1 (points), and (quantiles, points).
    """
    longest = max(map(len, curves), default=0)
    if not longest:
        return np.zeros(0), np.zeros((len(quantiles), 0))
    indices = np.unique(np.geomspace(1, longest, _POINTS).round().astype(int))
    padded = np.full((len(curves), longest), np.nan)
    for line, curve in zip(padded, curves, strict=True):
        line[: len(curve)] = curve
    return indices, np.nanquantile(padded[:, indices - 1], quantiles, axis=0)


def cumulated(energies: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """The share of the energy in each leading share of the directions."""
    total = np.concatenate([[0], np.cumsum(energies)])
    return np.interp(shares * (len(total) - 1), np.arange(len(total)), total / total[-1])
