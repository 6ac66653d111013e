"""Figures hold what they were given, whatever the names of the classes."""

from __future__ import annotations

import math
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rlrr.errors import RLRRError
from rlrr.report.figures import MOST_IMAGES, WIDTH, confusion_matrix, curves, sample_predictions, shorten
from rlrr.report.svg import save

ODD_NAMES = ["$x_1$ and $", "猫", "a\nb", "\udcff", "bell\a", "🐶", "a very long name that goes on and on and on"]


def history(best: float) -> list[dict[str, float]]:
    records: list[dict[str, float]] = []
    for epoch in (1.0, 2.0, 3.0):
        records.append({"epoch": epoch - 0.5, "loss": 2 / epoch, "learning_rate": 0.001})
        records.append({"epoch": epoch, "eval_loss": 3 / epoch, "eval_accuracy": best * epoch / 3})
    return records


def test_curves_hold_train_and_validation_loss_and_accuracy_in_percent() -> None:
    figure = curves({"Linear probe": history(0.6), "RLRR": history(0.9)})
    loss, accuracy = figure.axes
    assert (loss.get_title("left"), accuracy.get_title("left")) == ("Loss", "Validation accuracy")
    assert [line.get_linestyle() for line in loss.lines] == ["--", "-", "--", "-"]
    assert loss.lines[0].get_color() == loss.lines[1].get_color() != loss.lines[2].get_color()
    assert list(loss.lines[0].get_xdata()) == [0.5, 1.5, 2.5]
    assert list(loss.lines[1].get_ydata()) == [3, 1.5, 1]
    assert list(accuracy.lines[1].get_ydata()) == pytest.approx([30, 60, 90])
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert legend == ["Linear probe", "RLRR", "validation", "training"]


def test_what_was_not_measured_is_left_out_of_the_curves_and_said() -> None:
    records = [
        {"epoch": 2.0, "loss": 1.0},
        {"epoch": 3.0, "loss": math.nan},
        {"epoch": 1.0, "loss": 2.0},
        {"loss": 9.0},
    ]
    loss, accuracy = curves({"RLRR": records}).axes
    assert list(loss.lines[0].get_xdata()) == [1.0, 2.0]
    assert [text.get_text() for text in accuracy.texts] == ["not measured"]


def test_a_confusion_matrix_writes_its_counts_and_colours_by_the_share_of_the_true_class() -> None:
    axes, _ = confusion_matrix(np.array([[30, 10], [0, 5]]), ["cat", "dog"], "Pets").axes
    cells = {text.get_position(): text.get_text() for text in axes.texts}
    assert cells == {(0, 0): "30", (1, 0): "10", (1, 1): "5"}
    np.testing.assert_allclose(axes.collections[0].get_array(), [[75, 25], [0, 100]])
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("Predicted", "True")
    assert [label.get_text() for label in axes.get_yticklabels()] == ["cat", "dog"]


def test_a_class_without_images_leaves_its_row_of_the_confusion_matrix_empty() -> None:
    axes, _ = confusion_matrix(np.array([[3, 0], [0, 0]]), ["cat", "dog"], "Pets").axes
    np.testing.assert_allclose(axes.collections[0].get_array()[1], 0)


@pytest.mark.parametrize(("number", "ticks", "texts"), [(2, 2, 2), (10, 10, 10), (40, 40, 0), (102, 34, 0)])
def test_a_confusion_matrix_of_many_classes_has_fewer_names_and_no_counts(number: int, ticks: int, texts: int) -> None:
    names = [f"a flower with the name {index}" for index in range(number)]
    figure = confusion_matrix(np.eye(number, dtype=int), names, "Flowers")
    axes = figure.axes[0]
    assert len(axes.get_xticks()) == len(axes.get_yticks()) == ticks
    assert len(axes.texts) == texts
    assert figure.get_figwidth() <= WIDTH
    assert all(len(label.get_text()) <= 22 for label in axes.get_yticklabels())


def test_a_prediction_is_marked_right_or_wrong_by_sign_and_colour_and_an_unknown_truth_is_not() -> None:
    image = Image.new("L", (8, 8))
    figure = sample_predictions([image] * 3, ["7", "1", None], ["7", "7", "7"], [0.98, 0.5, 0.314], "Digits")
    labels = [axes.get_xlabel().strip() for axes in figure.axes]
    assert labels == ["✓ 7 (98 %)", "✗ 7 (50 %)\ntrue 1", "7 (31 %)"]
    assert len({axes.xaxis.label.get_color() for axes in figure.axes}) == 3


@pytest.mark.parametrize(("size", "interpolation"), [((28, 20), "none"), ((600, 1200), "antialiased")])
def test_small_images_show_their_pixels_and_large_ones_are_made_smaller(
    size: tuple[int, int], interpolation: str
) -> None:
    figure = sample_predictions([Image.new("RGBA", size)], [None], ["a"], [1.0], "One")
    shown = figure.axes[0].images[0]
    assert shown.get_interpolation() == interpolation
    assert max(shown.get_size()) <= 512


@pytest.mark.parametrize("number", [0, 1, MOST_IMAGES + 5])
def test_at_most_twenty_images_are_shown(number: int) -> None:
    image = Image.new("L", (8, 8))
    figure = sample_predictions([image] * number, ["a"] * number, ["a"] * number, [1.0] * number, "Many")
    assert len(figure.axes) == min(number, MOST_IMAGES)


def test_any_name_can_be_drawn_and_raises_no_warning(tmp_path: Path) -> None:
    number = len(ODD_NAMES)
    image = Image.new("L", (8, 8))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        save(curves({name: history(0.5) for name in ODD_NAMES}), tmp_path / "curves.png", dpi=30)
        save(confusion_matrix(np.eye(number), ODD_NAMES, ODD_NAMES[0]), tmp_path / "matrix.png", dpi=30)
        grid = sample_predictions([image] * number, ODD_NAMES[::-1], ODD_NAMES, [0.5] * number, ODD_NAMES[1])
        save(grid, tmp_path / "grid.png", dpi=30)
    assert len(list(tmp_path.iterdir())) == 3


def test_a_short_text_is_one_line_that_fits_and_holds_nothing_that_xml_forbids() -> None:
    assert shorten("a\n b\tc", 10) == "a b c"
    assert shorten("a name too long", 7) == "a name…"
    assert shorten("bell\a and \ufffe", 20) == "bell\ufffd and \ufffd"


def test_a_saved_figure_can_be_read_and_is_the_same_each_time(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        save(curves({"RLRR": history(0.9)}), tmp_path / name, dpi=50)
    with Image.open(tmp_path / "a.png") as image:
        assert (image.format, image.size) == ("PNG", (500, 210))
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_a_figure_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "curves.png").mkdir()
    with pytest.raises(RLRRError, match=r"curves\.png"):
        save(curves({}), tmp_path / "curves.png")
