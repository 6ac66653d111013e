"""Figures of a fine-tuning run: its curves, its confusion matrix and its predictions on some images.

Pure functions from numbers to `matplotlib` figures, which need no display and leave pyplot's state alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import cycle
from unicodedata import east_asian_width

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.colorbar import Colorbar
from matplotlib.colors import Normalize, PowerNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike
from PIL import Image

from rlrr.report.colours import PAPER, RIGHT, RULE, RUNS, SHARES, SOFT, STYLE, WASH, WRONG, colour_on

WIDTH = 10  # inches of 96 CSS pixels, the most a figure may be wide
MOST_COUNTS = 20  # classes up to which the counts are legible inside the cells
MOST_TICKS = 40  # names along one side of a confusion matrix
MOST_IMAGES = 20
SMALL_IMAGE = 112  # pixels; images up to this size show their pixels


@rc_context(STYLE)
def curves(histories: Mapping[str, Sequence[Mapping[str, float]]]) -> Figure:
    """Draw loss and validation accuracy over the epochs, one colour per run.

    `histories` maps the name of a run to its log records. A record holds "epoch" and any of "loss" (training),
    "eval_loss" and "eval_accuracy" (a fraction); missing and non-finite values are left out.
    """
    figure = Figure(figsize=(WIDTH, 4.2), layout="constrained")
    loss, accuracy = figure.subplots(1, 2, sharex=True)
    runs = [*zip(histories.items(), cycle(RUNS), strict=False)]
    keys = [Line2D([], [], color=colour, linewidth=4, label=shorten(name, 40)) for (name, _), colour in runs]
    for (_, records), colour in runs:
        loss.plot(*series(records, "loss"), color=colour, linestyle="--", linewidth=1.1, alpha=0.8)
        loss.plot(*series(records, "eval_loss"), color=colour, linewidth=1.8, marker="o", markersize=3.5)
        epochs, fractions = series(records, "eval_accuracy")
        percent = [100 * fraction for fraction in fractions]
        accuracy.plot(epochs, percent, color=colour, linewidth=1.8, marker="o", markersize=3.5)
    loss.set(title="Loss", xlabel="Epoch", ylabel="Cross-entropy")
    accuracy.set(title="Validation accuracy", xlabel="Epoch", ylabel="Correct (%)")
    for axes in (loss, accuracy):
        axes.spines[["top", "right"]].set_visible(False)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(axis="y", color=RULE, linewidth=0.8)
        axes.set_axisbelow(True)
        if not any(len(line.get_xdata()) for line in axes.lines):
            axes.text(0.5, 0.5, "not measured", transform=axes.transAxes, ha="center", color=SOFT)
            axes.set_yticks([])
    loss.set_xlim(left=0)
    keys += [
        Line2D([], [], color=SOFT, linewidth=1.8, marker="o", markersize=3.5, label="validation"),
        Line2D([], [], color=SOFT, linewidth=1.1, linestyle="--", label="training"),
    ]
    figure.legend(handles=keys, loc="outside upper left", ncols=min(len(keys), 6), frameon=False)
    return figure


@rc_context(STYLE)
def confusion_matrix(matrix: np.ndarray, classes: Sequence[str], title: str) -> Figure:
    """Draw how often each true class was predicted as each class.

    Args:
        matrix: Counts, shape (true classes, predicted classes).
        classes: Class names, in the order of `matrix`.
        title: One line above the matrix.
    """
    number = len(classes)
    totals = matrix.sum(axis=1, keepdims=True)
    percent = 100 * matrix / np.maximum(totals, 1)

    step = math.ceil(number / MOST_TICKS)
    ticks = range(0, number, step)
    names = [shorten(classes[index], 22) for index in ticks]
    size = 9 if number <= MOST_COUNTS else 7
    longest = max(map(len, names), default=0) * 0.008 * size  # inches, about
    side = min(max(0.42 * number, 1.8), WIDTH - 2.8)
    figure = Figure(figsize=(side + 2.8, side + 1.9), layout="constrained")
    axes = figure.subplots()
    # The square root shows an error of one in a hundred, which a linear scale would leave white.
    norm = PowerNorm(0.5, vmin=0, vmax=100)
    cells = put_cells(axes, percent, norm, lines=number <= MOST_COUNTS)
    axes.set_xticks(ticks, names, fontsize=size, rotation=0 if longest < step * side / number else 90)
    axes.set_yticks(ticks, names, fontsize=size)
    axes.tick_params(length=0 if step == 1 else 3)
    axes.set(xlabel="Predicted", ylabel="True", aspect="equal")
    axes.spines[:].set_visible(number > MOST_COUNTS)
    axes.spines[:].set_color(RULE)
    put_title(figure, title)

    if number <= MOST_COUNTS:
        for (true, predicted), count in np.ndenumerate(matrix):
            if count:
                colour = colour_on(norm(percent[true, predicted]))
                small = 8 if count < 10_000 else 6
                axes.text(predicted, true, f"{count:.0f}", ha="center", va="center", color=colour, fontsize=small)
    bar = figure.colorbar(cells, ax=axes, shrink=0.8, aspect=25, ticks=[0, 1, 5, 10, 25, 50, 75, 100])
    bar.set_label("Share of the true class (%)")
    plain_bar(bar)
    return figure


@rc_context(STYLE)
def sample_predictions(
    images: Sequence[Image.Image],
    truths: Sequence[str | None],
    predictions: Sequence[str],
    confidences: Sequence[float],
    title: str,
) -> Figure:
    """Show the first images (at most 20), each with the predicted class and whether it is right.

    Args:
        images: Images of any size and mode.
        truths: The true classes; an unknown one is None and has no mark.
        predictions: The predicted classes.
        confidences: The probabilities of the predicted classes, 0 to 1.
        title: One line above the images.
    """
    samples = list(zip(images, truths, predictions, confidences, strict=True))[:MOST_IMAGES]
    columns = min(max(len(samples), 2), 5)
    rows = max(math.ceil(len(samples) / columns), 1)
    side = WIDTH / 5
    figure = Figure(figsize=(side * columns, (side + 0.35) * rows + 0.35), layout="constrained")
    put_title(figure, title)
    for place, (image, truth, prediction, confidence) in enumerate(samples, start=1):
        axes = figure.add_subplot(rows, columns, place)
        _show(image, axes)
        wrong = truth is not None and truth != prediction
        mark, colour = ("", SOFT) if truth is None else ("✗ ", WRONG) if wrong else ("✓ ", RIGHT)
        label = f"{mark}{shorten(prediction, 16)} ({100 * confidence:.0f} %)"
        below = f"true {shorten(truth, 18)}" if truth is not None and wrong else " "
        axes.set_xlabel(f"{label}\n{below}", color=colour, loc="left", fontsize=9)
        axes.spines[:].set(color=colour, linewidth=2)
    return figure


def put_cells(
    axes: Axes, field: np.ndarray, norm: Normalize, *, columns: ArrayLike | None = None, lines: bool = False
) -> QuadMesh:
    """Draw a field (lines, columns) of shares as cells around whole numbers, line 0 at the top.

    The cells are vectors, so that their colours follow the page.

    Args:
        axes: Where to draw.
        field: Numbers; cells of NaN are blank.
        norm: Scale from numbers to shares.
        columns: Edges of the columns, if they are not of width 1.
        lines: Separate the cells by lines.
    """
    mesh = axes.pcolormesh(
        np.arange(field.shape[1] + 1) - 0.5 if columns is None else columns,
        np.arange(field.shape[0] + 1) - 0.5,
        np.ma.masked_invalid(field),
        cmap=SHARES,
        norm=norm,
        edgecolor=PAPER if lines else "face",
        linewidth=1 if lines else 0.3,
    )
    axes.set_ylim(field.shape[0] - 0.5, -0.5)
    axes.grid(visible=False)
    return mesh


def plain_bar(bar: Colorbar) -> None:
    """Leave the frame of a colour bar out, and gaps between its colours."""
    bar.outline.set_visible(False)
    if bar.solids is not None:
        bar.solids.set_edgecolor("face")


def put_title(figure: Figure, title: str) -> None:
    """Write `title` above the whole figure, shortened to its width."""
    line = shorten(title, int(11 * figure.get_figwidth()))
    figure.suptitle(line, x=0.06 / figure.get_figwidth(), ha="left", fontsize=10, fontweight="bold")


def series(records: Sequence[Mapping[str, float]], key: str) -> tuple[list[float], list[float]]:
    """Return the epochs and the finite values of `key`, in the order of the epochs."""
    points = sorted(
        (record["epoch"], record[key])
        for record in records
        if "epoch" in record and record.get(key) is not None and math.isfinite(record[key])
    )
    return [epoch for epoch, _ in points], [value for _, value in points]


def _show(image: Image.Image, axes: Axes) -> None:
    """Put `image` in the middle of a square, so that all frames of a grid are alike."""
    small = max(image.size) <= SMALL_IMAGE
    image = image.convert("RGB")
    image.thumbnail((512, 512))
    half_width, half_height = image.width / 2, image.height / 2
    axes.imshow(
        image,
        extent=(-half_width, half_width, -half_height, half_height),
        interpolation="none" if small else "antialiased",
    )
    half = max(half_width, half_height)
    axes.set(xlim=(-half, half), ylim=(-half, half), xticks=[], yticks=[], facecolor=WASH)


def shorten(text: str, width: int) -> str:
    """Fit `text` into one line of about `width` letters, and replace what neither fonts nor XML can hold."""
    text = " ".join(text.encode("utf-8", "replace").decode().split())
    text = "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text)
    used = 0
    for place, letter in enumerate(text):
        used += 2 if east_asian_width(letter) in "WF" else 1
        if used > width:
            return text[: place - 1].rstrip() + "…"
    return text
