"""Figures of what tuning did to the weights: small multiples on the same scales, from any number of runs.

A run has the same colour and the same marker in all figures made of the same analyses. Each function takes all of them,
and leaves out those that lack what it shows.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from rlrr.report.colours import INK, PAPER, RULE, SOFT, STYLE
from rlrr.report.figures import shorten
from rlrr.spectral.analysis import Analysis, WeightMeasures
from rlrr.spectral.report.panels import keys_of, make_panels, marks_of, plain, plain_numbers

SIDES = {"left": "outputs", "right": "inputs"}
SCALINGS = {"explained_left": ("outputs", "^"), "explained_right": ("inputs", "v"), "explained_both": ("both", "o")}
BANDS = 3  # runs up to which the spread over the blocks can be shown without covering each other
_ZERO = 1e-6  # of the largest singular value: below, a quotient of two of them is noise
_STEADY = 0.95  # the rest of the singular values, the smallest, may leave the frame of their quotients
_POINTS = 90


def with_weights(analyses: Iterable[Analysis]) -> list[Analysis]:
    """Return the analyses of runs whose weights changed."""
    return [analysis for analysis in analyses if any(row.norm_change for row in analysis.rows)]


def kinds_of(analyses: Iterable[Analysis]) -> list[str]:
    """Return the kinds of weight in the blocks, in the model's order; for models without blocks, all kinds."""
    rows = [row for analysis in analyses for row in analysis.rows]
    return list(dict.fromkeys(row.kind for row in rows if row.layer is not None) or dict.fromkeys(r.kind for r in rows))


@rc_context(STYLE)
def overview(analyses: Sequence[Analysis]) -> Figure:
    """Draw each weight as a dot: by how much it changed, and what the change is like."""
    shown, marks = with_weights(analyses), marks_of(analyses)
    titles = {
        "rotation_share": ("Turns the bases (%)", 100),
        "explained_both": ("A rescaling explains (%)", 100),
        "effective_rank_change": ("Effective rank of ΔW", 1),
    }
    keys = keys_of(shown, analyses, line=False)
    figure, panels = make_panels(len(titles), 3, (3.2, 2.6), keys=keys, x="Relative change (%), log scale")
    for axes, (measure, (title, factor)) in zip(panels, titles.items(), strict=True):
        for analysis in shown:
            rows = [row for row in analysis.rows if row.relative_change]
            style = {key: marks[analysis.label][key] for key in ("color", "marker")}
            places = 100 * numbers_of(rows, "relative_change"), factor * numbers_of(rows, measure)
            axes.scatter(*places, s=9, alpha=0.4, linewidth=0, **style)
            mean = 100 * (analysis.relative_change or np.nan), factor * getattr(analysis, measure)
            axes.scatter(*mean, s=75, edgecolor=PAPER, linewidth=1.2, zorder=4, clip_on=False, **style)
        axes.set_title(title, fontsize=9)
        axes.set_xscale("log")
        axes.set_ylim(0, 102 if factor == 100 else None)
        plain_numbers(axes.xaxis)
    return figure


@rc_context(STYLE)
def ratios(analyses: Sequence[Analysis]) -> Figure:
    """Draw the singular values of W' over those of W by their index: the median over the blocks, and their spread."""
    shown, marks = with_weights(analyses), marks_of(analyses)
    keys = keys_of(shown, analyses, marker=False)
    figure, panels = _by_kind(shown, keys, "Index of the singular value", "After / before")
    medians = []
    for kind, axes in panels.items():
        axes.axhline(1, color=SOFT, linewidth=0.9)
        for analysis in shown:
            curves = []
            for row in _of_kind(analysis, kind):
                count = int((row.values_before > _ZERO * row.values_before[:1]).sum())
                curves.append(row.values_after[:count] / row.values_before[:count])
            places, (low, middle, high) = _overblocks_of(curves, (0.1, 0.5, 0.9))
            medians.append(middle[places <= _STEADY * places.max(initial=0)])
            colour = marks[analysis.label]["color"]
            axes.plot(places, middle, color=colour, linestyle=marks[analysis.label]["linestyle"], linewidth=1.5)
            if len(shown) <= BANDS and len(curves) > 1:
                axes.fill_between(places, low, high, color=colour, alpha=0.18, linewidth=0)
        axes.set_xscale("log")
        plain_numbers(axes.xaxis, (1,))
    _scale_ratios(list(panels.values()), np.concatenate(medians))
    return figure


