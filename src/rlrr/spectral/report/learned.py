"""Figures of what a run learned and how: the vectors, the deviation over the epochs, and what the blocks put out."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from rlrr.report.figures import LIGHT, Look, series, shorten, styled
from rlrr.spectral.analysis import Analysis
from rlrr.spectral.report.panels import keys_of, marks_of, panels_of, put_colour_bar, put_panel_title

OUTSIDE = "outside blocks"
_BLOCK = re.compile(r".*\.\d+(?=\.)")


@styled
def learned_vectors(analysis: Analysis, *, look: Look = LIGHT) -> Figure:
    """Draw the distribution of each learned vector of one run by block: median, middle half, and 5 to 95 %."""
    groups = vectors_by_kind(analysis)
    limits: dict[str, tuple[float, float]] = {}
    for (name, _), of_blocks in groups.items():
        ends = np.array([np.quantile(values, (0.05, 0.95)) for values in of_blocks.values()])
        low, high = limits.get(name, (neutral(name), neutral(name)))
        limits[name] = min(low, ends.min()), max(high, ends.max())
    upright = any(len(of_blocks) > 2 for (_, kind), of_blocks in groups.items() if kind == OUTSIDE)
    figure, panels = panels_of(
        look,
        len(groups),
        height=1.05,
        columns=2 if look.narrow else 4,
        above=0.5,
        below=0.75 if upright else 0.3,
        sharex=False,
    )
    colour = look.runs[0]
    for axes, ((name, kind), of_blocks) in zip(panels, groups.items(), strict=True):
        axes.axhline(neutral(name), color=look.soft, linewidth=0.8)
        places = range(len(of_blocks))
        low, lower, middle, upper, high = np.transpose(
            [np.quantile(values, (0.05, 0.25, 0.5, 0.75, 0.95)) for values in of_blocks.values()]
        )
        axes.vlines(places, low, high, color=colour, linewidth=0.9)
        axes.vlines(places, lower, upper, color=colour, linewidth=3.4)
        axes.plot(places, middle, "o", color=look.paper, markeredgecolor=colour, markersize=3, markeredgewidth=0.9)
        blocks = list(of_blocks)
        if kind == OUTSIDE:
            names = [shorten(str(block), 11) for block in blocks]
            axes.set_xticks(places, names, rotation=90 if upright else 0)
        else:
            step = math.ceil(len(blocks) / 6)
            axes.set_xticks(places[::step], [str(block) for block in blocks[::step]])
        low, high = limits[name]
        room = 0.06 * (high - low) or 1
        axes.set(xlim=(-0.6, len(blocks) - 0.4), ylim=(low - room, high + room))
        put_panel_title(axes, f"{name}, {shorten(kind, 14)}", 8, weight="normal")
        axes.yaxis.set_major_locator(MaxNLocator(4))
    return figure


@styled
def deviations(analyses: Sequence[Analysis], *, look: Look = LIGHT) -> Figure:
    """Draw how far the whole backbone was from pre-training, over the epochs."""
    shown, marks = [analysis for analysis in analyses if analysis.deviations], marks_of(analyses, look)
    keys = keys_of(shown, analyses, look)
    figure, (axes,) = panels_of(
        look,
        1,
        height=2.1,
        width=None if look.narrow else 6,
        columns=1,
        keys=keys,
        x="Epoch",
        y="Deviation (%)",
        above=0.1,
    )
    for analysis in shown:
        epochs, values = series(analysis.deviations, "deviation")
        axes.plot(epochs, [100 * value for value in values], linewidth=1.6, clip_on=False, **marks[analysis.label])
    axes.set(xlim=(0, None), ylim=(0, None))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure


@styled
def deviations_by_block(analyses: Sequence[Analysis], *, look: Look = LIGHT) -> Figure:
    """Draw how far each block was from pre-training over the epochs, a panel for each run."""
    fields = {analysis.label: deviation_field(analysis) for analysis in analyses}
    fields = {label: (epochs, field) for label, (epochs, field) in fields.items() if field.size}
    top = max(np.nanmax(field) for _, field in fields.values())
    blocks = max(len(field) for _, field in fields.values())
    figure, panels = panels_of(
        look,
        len(fields),
        height=min(0.13 * blocks, 3.5),
        width=2.6,
        columns=1 if look.narrow else 3,
        x="Epoch",
        y="Block",
        right=0.05 if look.narrow else 0.7,
        below=0.85 if look.narrow else 0.25,
        gap=0.2,
        sharey=True,
    )
    for axes, (label, (epochs, field)) in zip(panels, fields.items(), strict=True):
        middles = [(before + after) / 2 for before, after in pairwise(epochs)]
        edges = np.array([epochs[0] - 0.5, *middles, epochs[-1] + 0.5])
        mesh = axes.pcolormesh(edges, np.arange(len(field) + 1) - 0.5, field, cmap=look.shares, vmin=0, vmax=top)
        put_panel_title(axes, shorten(label, 30), 8.5)
        axes.grid(visible=False)
        axes.spines[:].set_visible(False)
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes.yaxis.set_major_locator(MaxNLocator(7, integer=True))
    panels[0].set_ylim(blocks - 0.5, -0.5)
    put_colour_bar(figure, mesh, panels[0], look, "Deviation (%)")
    return figure


@styled
def features(analyses: Sequence[Analysis], *, look: Look = LIGHT) -> Figure:
    """Draw by how much what the blocks put out has changed."""
    shown, marks = [analysis for analysis in analyses if analysis.features], marks_of(analyses, look)
    titles = {
        "cka": ("Likeness (CKA)", 1),
        "subspace_angle": ("Mean angle (degrees)", 1),
        "relative_change": ("Relative change (%)", 100),
    }
    height, columns = (1.6, 1) if look.narrow else (2.2, 3)
    keys = keys_of(shown, analyses, look)
    figure, panels = panels_of(look, len(titles), height=height, columns=columns, keys=keys, x="Block")
    for axes, (name, (title, factor)) in zip(panels, titles.items(), strict=True):
        lowest = 0.0
        for analysis in shown:
            layers = [record["layer"] for record in analysis.features]
            values = [np.nan if record[name] is None else factor * record[name] for record in analysis.features]
            lowest = min(lowest, *values)
            axes.plot(layers, values, markersize=4, linewidth=1.3, clip_on=False, **marks[analysis.label])
        put_panel_title(axes, title, 9)
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.set_ylim(lowest, 1 if name == "cka" else None)
    return figure


def neutral(vector: str) -> float:
    """The value of a learned vector that leaves a model as it was."""
    return 1 if vector == "scale" else 0


def vectors_by_kind(analysis: Analysis) -> dict[tuple[str, str], dict[int | str, np.ndarray]]:
    """The learned vectors of a run: for each vector and kind of module, its values by block.

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
    """Epochs, and percent (blocks, epochs)."""
    names = {key for record in analysis.deviations for key in record}
    blocks = sorted(int(found[1]) for name in names if (found := re.fullmatch(r"deviation_(\d+)", name)))
    epochs = sorted({record["epoch"] for record in analysis.deviations if "epoch" in record})
    field = np.full((len(blocks), len(epochs)), np.nan)
    for line, block in enumerate(blocks):
        for epoch, value in zip(*series(analysis.deviations, f"deviation_{block}"), strict=True):
            field[line, epochs.index(epoch)] = 100 * value
    return epochs, field
