"""A figure inside a page takes the page's colours, shares no id with another, and is the same each time."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import numpy as np
from PIL import Image

from rlrr.report.colours import COLOURS
from rlrr.report.figures import confusion_matrix, curves, sample_predictions
from rlrr.report.svg import inline_svg

HISTORY = [{"epoch": float(epoch), "loss": 1 / epoch, "eval_accuracy": 0.2 * epoch} for epoch in range(1, 4)]


def test_every_colour_is_a_variable_of_the_page() -> None:
    for figure in (curves({"RLRR": HISTORY, "LoRA": HISTORY}), confusion_matrix(np.eye(4), list("abcd"), "Letters")):
        svg = inline_svg(figure, "p", "")
        assert not re.search(r"(?:fill|stroke): #", svg)
        assert set(re.findall(r"var\(--([\w-]+)\)", svg)) <= {*COLOURS, "letters"}
        assert "<image" not in svg  # whose colours could not change


def test_ids_carry_the_prefix_and_every_reference_has_its_target() -> None:
    root = ElementTree.fromstring(inline_svg(curves({"RLRR": HISTORY}), "picture-7", ""))
    ids = [element.get("id") for element in root.iter() if element.get("id")]
    text = ElementTree.tostring(root, encoding="unicode")
    references = set(re.findall(r'(?:href="|url\()#([^")]+)', text))
    assert references == set(ids)
    assert len(ids) == len(set(ids)) > 0
    assert all(name.startswith("picture-7-") for name in ids)


def test_it_is_an_image_in_words_that_names_no_address() -> None:
    svg = inline_svg(curves({"a < b & c": HISTORY}), "p", 'Loss of "a" < b.')
    root = ElementTree.fromstring(svg)
    assert (root.get("role"), root.get("aria-label")) == ("img", 'Loss of "a" < b.')
    assert (root.get("width"), root.get("viewBox")) == ("960", "0 0 720 302.4")
    assert "a < b & c" in [text.text for text in root.iter("text")]
    assert not re.search("https?:|<metadata|<style|xmlns", svg)


def test_photos_are_inside() -> None:
    grid = sample_predictions([Image.new("RGB", (28, 28))], ["7"], ["7"], [0.9], "Digits")
    (image,) = ElementTree.fromstring(inline_svg(grid, "p", "")).iter("image")
    assert image.get("href", "").startswith("data:image/png;base64,")


def test_it_is_the_same_each_time() -> None:
    first, again = (inline_svg(curves({"RLRR": HISTORY}), "p", "") for _ in range(2))
    assert first == again
