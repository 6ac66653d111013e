"""Drawn images whose truth is known, for tasks that need geometry, in the spirit of dSprites and CLEVR.

Never flip, rotate, shift or crop these: direction, place and number are what they are labelled by. Every call draws
the same images to the bit, as long as Pillow draws polygons as it does.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw

COUNT = 1700  # images per task
DIRECTIONS = tuple(f"{22.5 * step:g}°" for step in range(16))  # 0° is to the right, 90° up
COLUMNS = tuple(f"x {column}" for column in range(16))
NUMBERS = tuple(f"{number} objects" for number in range(3, 11))

_SIDE, _FINE = 64, 4  # pixels; drawn that many times larger, then reduced


def orientation() -> tuple[np.ndarray, np.ndarray]:
    """Draw one pointed shape per image; the label is the direction it points to, in 16 steps.

    The direction is within 7.5 degrees of its class's, so that at least 7.5 degrees lie between two classes.

    Returns:
        Images, uint8 (1700, 64, 64, 3), and labels (1700,).
    """

    def draw(scene: _Scene, label: int) -> None:
        radius = scene.random.uniform(9, 15)
        x, y = scene.random.uniform(radius + 1, _SIDE - radius - 1, 2)
        scene.add(_POINTED, x, y, radius, 22.5 * label + scene.random.uniform(-7.5, 7.5))

    return _draw_all(draw, len(DIRECTIONS), seed=1)


def position() -> tuple[np.ndarray, np.ndarray]:
    """Draw one shape per image; the label is in which of 16 columns of 3 pixels its centre is.

    The columns lie side by side from 8 to 56 pixels. The centre is within a pixel of its column's, and every shape is
    its own image under half a turn, so that there is no doubt about its centre.

    Returns:
        Images, uint8 (1700, 64, 64, 3), and labels (1700,).
    """

    def draw(scene: _Scene, label: int) -> None:
        radius = scene.random.uniform(4, 7.5)
        x = 9.5 + 3 * label + scene.random.uniform(-1, 1)
        y = scene.random.uniform(radius + 1, _SIDE - radius - 1)
        scene.add(_CENTRED, x, y, radius, scene.random.uniform(0, 360))

    return _draw_all(draw, len(COLUMNS), seed=2)


def count() -> tuple[np.ndarray, np.ndarray]:
    """Draw 3 to 10 objects per image, which do not touch; the label is their number less 3.

    Their size varies from image to image too, so that the area they cover tells the number only roughly.

    Returns:
        Images, uint8 (1700, 64, 64, 3), and labels (1700,).
    """

    def draw(scene: _Scene, label: int) -> None:
        largest = scene.random.uniform(3.8, 6.4)
        for radius in sorted(scene.random.uniform(0.7 * largest, largest, label + 3), reverse=True):
            scene.add(_CENTRED, *scene.free_place(radius), radius, scene.random.uniform(0, 360))

    return _draw_all(draw, len(NUMBERS), seed=3)


class _Scene:
    """One image being drawn: a grey ground, the shapes on it, and the noise over both."""

    def __init__(self, random: np.random.RandomState) -> None:
        # RandomState, and not default_rng: its numbers are frozen, so that the images are the same for ever.
        self.random = random
        self.ground = random.randint(40, 216)
        self.image = Image.new("RGB", (_SIDE * _FINE, _SIDE * _FINE), (self.ground,) * 3)
        self.discs: list[tuple[float, float, float]] = []  # x, y and radius of the discs that hold the shapes

    def add(self, outlines: tuple[np.ndarray, ...], x: float, y: float, radius: float, degrees: float) -> None:
        """Draw one of `outlines` in a colour that stands out; `degrees` run against the clock."""
        outline = outlines[self.random.randint(len(outlines))]
        angle = np.radians(degrees)
        turn = np.array([[np.cos(angle), -np.sin(angle)], [-np.sin(angle), -np.cos(angle)]])  # y points down
        points = (outline @ turn.T * radius + (x, y)) * _FINE
        ImageDraw.Draw(self.image).polygon([tuple(point) for point in points.tolist()], fill=self._colour())
        self.discs.append((x, y, radius))

    def free_place(self, radius: float) -> tuple[float, float]:
        """Find a place at least two pixels from the shapes that are there."""
        while True:
            x, y = self.random.uniform(radius + 1, _SIDE - radius - 1, 2)
            if all(np.hypot(x - x0, y - y0) > radius + radius0 + 2 for x0, y0, radius0 in self.discs):
                return x, y

    def finish(self) -> np.ndarray:
        """Reduce to the final size and add noise of at most 10 of 255."""
        pixels = np.asarray(self.image.reduce(_FINE), dtype=np.int64)
        return (pixels + self.random.randint(-10, 11, pixels.shape)).clip(0, 255).astype(np.uint8)

    def _colour(self) -> tuple[int, ...]:
        while True:
            colour = self.random.randint(0, 256, 3)
            if abs(int(colour @ (299, 587, 114)) // 1000 - self.ground) >= 60:  # luma, as Pillow weighs it
                return tuple(colour.tolist())


def _draw_all(draw: Callable[[_Scene, int], None], classes: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    random, labels = np.random.RandomState(seed), np.arange(COUNT) % classes
    images = []
    for label in labels.tolist():
        scene = _Scene(random)
        draw(scene, label)
        images.append(scene.finish())
    return np.stack(images), labels


def _arc(start: float, stop: float, radius: float = 1.0, x: float = 0.0) -> np.ndarray:
    """Return 48 points of a circle around (x, 0), from one angle in degrees to another."""
    angles = np.radians(np.linspace(start, stop, 48))
    return np.stack([x + radius * np.cos(angles), radius * np.sin(angles)], axis=1)


def _heart() -> np.ndarray:
    t = np.linspace(0, 2 * np.pi, 96, endpoint=False)
    tip = -(13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t))
    return np.stack([tip, 16 * np.sin(t) ** 3], axis=1) / 17


# Outlines within the unit disc. Those of the first kind point to the right.
_POINTED = (
    np.array([(1, 0), (0.1, 0.8), (0.1, 0.3), (-0.9, 0.3), (-0.9, -0.3), (0.1, -0.3), (0.1, -0.8)]),  # an arrow
    np.array([(1, 0), (-0.8, 0.6), (-0.4, 0), (-0.8, -0.6)]),  # a dart
    np.vstack([[(1, 0)], _arc(66, 294, radius=0.57, x=-0.4)]),  # a drop
    _heart(),
    (_arc(-90, 90) - (0.4, 0)) * 0.92,  # a half disc, which points where it is round
)
_PLUS = np.array([(1, 0.3), (0.3, 0.3), (0.3, 1), (-0.3, 1), (-0.3, 0.3), (-1, 0.3)]) * 0.95
_CENTRED = (
    _arc(0, 360),
    _arc(0, 360) * (1, 0.55),  # an ellipse
    np.array([(1, 1), (-1, 1), (-1, -1), (1, -1)]) * 0.7,
    np.vstack([_PLUS, -_PLUS]),
)
