"""Colours of pictures can be read on light and on dark pages, and told apart by their light value."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.colors import to_rgb

from rlrr.report.colours import COLOURS, SHARES, colour_on


def luminance(colour: str) -> float:
    parts = [part / 12.92 if part <= 0.04 else ((part + 0.055) / 1.055) ** 2.4 for part in to_rgb(colour)]
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), parts, strict=True))


def contrast(first: str, second: str) -> float:
    high, low = sorted((luminance(first), luminance(second)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_letters_and_lines_can_be_read_on_their_ground(scheme: str) -> None:
    colours = {name: getattr(colour, scheme) for name, colour in COLOURS.items()}
    names = {colour.light: name for name, colour in COLOURS.items()}
    assert all(contrast(colours[name], colours["paper"]) >= 4.5 for name in ("ink", "soft", "right", "wrong"))
    assert all(contrast(colour, colours["paper"]) >= 1.9 for name, colour in colours.items() if name.startswith("run-"))
    shares = [colours[f"share-{level}"] for level in range(SHARES.N)]
    for level, ground in enumerate(shares):
        letters = colours[names[colour_on((level + 0.5) / SHARES.N)]]
        assert contrast(letters, ground) >= 3.9
    steps = np.diff([luminance(ground) for ground in shares])
    assert (steps < 0).all() or (steps > 0).all()  # no two shares look alike in grey


def test_light_values_differ_so_that_a_picture_tells_which_variable_is_meant() -> None:
    light = [colour.light for colour in COLOURS.values()]
    assert len(set(light)) == len(light)
    assert all(colour == colour.lower() and len(colour) == 7 for colour in light)


def test_the_ends_of_a_share_have_a_colour_for_letters() -> None:
    assert (colour_on(0), colour_on(1)) == (COLOURS["on-low"].light, COLOURS["on-high"].light)
