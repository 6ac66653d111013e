"""Figures of a fine-tuning run: its curves, its confusion matrix and what it said about some images.

Pure functions from numbers to `matplotlib` figures, which need no display and leave pyplot's state alone. A `Look` has
the colours, light or dark, and says whether there is room for several panels side by side.
"""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import wraps
from itertools import cycle, islice
from pathlib import Path
from typing import Any, ParamSpec
from unicodedata import east_asian_width

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import Colormap, LinearSegmentedColormap, PowerNorm
from matplotlib.figure import Figure
from matplotlib.font_manager import get_font_names
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from PIL import Image

from rlrr.files import atomic

MOST_COUNTS = 20  # classes up to which the counts are legible inside the cells
MOST_TICKS = 40  # names along one side of a confusion matrix
MOST_IMAGES = 20
SMALL_IMAGE = 112  # pixels; up to here the pixels themselves are shown

# DejaVu Sans comes with matplotlib; the others, where installed, fill in the scripts it lacks.
_FALLBACKS = ("Noto Sans CJK SC", "Noto Sans CJK JP", "PingFang SC", "Microsoft YaHei", "Arial Unicode MS")
_PHONE = "(max-width: 48rem)"  # as in report.html.jinja
_DARK = "(prefers-color-scheme: dark)"


@dataclass(frozen=True)
class Look:
    """How a figure looks. The colours are those of the report's page, so that a figure has no visible edge there."""

    paper: str
    ink: str
    soft: str
    """Of axes and of what explains."""
    rule: str
    wash: str
    """A ground a little apart from the paper."""
    runs: tuple[str, ...]
    """One colour for each run; the first seven stay apart for colour-blind readers."""
    right: str
    wrong: str
    shades: tuple[str, ...]
    """Of a share, from none to all."""
    narrow: bool = False
    """Drawn for a phone: as wide as one, panels below each other."""

    @property
    def width(self) -> float:
        """The most a figure may be wide, in inches of 96 CSS pixels."""
        return 3.7 if self.narrow else 10

    @property
    def shares(self) -> Colormap:
        """`shades` as a colour map; what is not known is the paper."""
        return LinearSegmentedColormap.from_list("shares", self.shades).with_extremes(bad=self.paper)

    @property
    def style(self) -> dict[Any, Any]:
        """Settings of matplotlib."""
        return {
            "font.family": ["DejaVu Sans", *(name for name in _FALLBACKS if name in get_font_names())],
            "font.size": 9,
            "text.usetex": False,
            "text.parse_math": False,  # a "$" in a class name is a dollar
            "text.color": self.ink,
            "axes.titlesize": 10,
            "axes.titleweight": "bold",
            "axes.titlelocation": "left",
            "axes.labelcolor": self.soft,
            "axes.edgecolor": self.soft,
            "axes.facecolor": self.paper,
            "figure.facecolor": self.paper,
            "figure.constrained_layout.w_pad": 0.06,
            "figure.constrained_layout.h_pad": 0.06,
            "xtick.color": self.soft,
            "ytick.color": self.soft,
        }


LIGHT = Look(
    paper="#ffffff",
    ink="#1c1e21",
    soft="#5c6168",
    rule="#dfe2e6",
    wash="#f5f6f8",
    # Okabe and Ito's colours, and three more.
    runs=("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8464C4", "#7A5230", "#9A9A9A"),
    right="#00745A",
    wrong="#C04A00",
    shades=("#f1f5fa", "#c3d9ee", "#7fb2d9", "#3a82bd", "#0f5496", "#08306b"),
)
DARK = Look(
    paper="#15171a",
    ink="#e6e8eb",
    soft="#a0a6ae",
    rule="#32363c",
    wash="#1e2125",
    # The same hues, as light as a dark ground asks for.
    runs=("#4AA3E0", "#F27D3A", "#2BBF94", "#E39BC6", "#F2BC45", "#A6DBF9", "#FFFFFF", "#A98CEB", "#B98A62", "#7D8590"),
    right="#3CC9A0",
    wrong="#FF8F52",
    shades=("#1d2730", "#1f4368", "#2a6ba5", "#519bd3", "#93c6ea", "#e2f1fb"),
)
STYLE, RUN_COLOURS, GREY, RULE = LIGHT.style, LIGHT.runs, LIGHT.soft, LIGHT.rule  # of pictures that are only light

P = ParamSpec("P")


def styled(draw: Callable[P, Figure]) -> Callable[P, Figure]:
    """Have a function with the argument `look` draw in the style of it."""

    @wraps(draw)
    def drawn(*args: P.args, **kwargs: P.kwargs) -> Figure:
        look = kwargs.get("look", LIGHT)
        assert isinstance(look, Look)
        with rc_context(look.style):
            return draw(*args, **kwargs)

    return drawn