@rc_context(STYLE)
def spectra(analyses: Sequence[Analysis]) -> Figure:
    """Draw the singular values of W, W' and ΔW over the largest of W: the median over the blocks, both axes in logs."""
    shown, marks = with_weights(analyses), marks_of(analyses)
    keys = [
        *keys_of(shown, analyses, marker=False, line=False),
        Line2D([], [], color=RULE, linewidth=4, label="W, before"),
        Line2D([], [], color=SOFT, linewidth=0.9, label="W', after"),
        Line2D([], [], color=SOFT, linewidth=1.5, linestyle="--", label="ΔW, the change"),
    ]
    figure, panels = _by_kind(shown, keys, "Index of the singular value", "Part of the largest of W")
    lowest = 1.0
    for kind, axes in panels.items():
        for analysis in shown:
            rows = [row for row in _of_kind(analysis, kind) if row.values_before[:1].any()]
            styles = (
                ("values_before", {"color": RULE, "linewidth": 4, "zorder": 1}),
                ("values_after", {"color": marks[analysis.label]["color"], "linewidth": 0.9}),
                ("values_change", {"color": marks[analysis.label]["color"], "linewidth": 1.5, "linestyle": "--"}),
            )
            for name, style in styles:
                curves = [getattr(row, name) / row.values_before[0] for row in rows]
                places, (middle,) = _overblocks_of(curves, (0.5,))
                axes.plot(places, np.where(middle > 0, middle, np.nan), **style)
                if len(middle):
                    known = middle[middle > _ZERO]
                    lowest = min(lowest, np.percentile(known, 10) / 2 if len(known) else 1)
        axes.set(xscale="log", yscale="log")
        plain_numbers(axes.xaxis, (1,))
        plain_numbers(axes.yaxis, (1,))
    next(iter(panels.values())).set_ylim(max(lowest, 1e-5), 2)
    return figure


@rc_context(STYLE)
def energies(analyses: Sequence[Analysis]) -> Figure:
    """Draw the share of the change's energy in the leading singular directions of W, beside that of W itself."""
    shown, marks = with_weights(analyses), marks_of(analyses)
    keys = [
        *keys_of(shown, analyses, marker=False),
        Line2D([], [], color=RULE, linewidth=4, label="W itself"),
        Line2D([], [], color=SOFT, linewidth=0.9, linestyle=":", label="evenly spread"),
    ]
    figure, panels = _by_kind(shown, keys, "Leading directions of W (%)", "Share of the energy (%)")
    shares = np.linspace(0, 1, 51)
    for kind, axes in panels.items():
        axes.plot([0, 100], [0, 100], color=SOFT, linewidth=0.9, linestyle=":")
        for analysis in shown:
            rows = [row for row in _of_kind(analysis, kind) if row.energy.any()]
            if not rows:
                continue
            own = [cumulated(row.values_before[: len(row.energy)] ** 2, shares) for row in rows]
            change = [cumulated(row.energy, shares) for row in rows]
            axes.plot(100 * shares, 100 * np.median(own, axis=0), color=RULE, linewidth=4, zorder=1)
            style = {key: marks[analysis.label][key] for key in ("color", "linestyle")}
            axes.plot(100 * shares, 100 * np.median(change, axis=0), linewidth=1.5, **style)
        axes.set(xlim=(0, 100), ylim=(0, 102))
    return figure


