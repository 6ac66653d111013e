"""`rlrr.load` and what it gives: images in, classes out."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

import rlrr
from rlrr.inference.predict import evaluation_batch


@pytest.fixture(scope="module")
def classifier(finished_run):
    return rlrr.load(finished_run)


def test_a_path_a_string_an_image_and_an_array_are_the_same_image(classifier, images):
    path = images / "test" / "green" / "0.png"
    with Image.open(path) as image:
        image.load()
    predictions = classifier.predict([path, str(path), image, np.asarray(image)])
    assert [one.image for one in predictions] == [str(path), str(path), "2", "3"]
    assert {one.classes for one in predictions} == {predictions[0].classes}
    assert predictions[0].classes[0] == "green"
    for one in predictions[1:]:
        assert one.probabilities == pytest.approx(predictions[0].probabilities, abs=1e-6)


def test_probabilities_fall_and_sum_to_one(classifier, images):
    (one,) = classifier.predict([images / "test" / "red" / "1.png"], top_k=100)
    assert sorted(one.classes) == ["blue", "green", "red"]
    assert list(one.probabilities) == sorted(one.probabilities, reverse=True)
    assert sum(one.probabilities) == pytest.approx(1)


def test_top_k_is_the_head_of_the_full_list(classifier, images):
    path = images / "test" / "red" / "1.png"
    (one,), (whole,) = classifier.predict([path], top_k=1), classifier.predict([path])
    assert one.classes == whole.classes[:1]


def test_images_of_several_batches_keep_their_order(classifier, images):
    paths = sorted((images / "train").rglob("*.png")) * 3
    labels = [one.classes[0] for one in classifier.predict(paths)]
    assert labels == [path.parent.name for path in paths]


def test_no_images_give_no_predictions(classifier):
    assert classifier.predict([]) == []


def test_the_model_stays_in_evaluation_mode(classifier, images):
    path = images / "test" / "red" / "0.png"
    classifier.model.train()
    first = classifier.predict([path])
    assert not classifier.model.training
    assert classifier.predict([path]) == first


def test_an_array_of_another_kind_is_refused_with_its_place(classifier):
    with pytest.raises(rlrr.RLRRError, match=r"Cannot read 1: an array must be uint8"):
        classifier.predict([np.zeros((8, 8, 3), np.uint8), np.zeros((8, 8, 3), np.float32)])


def test_loading_twice_gives_the_same_logits(classifier, finished_run, images):
    again = rlrr.load(str(finished_run))
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(again.model(x), classifier.model(x))
    assert again.classes == ["blue", "green", "red"]


@pytest.mark.parametrize(
    ("device", "side", "images"), [("cpu", 32, 64), ("cpu", 224, 64), ("cuda", 32, 256), ("cuda", 448, 64)]
)
def test_larger_images_come_in_smaller_batches(device, side, images):
    assert evaluation_batch(torch.device(device), (3, side, side)) == images


def test_a_batch_holds_at_least_one_image():
    assert evaluation_batch(torch.device("cpu"), (3, 4000, 4000)) == 1