def renderings(draw: Callable[..., Figure], *, photos: bool = False) -> dict[str, bytes]:
    """Draw one picture for light and dark, for a wide page and a phone.

    Args:
        draw: gives the figure in the `look` that it is called with.
        photos: keep all colours, and not the 256 that will do for a diagram, in a third of the bytes.

    Returns:
        PNG files by the media that each is for, in the order in which a browser is to try them. The last is for "",
        all other media, paper among them, and is the wide and light one.
    """
    looks = {
        f"screen and {_DARK} and {_PHONE}": replace(DARK, narrow=True),
        f"screen and {_PHONE}": replace(LIGHT, narrow=True),
        f"screen and {_DARK}": DARK,
        "": LIGHT,
    }
    return {media: _png(draw(look=look), 192 if look.narrow else 144, photos) for media, look in looks.items()}


@styled
def curves(histories: Mapping[str, Sequence[Mapping[str, float]]], *, look: Look = LIGHT) -> Figure:
    """Draw loss and validation accuracy over the epochs, one colour per run.

    `histories` maps the name of a run to its log records. A record holds "epoch" and any of "loss" (in
    training), "eval_loss" and "eval_accuracy" (a fraction); what it lacks, or is not finite, is left out.
    """
    shape, height = ((2, 1), 5.6) if look.narrow else ((1, 2), 4.2)
    figure = Figure(figsize=(look.width, height), layout="constrained")
    loss, accuracy = figure.subplots(*shape, sharex=True)
    runs = [*zip(histories.items(), cycle(look.runs), strict=False)]
    keys = [Line2D([], [], color=colour, linewidth=4, label=shorten(name, 40)) for (name, _), colour in runs]
    for (_, records), colour in runs:
        loss.plot(*series(records, "loss"), color=colour, linestyle="--", linewidth=1.1, alpha=0.8)
        loss.plot(*series(records, "eval_loss"), color=colour, linewidth=1.8, marker="o", markersize=3.5)
        epochs, fractions = series(records, "eval_accuracy")
        percent = [100 * fraction for fraction in fractions]
        accuracy.plot(epochs, percent, color=colour, linewidth=1.8, marker="o", markersize=3.5)
    loss.set(title="Loss", xlabel="" if look.narrow else "Epoch", ylabel="Cross-entropy")
    accuracy.set(title="Validation accuracy", xlabel="Epoch", ylabel="Correct (%)")
    for axes in (loss, accuracy):
        axes.spines[["top", "right"]].set_visible(False)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(axis="y", color=look.rule, linewidth=0.8)
        axes.set_axisbelow(True)
        if not any(len(line.get_xdata()) for line in axes.lines):
            axes.text(0.5, 0.5, "not measured", transform=axes.transAxes, ha="center", color=look.soft)
            axes.set_yticks([])
    loss.set_xlim(left=0)
    keys += [
        Line2D([], [], color=look.soft, linewidth=1.8, marker="o", markersize=3.5, label="validation"),
        Line2D([], [], color=look.soft, linewidth=1.1, linestyle="--", label="training"),
    ]
    figure.legend(handles=keys, loc="outside upper left", ncols=2 if look.narrow else min(len(keys), 6), frameon=False)
    return figure


