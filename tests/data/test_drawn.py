"""The labels are checked on the pixels, by other means than those that drew them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from rlrr.data import drawn

pytestmark = pytest.mark.slow

TASKS = (drawn.orientation, drawn.position, drawn.count)


@pytest.fixture(scope="module", params=TASKS, ids=lambda task: task.__name__)
def task(request: pytest.FixtureRequest) -> tuple[Callable, np.ndarray, np.ndarray]:
    return (request.param, *request.param())


def shapes(images: np.ndarray) -> np.ndarray:
    """Tell the shapes (N, 64, 64) from the ground, which is most of an image and grey."""
    luma = images @ np.array([0.299, 0.587, 0.114])
    return np.abs(luma - np.median(luma, axis=(1, 2), keepdims=True)) > 30


def test_images_are_small_many_and_evenly_labelled(task) -> None:
    _, images, labels = task
    assert (images.shape, images.dtype) == ((1700, 64, 64, 3), np.uint8)
    counts = np.bincount(labels)
    assert counts.max() - counts.min() <= 1
    assert len(np.unique(images.reshape(1700, -1), axis=0)) == 1700


def test_they_are_the_same_to_the_bit_whenever_they_are_drawn(task) -> None:
    draw, images, labels = task
    np.random.seed(5)
    again = draw()
    assert np.array_equal(again[0], images)
    assert np.array_equal(again[1], labels)


def test_the_ground_is_noisy_and_of_many_greys(task) -> None:
    _, images, _ = task
    corner = images[:, 0, 0].astype(int)
    assert np.ptp(corner[:, 0]) > 150
    assert 2 < images[:, :2, :2].std(axis=(1, 2)).mean() < 10


def test_shapes_lie_wholly_inside(task) -> None:
    mask = shapes(task[1])
    edge = mask[:, [0, -1]].sum() + mask[:, :, [0, -1]].sum()
    assert edge == 0


def test_shapes_point_where_the_label_says() -> None:
    images, labels = drawn.orientation()
    assert labels.max() + 1 == len(drawn.DIRECTIONS) == 16
    mean = np.zeros((16, 64, 64))
    for mask, label in zip(shapes(images), labels, strict=True):
        mean[label] += ndimage.shift(mask.astype(float), 31.5 - np.array(ndimage.center_of_mass(mask)), order=1)
    for label in range(16):
        name = drawn.DIRECTIONS[label]
        clockwise = Image.fromarray(mean[label].astype(np.float32)).rotate(-float(name.rstrip("°")), Image.BILINEAR)
        likeness = [np.corrcoef(np.ravel(clockwise), mean[other].ravel())[0, 1] for other in range(16)]
        assert int(np.argmax(likeness)) == 0, name


def test_the_column_is_that_of_the_centre() -> None:
    images, labels = drawn.position()
    assert labels.max() + 1 == len(drawn.COLUMNS) == 16
    x = np.array([ndimage.center_of_mass(mask)[1] + 0.5 for mask in shapes(images)])
    assert np.abs(x - (9.5 + 3 * labels)).max() < 1.4
    assert np.array_equal((x - 8) // 3, labels)


def test_objects_are_as_many_as_the_label_says() -> None:
    images, labels = drawn.count()
    assert (drawn.NUMBERS[0], drawn.NUMBERS[-1]) == ("3 objects", "10 objects")
    assert labels.max() + 1 == len(drawn.NUMBERS) == 8
    found = [ndimage.label(mask, np.ones((3, 3)))[1] for mask in shapes(images)]
    assert [drawn.NUMBERS[label] for label in labels] == [f"{number} objects" for number in found]


@pytest.mark.parametrize("kind", ["_POINTED", "_CENTRED"])
def test_outlines_lie_in_the_unit_disc(kind: str) -> None:
    for outline in getattr(drawn, kind):
        assert np.hypot(*outline.T).max() == pytest.approx(1, abs=0.07)
        assert np.hypot(*outline.T).max() < 1 + 1e-9


@pytest.mark.parametrize("outline", drawn._POINTED, ids=["arrow", "dart", "drop", "heart", "half disc"])
def test_pointed_outlines_are_alike_on_both_sides_and_thin_in_front(outline: np.ndarray) -> None:
    masks = []
    for degrees in (0, 90):
        scene = drawn._Scene(np.random.RandomState(0))
        scene.add((outline,), 32, 32, 28, degrees)
        mask = shapes(np.asarray(scene.image.reduce(4))[None])[0]
        masks.append(mask[np.ix_(mask.any(axis=1), mask.any(axis=0))])
    right, up = masks
    assert (up ^ np.rot90(right)).sum() < 0.05 * up.sum()
    assert (right ^ right[::-1]).sum() < 0.1 * right.sum()
    assert right[:, -5:].sum() < 0.8 * right[:, :5].sum()
