"""Draw what a run learned and how: the learned tensors, the deviation over the epochs, and features of the blocks."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from matplotlib import rc_context
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from rlrr.report.colours import PAPER, RUNS, SOFT, STYLE
from rlrr.report.figures import put_cells, series, shorten
from rlrr.spectral.analysis import Analysis
from rlrr.spectral.report.panels import keys_of, make_panels, marks_of, put_colour_bar

OUTSIDE = "outside blocks"
_BLOCK = re.compile(r".*\.\d+(?=\.)")


@rc_context(STYLE)
def learned_tensors(analysis: Analysis) -> Figure:
    """Draw the distribution of each learned tensor of one run by block: median, middle half, and 5 to 95 %."""
    groups = tensors_by_kind(analysis)
    neutral = neutral_values(analysis)
    limits: dict[str, tuple[float, float]] = {}
    for (name, _), of_blocks in groups.items():
        ends = [end for values in of_blocks.values() for end in np.quantile(values, (0.05, 0.95))]
        ends += [*limits.get(name, ()), *([neutral[name]] if name in neutral else [])]
        limits[name] = min(ends), max(ends)
    figure, panels = make_panels(len(groups), 4, (2.4, 1.6), sharex=False)
    for axes, ((name, kind), of_blocks) in zip(panels, groups.items(), strict=True):
        if name in neutral:
            axes.axhline(neutral[name], color=SOFT, linewidth=0.8)
        places = range(len(of_blocks))
        low, lower, middle, upper, high = np.transpose(
            [np.quantile(values, (0.05, 0.25, 0.5, 0.75, 0.95)) for values in of_blocks.values()]
        )
        axes.vlines(places, low, high, color=RUNS[0], linewidth=0.9)
        axes.vlines(places, lower, upper, color=RUNS[0], linewidth=3.4)
        axes.plot(places, middle, "o", color=PAPER, markeredgecolor=RUNS[0], markersize=3, markeredgewidth=0.9)
        blocks = list(of_blocks)
        if kind == OUTSIDE:
            names = [shorten(str(block), 11) for block in blocks]
            axes.set_xticks(places, names, rotation=90 if len(blocks) > 2 else 0)
        else:
            step = math.ceil(len(blocks) / 6)
            axes.set_xticks(places[::step], [str(block) for block in blocks[::step]])
        bottom, top = limits[name]
        room = 0.06 * (top - bottom) or 1
        axes.set(xlim=(-0.6, len(blocks) - 0.4), ylim=(bottom - room, top + room))
        axes.set_title(f"{name}, {shorten(kind, 14)}", fontsize=8, fontweight="normal")
        axes.yaxis.set_major_locator(MaxNLocator(4))
    return figure


@rc_context(STYLE)
def deviations(analyses: Sequence[Analysis]) -> Figure:
    """Draw how far the whole backbone was from pre-training, over the epochs."""
    shown, marks = [analysis for analysis in analyses if analysis.deviations], marks_of(analyses)
    keys = keys_of(shown, analyses)
    figure, (axes,) = make_panels(1, 1, (6.5, 2.4), keys=keys, x="Epoch", y="Deviation (%)")
    for analysis in shown:
        epochs, values = series(analysis.deviations, "deviation")
        axes.plot(epochs, [100 * value for value in values], linewidth=1.6, clip_on=False, **marks[analysis.label])
    axes.set(xlim=(0, None), ylim=(0, None))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure


@rc_context(STYLE)
def deviations_by_block(analyses: Sequence[Analysis]) -> Figure:
    """Draw how far each block was from pre-training over the epochs, a panel for each run."""
    fields = {analysis.label: deviation_field(analysis) for analysis in analyses}
    fields = {label: (epochs, field) for label, (epochs, field) in fields.items() if field.size}
    norm = Normalize(0, max(np.nanmax(field) for _, field in fields.values()))
    blocks = max(len(field) for _, field in fields.values())
    size = (3, min(0.13 * blocks, 3.5) + 0.5)
    figure, panels = make_panels(len(fields), 3, size, x="Epoch", y="Block", sharey=True)
    for axes, (label, (epochs, field)) in zip(panels, fields.items(), strict=True):
        middles = [(before + after) / 2 for before, after in pairwise(epochs)]
        cells = put_cells(axes, field, norm, columns=[epochs[0] - 0.5, *middles, epochs[-1] + 0.5])
        axes.set_title(shorten(label, 30), fontsize=8.5)
        axes.spines[:].set_visible(False)
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes.yaxis.set_major_locator(MaxNLocator(7, integer=True))
    panels[0].set_ylim(blocks - 0.5, -0.5)
    put_colour_bar(figure, cells, panels, "Deviation (%)")
    return figure


@rc_context(STYLE)
def features(analyses: Sequence[Analysis]) -> Figure:
    """Draw how much the features of each block have changed."""
    shown, marks = [analysis for analysis in analyses if analysis.features], marks_of(analyses)
    titles = {
        "cka": ("Likeness (CKA)", 1),
        "subspace_angle": ("Mean angle (degrees)", 1),
        "relative_change": ("Relative change (%)", 100),
    }
    keys = keys_of(shown, analyses)
    figure, panels = make_panels(len(titles), 3, (3.2, 2.4), keys=keys, x="Block")
    for axes, (name, (title, factor)) in zip(panels, titles.items(), strict=True):
        lowest = 0.0
        for analysis in shown:
            layers = [record["layer"] for record in analysis.features]
            values = [np.nan if record[name] is None else factor * record[name] for record in analysis.features]
            lowest = min(lowest, *values)
            axes.plot(layers, values, markersize=4, linewidth=1.3, clip_on=False, **marks[analysis.label])
        axes.set_title(title, fontsize=9)
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.set_ylim(lowest, 1 if name == "cka" else None)
    return figure


def neutral_values(analysis: Analysis) -> dict[str, float]:
    """Return, by name, the value of each learned tensor that leaves a model as it was, where that is known."""
    return {name: value for values in analysis.neutral.values() for name, value in values.items()}


def tensors_by_kind(analysis: Analysis) -> dict[tuple[str, str], dict[int | str, np.ndarray]]:
    """Group the learned tensors of a run: for each name and kind of module, its values by block.

    Modules outside the blocks are together, by name, as the kind `OUTSIDE`.
    """
    blocks = {
        found[0]: row.layer
        for row in analysis.rows
        if row.layer is not None and (found := _BLOCK.match(row.name)) is not None
    }
    groups: dict[tuple[str, str], dict[int | str, np.ndarray]] = {}
    names = list(dict.fromkeys(name for vectors in analysis.vectors.values() for name in vectors))
    for name in names:
        for module, vectors in analysis.vectors.items():
            if name not in vectors:
                continue
            found = _BLOCK.match(module)
            block = blocks.get(found[0]) if found else None
            kind = OUTSIDE if block is None else module.rpartition(".")[2]
            place = module.removesuffix(".proj") if block is None else block
            groups.setdefault((name, kind), {})[place] = np.asarray(vectors[name].detach().double()).ravel()
    return groups


def deviation_field(analysis: Analysis) -> tuple[list[float], np.ndarray]:
    """Return epochs, and percent (blocks, epochs)."""
    names = {key for record in analysis.deviations for key in record}
    blocks = sorted(int(found[1]) for name in names if (found := re.fullmatch(r"deviation_(\d+)", name)))
    epochs = sorted({record["epoch"] for record in analysis.deviations if "epoch" in record})
    field = np.full((len(blocks), len(epochs)), np.nan)
    for line, block in enumerate(blocks):
        for epoch, value in zip(*series(analysis.deviations, f"deviation_{block}"), strict=True):
            field[line, epochs.index(epoch)] = 100 * value
    return epochs, field
