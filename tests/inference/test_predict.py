"""`rlrr.load` and what it gives: images in, classes out."""

from __future__ import annotations

import logging

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
    with pytest.raises(rlrr.RLRRError, match=r"Cannot read image 1: it is an array of float32"):
        classifier.predict([np.zeros((8, 8, 3), np.uint8), np.zeros((8, 8, 3), np.float32)])


def test_one_image_is_predicted_as_a_list_of_it_is(classifier, images):
    path = images / "test" / "green" / "0.png"
    (expected,) = classifier.predict([path])
    with Image.open(path) as image:
        image.load()
    for single in (path, str(path), path.read_bytes()):
        assert classifier.predict(single)[0].probabilities == expected.probabilities
    for single in (image, np.asarray(image), np.asarray(image)[None], np.asarray(image.convert("RGBA"))):
        (one,) = classifier.predict(single)
        assert one.classes == expected.classes
        assert one.probabilities == pytest.approx(expected.probabilities, abs=1e-6)


def test_a_folder_is_predicted_whole(classifier, images):
    predictions = classifier.predict(images / "test")
    assert [one.image for one in predictions] == [str(path) for path in sorted((images / "test").rglob("*.png"))]


@pytest.fixture
def mixed(images, tmp_path):
    """Paths of which the first, third and last are no images."""
    (tmp_path / "empty.png").touch()
    (tmp_path / "words.png").write_text("words")
    good = images / "test" / "red" / "0.png"
    return [tmp_path / "empty.png", good, tmp_path / "words.png", good, tmp_path / "none.png"]


def test_all_bad_images_are_named_together(classifier, mixed):
    with pytest.raises(rlrr.RLRRError, match=r"^3 of 5 images cannot be read:") as caught:
        classifier.predict(mixed)
    reasons = ("empty file", "not an image", "no such file")
    lines = [f"  {path}: {reason}" for path, reason in zip(mixed[::2], reasons, strict=True)]
    assert str(caught.value).splitlines()[1:] == lines


@pytest.mark.parametrize("workers", [0, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize("batch_size", [1, 2, None])
def test_the_good_are_predicted_beside_the_bad(finished_run, mixed, caplog, workers, batch_size):
    classifier = rlrr.load(finished_run, workers=workers, batch_size=batch_size)
    with caplog.at_level(logging.WARNING):
        predictions = classifier.predict(mixed, bad_images="skip")
    assert [one.image for one in predictions] == [str(mixed[1])] * 2
    assert [one.classes[0] for one in predictions] == ["red", "red"]
    assert "skipped 3 of 5 images" in caplog.text
    problems = [one.problem for one in classifier.classify(mixed)]
    assert problems == ["empty file", None, "not an image", None, "no such file"]


def test_images_of_which_none_can_be_read_are_refused_anyway(classifier, mixed):
    with pytest.raises(rlrr.RLRRError, match=r"^Cannot read .*none\.png: no such file\.$"):
        classifier.predict(mixed[-1], bad_images="skip")


@pytest.mark.parametrize("top_k", [0, -1, 1.5, "3", None])
def test_top_k_is_a_number_of_classes(classifier, images, top_k):
    with pytest.raises(rlrr.RLRRError, match=r"`top_k` must be (1 or more|int)"):
        classifier.predict(images / "test", top_k)


def test_a_classifier_shows_what_it_is_in_a_line(classifier):
    assert repr(classifier).startswith("Classifier(rlrr on ")
    assert repr(classifier).endswith("tiny, 3 classes, on cpu)")
    assert repr(classifier.record).startswith("Record(rlrr on ")
    assert "test_accuracy " in repr(classifier.record)


def test_a_run_is_loaded_on_a_device_and_in_a_precision(finished_run, images):
    path = images / "test" / "green" / "0.png"
    exact, fast = rlrr.load(finished_run, device="cpu"), rlrr.load(finished_run, precision="bf16", device="cpu")
    assert exact.device == torch.device("cpu")
    (one,), (other,) = exact.predict(path), fast.predict(path)
    assert one.probabilities != other.probabilities
    assert one.probabilities == pytest.approx(other.probabilities, abs=0.02)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"device": "gpu"}, "`device` must be auto"),
        ({"device": 1.5}, r"`device` must be str \| torch.device"),
        ({"batch_size": 0}, "`batch_size` must be 1 or more"),
        ({"batch_size": "8"}, "`batch_size` must be int"),
        ({"workers": -1}, "`workers` must be 0 or more"),
        ({"threads": 0}, "`threads` must be 1 or more"),
        ({"precision": "fp8"}, "`precision` must be one of auto, fp32, bf16, fp16"),
        ({"weights": 5}, "`weights` must be"),
    ],
)
def test_options_that_cannot_be_are_one_sentence(finished_run, options, named):
    with pytest.raises(rlrr.RLRRError, match=named):
        rlrr.load(finished_run, **options)


@pytest.mark.parametrize("run", [None, 5, ["run"]])
def test_a_run_is_a_path(run):
    with pytest.raises(rlrr.RLRRError, match=r"`run` must be str \| Path"):
        rlrr.load(run)


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
