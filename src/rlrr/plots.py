"""Figures of a fine-tuning run: its curves, its confusion matrix and what it said about some images.

Pure functions from numbers to `matplotlib` figures. They need no display and leave pyplot's state alone.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any
from unicodedata import east_asian_width

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.font_manager import get_font_names
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from PIL import Image

from rlrr.files import atomic

# Okabe and Ito's colours, which stay apart for colour-blind readers.
RUN_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
RIGHT, WRONG, UNKNOWN = "#00745A", "#C04A00", "#444444"
GREY, RULE = "#555555", "#DDDDDD"

MOST_COUNTS = 20  # classes up to which the counts are legible inside the cells
MOST_TICKS = 40  # names along one side of a confusion matrix
MOST_IMAGES = 20
COLUMNS = 5
SMALL_IMAGE = 112  # pixels; up to here the pixels themselves are shown

# DejaVu Sans comes with matplotlib; the others, where installed, fill in the scripts it lacks.
_FALLBACKS = ("Noto Sans CJK SC", "Noto Sans CJK JP", "PingFang SC", "Microsoft YaHei", "Arial Unicode MS")
STYLE: dict[Any, Any] = {
    "font.family": ["DejaVu Sans", *(name for name in _FALLBACKS if name in get_font_names())],
    "font.size": 9,
    "text.usetex": False,
    "text.parse_math": False,  # a "$" in a class name is a dollar
    "text.color": "#222222",
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelcolor": GREY,
    "axes.edgecolor": GREY,
    "axes.facecolor": "white",
    "figure.facecolor": "white",
    "figure.constrained_layout.w_pad": 0.06,
    "figure.constrained_layout.h_pad": 0.06,
    "xtick.color": GREY,
    "ytick.color": GREY,
}


@rc_context(STYLE)
def curves(histories: Mapping[str, Sequence[Mapping[str, float]]]) -> Figure:
    """Draw loss and validation accuracy over the epochs, one colour per run.

    `histories` maps the name of a run to its log records. A record holds "epoch" and any of "loss" (in
    training), "eval_loss" and "eval_accuracy" (a fraction); what it lacks, or is not finite, is left out.
    """
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    loss, accuracy = figure.subplots(1, 2, sharex=True)
    keys = [
        Line2D([], [], color=colour, linewidth=4, label=_shorten(name, 40))
        for name, colour in zip(histories, cycle(RUN_COLOURS), strict=False)
    ]
    for records, colour in zip(histories.values(), cycle(RUN_COLOURS), strict=False):
        loss.plot(*_series(records, "loss"), color=colour, linestyle="--", linewidth=1.1, alpha=0.8)
        loss.plot(*_series(records, "eval_loss"), color=colour, linewidth=1.8, marker="o", markersize=3.5)
        epochs, fractions = _series(records, "eval_accuracy")
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
            axes.text(0.5, 0.5, "not measured", transform=axes.transAxes, ha="center", color=GREY)
            axes.set_yticks([])
    loss.set_xlim(left=0)
    keys += [
        Line2D([], [], color=GREY, linewidth=1.8, marker="o", markersize=3.5, label="validation"),
        Line2D([], [], color=GREY, linewidth=1.1, linestyle="--", label="training"),
    ]
    figure.legend(handles=keys, loc="outside upper left", ncols=min(len(keys), 6), frameon=False)
    return figure


@rc_context(STYLE)
def confusion_matrix(matrix: np.ndarray, classes: Sequence[str], title: str) -> Figure:
    """Draw how often each true class was taken for each class.

    Args:
        matrix: counts, shape (true classes, predicted classes).
        classes: the names, in the order of `matrix`.
        title: one line above the matrix.
    """
    number = len(classes)
    totals = matrix.sum(axis=1, keepdims=True)
    percent = 100 * matrix / np.maximum(totals, 1)

    side = min(max(0.42 * number, 1.8), 9)
    figure = Figure(figsize=(side + 2.8, side + 1.9), layout="constrained")
    axes = figure.subplots()
    # The square root shows an error of one in a hundred, which would be white on a linear scale.
    shown = axes.imshow(percent, cmap="Blues", norm=PowerNorm(0.5, vmin=0, vmax=100), interpolation="nearest")

    step = math.ceil(number / MOST_TICKS)
    ticks = range(0, number, step)
    names = [_shorten(classes[index], 22) for index in ticks]
    size = 9 if number <= MOST_COUNTS else 7
    fit = max(map(len, names), default=0) * 0.008 * size < step * side / number  # inches, about
    axes.set_xticks(ticks, names, fontsize=size, rotation=0 if fit else 90)
    axes.set_yticks(ticks, names, fontsize=size)
    axes.tick_params(length=0 if step == 1 else 3)
    axes.set(xlabel="Predicted", ylabel="True")
    axes.spines[:].set_visible(number > MOST_COUNTS)
    axes.spines[:].set_color(RULE)
    put_title(figure, title)

    if number <= MOST_COUNTS:
        edges = np.arange(number - 1) + 0.5
        axes.hlines(edges, -0.5, number - 0.5, color="white", linewidth=1)
        axes.vlines(edges, -0.5, number - 0.5, color="white", linewidth=1)
        for (true, predicted), count in np.ndenumerate(matrix):
            if count:
                colour = "white" if percent[true, predicted] > 30 else "#222222"
                small = 8 if count < 10_000 else 6
                axes.text(predicted, true, f"{count:.0f}", ha="center", va="center", color=colour, fontsize=small)
    bar = figure.colorbar(shown, ax=axes, shrink=0.8, aspect=25, ticks=[0, 1, 5, 10, 25, 50, 75, 100])
    bar.set_label("Share of the true class (%)")
    bar.outline.set_visible(False)
    return figure


@rc_context(STYLE)
def sample_predictions(
    images: Sequence[Image.Image],
    truths: Sequence[str | None],
    predictions: Sequence[str],
    confidences: Sequence[float],
    title: str,
) -> Figure:
    """Show the first images (at most 20), each with what was predicted and whether that was right.

    Args:
        images: of any size and mode.
        truths: the true classes; None where unknown, which is drawn without a mark.
        predictions: the predicted classes.
        confidences: their probabilities, 0 to 1.
        title: one line above the images.
    """
    samples = list(zip(images, truths, predictions, confidences, strict=True))[:MOST_IMAGES]
    columns = min(max(len(samples), 2), COLUMNS)
    rows = max(math.ceil(len(samples) / columns), 1)
    figure = Figure(figsize=(2 * columns, 2.35 * rows + 0.35), layout="constrained")
    put_title(figure, title)
    for place, (image, truth, prediction, confidence) in enumerate(samples, start=1):
        axes = figure.add_subplot(rows, columns, place)
        _show(image, axes)
        wrong = truth is not None and truth != prediction
        mark, colour = ("", UNKNOWN) if truth is None else ("✗ ", WRONG) if wrong else ("✓ ", RIGHT)
        label = f"{mark}{_shorten(prediction, 16)} ({100 * confidence:.0f} %)"
        below = f"true {_shorten(truth, 18)}" if truth is not None and wrong else " "
        axes.set_xlabel(f"{label}\n{below}", color=colour, loc="left")
        axes.spines[:].set(color=colour, linewidth=2)
    return figure


def save(figure: Figure, path: Path, dpi: int = 150) -> None:
    """Write `figure` to `path`, atomically, in the format its suffix names (".png", ".svg").

    Raises:
        RLRRError: the folder cannot be written to, or the disk is full.
    """
    with atomic(path) as temporary, warnings.catch_warnings():
        # A name in a script without a font is drawn as boxes; a warning for each of its letters helps nobody.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure.savefig(temporary, format=path.suffix.lstrip("."), dpi=dpi)


def _series(records: Sequence[Mapping[str, float]], key: str) -> tuple[list[float], list[float]]:
    """Pick the epochs and the values of `key`, in the order of the epochs."""
    points = sorted(
        (record["epoch"], record[key])
        for record in records
        if "epoch" in record and record.get(key) is not None and math.isfinite(record[key])
    )
    return [epoch for epoch, _ in points], [value for _, value in points]


def put_title(figure: Figure, title: str) -> None:
    """Write `title` over the whole figure, as far as it fits."""
    line = _shorten(title, int(11 * figure.get_figwidth()))
    figure.suptitle(line, x=0.06 / figure.get_figwidth(), ha="left", fontsize=10, fontweight="bold")


def _show(image: Image.Image, axes: Axes) -> None:
    """Put `image` in the middle of a square, so that all frames of a grid are alike."""
    small = max(image.size) <= SMALL_IMAGE
    image = image.convert("RGB")
    image.thumbnail((512, 512))
    half_width, half_height = image.width / 2, image.height / 2
    axes.imshow(
        image,
        extent=(-half_width, half_width, -half_height, half_height),
        interpolation="nearest" if small else "antialiased",
    )
    half = max(half_width, half_height)
    axes.set(xlim=(-half, half), ylim=(-half, half), xticks=[], yticks=[], facecolor="#F2F2F2")


def _shorten(text: str, width: int) -> str:
    """Fit `text` into one line of about `width` letters, without what a font cannot take."""
    text = " ".join(text.encode("utf-8", "replace").decode().split())
    used = 0
    for place, letter in enumerate(text):
        used += 2 if east_asian_width(letter) in "WF" else 1
        if used > width:
            return text[: place - 1].rstrip() + "…"
    return text
