"""Colours of pictures and pages.

Pictures are drawn in the light colours. A page gives every colour as a CSS variable with a light and a dark value, and
`rlrr.report.svg` replaces the colours of a picture by these variables. So all light values differ.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from matplotlib.colors import ListedColormap, to_hex, to_rgb
from matplotlib.font_manager import get_font_names

_LEVELS = 41  # of a share; matplotlib turns a colour bar of 50 or more into pixels


class Colour(NamedTuple):
    """One colour for light and for dark pages."""

    light: str
    dark: str


def _levels(*stops: str) -> list[str]:
    """Interpolate between colours at even distances."""
    channels = np.transpose([to_rgb(stop) for stop in stops])
    places = np.linspace(0, len(stops) - 1, _LEVELS)
    return [to_hex(rgb) for rgb in zip(*(np.interp(places, range(len(stops)), c) for c in channels), strict=True)]


# The first seven colours stay apart for colour-blind readers: Okabe and Ito's colours, and three more. The dark ones
# have the same hues, lighter.
_RUNS = (
    Colour("#0072b2", "#4aa3e0"),
    Colour("#d55e00", "#f27d3a"),
    Colour("#009e73", "#2bbf94"),
    Colour("#cc79a7", "#e39bc6"),
    Colour("#e69f00", "#f2bc45"),
    Colour("#56b4e9", "#a6dbf9"),
    Colour("#000000", "#ffffff"),
    Colour("#8464c4", "#a98ceb"),
    Colour("#7a5230", "#b98a62"),
    Colour("#9a9a9a", "#7d8590"),
)
_SHARES = [
    *map(
        Colour,
        _levels("#f1f5fa", "#c3d9ee", "#7fb2d9", "#3a82bd", "#0f5496", "#08306b"),
        _levels("#1d2730", "#1f4368", "#295f93", "#3d81ba", "#93c6ea", "#e2f1fb"),
    )
]
_READABLE_FROM = 24  # level of a share from which letters have the colour "on-high"

COLOURS: dict[str, Colour] = {
    "paper": Colour("#ffffff", "#15171a"),
    "ink": Colour("#1c1e21", "#e6e8eb"),
    "soft": Colour("#5c6168", "#a0a6ae"),  # axes and explanations
    "rule": Colour("#dfe2e6", "#32363c"),
    "wash": Colour("#f5f6f8", "#1e2125"),  # a ground a little apart from the paper
    "right": Colour("#00745a", "#3cc9a0"),
    "wrong": Colour("#c04a00", "#ff8f52"),
    "on-low": Colour("#1c1e20", "#f5f6f8"),  # letters on a low share
    "on-high": Colour("#fffffe", "#15171b"),
    **{f"run-{number}": colour for number, colour in enumerate(_RUNS)},
    **{f"share-{level}": colour for level, colour in enumerate(_SHARES)},
}
PAPER, INK, SOFT, RULE, WASH, RIGHT, WRONG = (
    COLOURS[name].light for name in ("paper", "ink", "soft", "rule", "wash", "right", "wrong")
)
RUNS = tuple(colour.light for colour in _RUNS)
SHARES = ListedColormap([colour.light for colour in _SHARES], "shares").with_extremes(bad=PAPER)
"""Colours of a share, from none to all."""

# DejaVu Sans comes with matplotlib; the others, where installed, fill in the scripts that it lacks.
_FALLBACKS = ("Noto Sans CJK SC", "Noto Sans CJK JP", "PingFang SC", "Microsoft YaHei", "Arial Unicode MS")
STYLE: dict[Any, Any] = {
    "font.family": ["DejaVu Sans", *(name for name in _FALLBACKS if name in get_font_names())],
    "font.size": 9,
    "text.usetex": False,
    "text.parse_math": False,  # a "$" in a class name is a dollar
    "text.color": INK,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelcolor": SOFT,
    "axes.edgecolor": SOFT,
    "axes.facecolor": PAPER,
    "figure.facecolor": PAPER,
    "figure.constrained_layout.w_pad": 0.06,
    "figure.constrained_layout.h_pad": 0.06,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
}
"""matplotlib's settings for all pictures: `@rc_context(STYLE)`."""


def colour_on(share: float) -> str:
    """Return the colour of letters on the ground `SHARES(share)`."""
    level = min(int(share * _LEVELS), _LEVELS - 1)
    return COLOURS["on-high" if level >= _READABLE_FROM else "on-low"].light