@rc_context(STYLE)
def by_block(analyses: Sequence[Analysis], measure: str, label: str) -> Figure:
    """Draw a field of both sides of the weights over the blocks, a panel for each side and kind.

    Args:
        analyses: The runs.
        measure: Attribute of `WeightMeasures`, with {side} for "left" or "right".
        label: Name of the field, with its unit.
    """
    shown, marks = with_weights(analyses), marks_of(analyses)
    kinds = kinds_of(shown)
    pairs = [(side, kind) for side in SIDES for kind in kinds]
    keys = keys_of(shown, analyses)
    figure, panels = make_panels(len(pairs), len(kinds), (3.2, 1.5), keys=keys, x="Block", y=label, sharey=True)
    for axes, (side, kind) in zip(panels, pairs, strict=True):
        for analysis in shown:
            rows = [row for row in _of_kind(analysis, kind) if row.relative_change]
            places = [place if row.layer is None else row.layer for place, row in enumerate(rows)]
            style = marks[analysis.label] | {"markersize": 3, "linewidth": 1.1}
            axes.plot(places, numbers_of(rows, measure.format(side=side)), clip_on=False, **style)
        axes.set_xlim(-0.6, max(blocks_of(shown), default=len(shown[0].rows) - 1) + 0.6)
        axes.set_title(f"{shorten(kind, 12)}, {SIDES[side]}", fontsize=8, fontweight="normal")
        axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    panels[0].set_ylim(0)
    return figure


@rc_context(STYLE)
def scalings(analyses: Sequence[Analysis]) -> Figure:
    """Draw how much of each run's change scalings of outputs, of inputs and of both explain: mean and spread."""
    shown, marks = with_weights(analyses), marks_of(analyses)
    names = [shorten(analysis.label, 30) for analysis in shown]
    keys = [
        Line2D([], [], color=SOFT, linestyle="", marker=marker, markersize=6, label=f"scaling {name}")
        for name, marker in SCALINGS.values()
    ]
    figure, (axes,) = make_panels(
        1, 1, (6.5, 0.55 * len(shown) + 0.3), keys=keys, x="Share of the change explained (%)"
    )
    for place, analysis in enumerate(shown):
        rows = [row for row in analysis.rows if row.norm_change]
        colour = marks[analysis.label]["color"]
        for offset, (measure, (_, marker)) in zip((-0.24, 0, 0.24), SCALINGS.items(), strict=True):
            values = 100 * numbers_of(rows, measure)
            axes.plot(np.quantile(values, (0.1, 0.9)), [place + offset] * 2, color=colour, linewidth=1.2, alpha=0.6)
            mean = 100 * (analysis.mean_by_energy(measure) or 0)
            axes.plot(mean, place + offset, marker, color=colour, markersize=6, markeredgecolor=PAPER)
    axes.set_yticks(range(len(shown)), names)
    axes.set(xlim=(-2, 102), ylim=(len(shown) - 0.5, -0.5))
    plain(axes, "x")
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0, labelcolor=INK, labelsize=8)
    return figure


def _by_kind(shown: Sequence[Analysis], keys: Sequence[Line2D], x: str, y: str) -> tuple[Figure, dict[str, Axes]]:
    """Make a panel for each kind of weight."""
    kinds = kinds_of(shown)
    columns, width = (4, 2.4) if len(kinds) in (4, 7, 8) else (3, 3.2)
    figure, panels = make_panels(len(kinds), columns, (width, 1.9), keys=keys, x=x, y=y, sharey=True)
    for axes, kind in zip(panels, kinds, strict=True):
        axes.set_title(shorten(kind, 20), fontsize=9)
    return figure, dict(zip(kinds, panels, strict=True))


def _scale_ratios(axes: Sequence[Axes], medians: np.ndarray) -> None:
    """Scale axes of ratios to the medians, by logarithms if these are far apart."""
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


def blocks_of(analyses: Iterable[Analysis]) -> list[int]:
    """Return the numbers of the blocks that any run has."""
    return sorted({row.layer for analysis in analyses for row in analysis.rows if row.layer is not None})


def numbers_of(rows: Iterable[WeightMeasures], measure: str) -> np.ndarray:
    """Return a field of some weights; NaN where it is not defined."""
    return np.array([np.nan if (value := getattr(row, measure)) is None else value for row in rows])


def _overblocks_of(curves: Sequence[np.ndarray], quantiles: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """Return quantiles over curves of different lengths, at indices evenly spread on a log scale.

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
    """Return the share of the energy in each leading share of the directions."""
    total = np.concatenate([[0], np.cumsum(energies)])
    return np.interp(shares * (len(total) - 1), np.arange(len(total)), total / total[-1])