@styled
def confusion_matrix(matrix: np.ndarray, classes: Sequence[str], title: str, *, look: Look = LIGHT) -> Figure:
    """Draw how often each true class was taken for each class.

    Args:
        matrix: counts, shape (true classes, predicted classes).
        classes: the names, in the order of `matrix`.
        title: one line above the matrix.
        look: its colours and its size.
    """
    number = len(classes)
    totals = matrix.sum(axis=1, keepdims=True)
    percent = 100 * matrix / np.maximum(totals, 1)

    letters = 14 if look.narrow else 22
    step = math.ceil(number / (MOST_TICKS // 2 if look.narrow else MOST_TICKS))
    ticks = range(0, number, step)
    names = [shorten(classes[index], letters) for index in ticks]
    size = 9 if number <= MOST_COUNTS and not look.narrow else 7
    longest = max(map(len, names), default=0) * 0.008 * size  # inches, about
    side = look.width - longest - 0.5 if look.narrow else min(max(0.42 * number, 1.8), 9)
    below = side + longest + 1.3 if look.narrow else side + 1.9
    figure = Figure(figsize=(look.width if look.narrow else side + 2.8, below), layout="constrained")
    axes = figure.subplots()
    # The square root shows an error of one in a hundred, which would be white on a linear scale.
    shown = axes.imshow(percent, cmap=look.shares, norm=PowerNorm(0.5, vmin=0, vmax=100), interpolation="nearest")

    axes.set_xticks(ticks, names, fontsize=size, rotation=0 if longest < step * side / number else 90)
    axes.set_yticks(ticks, names, fontsize=size)
    axes.tick_params(length=0 if step == 1 else 3)
    axes.set(xlabel="Predicted", ylabel="True")
    axes.spines[:].set_visible(number > MOST_COUNTS)
    axes.spines[:].set_color(look.rule)
    put_title(figure, title)

    if number <= (MOST_COUNTS // 2 if look.narrow else MOST_COUNTS):
        edges = np.arange(number - 1) + 0.5
        axes.hlines(edges, -0.5, number - 0.5, color=look.paper, linewidth=1)
        axes.vlines(edges, -0.5, number - 0.5, color=look.paper, linewidth=1)
        for (true, predicted), count in np.ndenumerate(matrix):
            if count:
                colour = readable(shown.to_rgba(percent[true, predicted]))
                small = (8 if count < 10_000 else 6) - look.narrow
                axes.text(predicted, true, f"{count:.0f}", ha="center", va="center", color=colour, fontsize=small)
    bar = figure.colorbar(
        shown,
        ax=axes,
        location="bottom" if look.narrow else "right",
        shrink=0.8,
        aspect=25,
        ticks=[0, 1, 5, 10, 25, 50, 75, 100],
    )
    bar.set_label("Share of the true class (%)")
    bar.outline.set_visible(False)
    return figure


@styled
def sample_predictions(
    images: Sequence[Image.Image],
    truths: Sequence[str | None],
    predictions: Sequence[str],
    confidences: Sequence[float],
    title: str,
    *,
    look: Look = LIGHT,
) -> Figure:
    """Show the first images (at most 20), each with what was predicted and whether that was right.

    Args:
        images: of any size and mode.
        truths: the true classes; None where unknown, which is drawn without a mark.
        predictions: the predicted classes.
        confidences: their probabilities, 0 to 1.
        title: one line above the images.
        look: its colours and its size.
    """
    samples = list(zip(images, truths, predictions, confidences, strict=True))[:MOST_IMAGES]
    most = 3 if look.narrow else 5
    columns = min(max(len(samples), 2), most)
    rows = max(math.ceil(len(samples) / columns), 1)
    side, size, letters = look.width / most, 7 if look.narrow else 9, 11 if look.narrow else 16
    figure = Figure(figsize=(side * columns, (side + 0.35) * rows + 0.35), layout="constrained")
    put_title(figure, title)
    for place, (image, truth, prediction, confidence) in enumerate(samples, start=1):
        axes = figure.add_subplot(rows, columns, place)
        _show(image, axes, look)
        wrong = truth is not None and truth != prediction
        mark, colour = ("", look.soft) if truth is None else ("✗ ", look.wrong) if wrong else ("✓ ", look.right)
        label = f"{mark}{shorten(prediction, letters)} ({100 * confidence:.0f} %)"
        below = f"true {shorten(truth, letters + 2)}" if truth is not None and wrong else " "
        axes.set_xlabel(f"{label}\n{below}", color=colour, loc="left", fontsize=size)
        axes.spines[:].set(color=colour, linewidth=2)
    return figure


def save(figure: Figure, path: Path, dpi: int = 150) -> None:
    """Write `figure` to `path`, atomically, in the format its suffix names (".png", ".svg").

    Raises:
        RLRRError: the folder cannot be written to, or the disk is full.
    """
    with atomic(path) as temporary, _quiet():
        figure.savefig(temporary, format=path.suffix.lstrip("."), dpi=dpi)


def put_title(figure: Figure, title: str) -> None:
    """Write `title` over the whole figure, as far as it fits."""
    line = shorten(title, int(11 * figure.get_figwidth()))
    figure.suptitle(line, x=0.06 / figure.get_figwidth(), ha="left", fontsize=10, fontweight="bold")


def readable(ground: Iterable[float]) -> str:
    """The colour of letters on a ground of red, green and blue, 0 to 1: the darkest or the lightest."""
    red, green, blue = (
        (part / 12.92 if part <= 0.04 else ((part + 0.055) / 1.055) ** 2.4) for part in islice(ground, 3)
    )
    return LIGHT.ink if 0.2126 * red + 0.7152 * green + 0.0722 * blue > 0.19 else "#ffffff"  # WCAG's luminance


def _png(figure: Figure, dpi: int, photos: bool) -> bytes:
    figure.set_dpi(dpi)
    canvas = FigureCanvasAgg(figure)
    with _quiet():
        canvas.draw()  # `savefig` would lay it out twice
    image = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
    if not photos:
        image = image.quantize(256, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    image.save(file := io.BytesIO(), "PNG", dpi=(dpi, dpi), optimize=True)
    return file.getvalue()


@contextmanager
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        # A name in a script without a font is drawn as boxes; a warning for each of its letters helps nobody.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        yield


def series(records: Sequence[Mapping[str, float]], key: str) -> tuple[list[float], list[float]]:
    """Pick the epochs and the values of `key`, in the order of the epochs."""
    points = sorted(
        (record["epoch"], record[key])
        for record in records
        if "epoch" in record and record.get(key) is not None and math.isfinite(record[key])
    )
    return [epoch for epoch, _ in points], [value for _, value in points]


def _show(image: Image.Image, axes: Axes, look: Look) -> None:
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
    axes.set(xlim=(-half, half), ylim=(-half, half), xticks=[], yticks=[], facecolor=look.wash)


def shorten(text: str, width: int) -> str:
    """Fit `text` into one line of about `width` letters, without what a font cannot take."""
    text = " ".join(text.encode("utf-8", "replace").decode().split())
    used = 0
    for place, letter in enumerate(text):
        used += 2 if east_asian_width(letter) in "WF" else 1
        if used > width:
            return text[: place - 1].rstrip() + "…"
    return text
