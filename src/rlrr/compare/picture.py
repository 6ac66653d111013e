"""Pictures of tables: ours, with the deviation over the seeds, beside what the paper prints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rlrr.compare.table import AblationLine, Line, Score
from rlrr.report.colours import PAPER, RULE, RUNS, SOFT, STYLE
from rlrr.report.figures import put_title

_OURS, _PRINTED = RUNS[:2]
_ROW = 0.26  # inches


@rc_context(STYLE)
def benchmark_picture(groups: Sequence[Sequence[Line]], title: str, label: str, printed: str | None) -> Figure:
    """Draw a row of dots for each line.

    Args:
        groups: Lines that belong together, as those of a group of tasks, and the means.
        title: one line above.
        label: what our numbers are.
        printed: what the printed ones are; None if there are none.
    """
    number = sum(map(len, groups)) + len(groups) - 1
    figure = Figure(figsize=(8, _ROW * number + 1.5), layout="constrained")
    axes = figure.subplots()
    places, titles, place = [], [], 0
    for lines in groups:
        for line in lines:
            if line.printed is not None:
                axes.plot(line.printed, place, "D", color=_PRINTED, markersize=5, markerfacecolor=PAPER, zorder=3)
            if line.ours:
                _dot(axes, line.ours, place)
            places.append(place)
            titles.append(line.title)
            place += 1
        place += 1
    _finish(axes, places, titles, "Correct (%)")
    _legend(figure, axes, label, printed)
    put_title(figure, title)
    return figure


@rc_context(STYLE)
def ablation_picture(
    tables: Mapping[str, Sequence[AblationLine]], title: str, label: str, printed: str | None
) -> Figure:
    """Draw, for each table by its title, what each variation gains over the full method, here and in the paper."""
    shown = {name: [line for line in lines if line.to_full or line.printed_to_full] for name, lines in tables.items()}
    heights = [len(lines) + 2.5 for lines in shown.values()]
    figure = Figure(figsize=(8, _ROW * sum(heights) + 1.4), layout="constrained")
    grid = figure.subplots(len(shown), 1, squeeze=False, sharex=True, gridspec_kw={"height_ratios": heights})
    for axes, (name, lines) in zip(grid[:, 0], shown.items(), strict=True):
        for place, line in enumerate(lines):
            for gain in line.printed_to_full.values():
                axes.plot(gain, place, "D", color=_PRINTED, markersize=5, markerfacecolor=PAPER, zorder=3)
            if line.to_full:
                _dot(axes, line.to_full, place)
        axes.axvline(0, color=SOFT, linewidth=0.8)
        last = axes is grid[-1, 0]
        _finish(axes, range(len(lines)), [line.title for line in lines], "Points over the full method" if last else "")
        axes.set_title(name)
    _legend(figure, grid[0, 0], label, printed)
    put_title(figure, title)
    return figure


def _dot(axes: Axes, score: Score, place: float) -> None:
    axes.errorbar(
        score.mean,
        place,
        xerr=score.deviation,
        fmt="o",
        color=_OURS,
        markersize=5,
        elinewidth=1.4,
        capsize=2.5,
        zorder=4,
    )


def _finish(axes: Axes, places: Sequence[float], titles: Sequence[str], label: str) -> None:
    axes.set_yticks(places, titles)
    axes.set_ylim(max(places, default=0) + 0.7, -0.7)
    axes.set_xlabel(label)
    axes.tick_params(axis="y", length=0)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.grid(color=RULE, linewidth=0.8)
    axes.set_axisbelow(True)


def _legend(figure: Figure, axes: Axes, label: str, printed: str | None) -> None:
    axes.plot([], [], "o", color=_OURS, markersize=5, label=f"ours ± deviation: {label}")
    if printed:
        axes.plot([], [], "D", color=_PRINTED, markersize=5, markerfacecolor=PAPER, label=f"printed: {printed}")
    figure.legend(loc="outside lower left", frameon=False, fontsize=8)
