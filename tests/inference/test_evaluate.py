"""The figures of an evaluation, against ones worked out by hand."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn import metrics

import rlrr
from rlrr.adapters.record import Record
from rlrr.data import data_source
from rlrr.inference.evaluate import evaluate, per_class, save_evaluation
from rlrr.inference.predict import Classifier

COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}
CONFIG = {
    "input_size": (3, 8, 8),
    "interpolation": "bilinear",
    "mean": (0, 0, 0),
    "std": (1, 1, 1),
    "crop_pct": 1.0,
    "crop_mode": "center",
}


class Brightest(torch.nn.Module):
    """Logits are the means of the channels, ten times."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = torch.nn.Parameter(torch.tensor(10.0))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.scale * images.mean((2, 3))


def judge(recipe: dict | None = None) -> Classifier:
    """Says which of red, green and blue an image is; its classes are not in the order of a folder's."""
    data = {"source": data_source(recipe["data"])} if recipe else {}
    return Classifier(Brightest(), Record("rlrr", {}, ["red", "green", "blue"], CONFIG, recipe or {}, data))


def fill(folder: Path, shown: dict[str, str]) -> Path:
    """A class folder for each key, with an image of each colour that its value names."""
    for name, colours in shown.items():
        (folder / name).mkdir(parents=True)
        for i, colour in enumerate(colours.split()):
            Image.new("RGB", (8, 8), COLOURS[colour]).save(folder / name / f"{i}.png")
    return folder


def test_the_figures_are_those_worked_out_by_hand(tmp_path):
    data = fill(tmp_path, {"red": "red red green", "green": "green blue", "blue": "red blue blue blue"})
    result = evaluate(judge(), data)
    assert result.images == 9
    assert result.accuracy == pytest.approx(6 / 9)
    assert result.classes == ["red", "green", "blue"]
    assert result.confusion.tolist() == [[2, 1, 0], [0, 1, 1], [1, 0, 3]]
    expected = [
        {"precision": 2 / 3, "recall": 2 / 3, "f1": 2 / 3, "images": 3},
        {"precision": 1 / 2, "recall": 1 / 2, "f1": 1 / 2, "images": 2},
        {"precision": 3 / 4, "recall": 3 / 4, "f1": 3 / 4, "images": 4},
    ]
    for found, wanted in zip(result.per_class, expected, strict=True):
        assert found == pytest.approx(wanted)
    assert result.confidence.max() == pytest.approx(torch.tensor([10.0, 0, 0]).softmax(0)[0].item(), rel=1e-4)


def test_measures_of_a_class_that_the_data_lacks_are_not_defined(tmp_path):
    result = evaluate(judge(), fill(tmp_path, {"green": "green red", "blue": "blue blue"}))
    assert result.accuracy == pytest.approx(3 / 4)
    assert result.confusion.tolist() == [[0, 0, 0], [1, 1, 0], [0, 0, 2]]
    assert result.per_class[0] == {"precision": 0, "recall": None, "f1": None, "images": 0}
    assert result.rows[0] == ["red", "0.0%", "-", "-", "0"]
    assert result.per_class[1] == pytest.approx({"precision": 1, "recall": 1 / 2, "f1": 2 / 3, "images": 2})


def test_the_test_split_is_taken_if_there_is_one(tmp_path):
    fill(tmp_path / "train", {"red": "red red", "blue": "blue blue"})
    fill(tmp_path / "test", {"red": "blue", "blue": "blue"})
    result = evaluate(judge(), tmp_path)
    assert (result.images, result.accuracy, result.split) == (2, 0.5, f"{tmp_path.name}, test")
    assert evaluate(judge(), tmp_path, split="train").images == 4


def test_images_of_one_class_can_be_evaluated(tmp_path):
    result = evaluate(judge(), fill(tmp_path, {"red": "red"}))
    assert (result.images, result.accuracy, result.split) == (1, 1.0, f"{tmp_path.name}, all images")


def test_other_data_without_splits_is_taken_whole(flat_images):
    assert evaluate(judge(), flat_images).images == 30


@pytest.mark.parametrize("elsewhere", [False, True])
def test_of_the_data_it_was_trained_on_only_the_held_out_images_are_taken(
    flat_images, tmp_path, monkeypatch, elsewhere
):
    recipe = {"data": str(flat_images), "val_fraction": 0.3, "seed": 5}
    data: str | Path = flat_images
    if elsewhere:
        monkeypatch.chdir(flat_images.parent)
        data = f"./{flat_images.name}/"
    result = evaluate(judge(recipe), data)
    held_out = rlrr.evaluate(judge(recipe), data, split="val")
    assert result.images == held_out.images == 9
    assert result.split == f"{flat_images.name}, val: they chose the epoch"


def test_the_home_folder_is_the_same_with_and_without_its_short_name(flat_images, monkeypatch):
    monkeypatch.setenv("HOME", str(flat_images.parent))
    recipe = {"data": f"~/{flat_images.name}", "val_fraction": 0.3, "seed": 5}
    assert evaluate(judge(recipe), flat_images).images == 9


def test_a_split_that_is_not_there_is_refused(flat_images):
    with pytest.raises(rlrr.RLRRError, match="has no test split"):
        evaluate(judge(), flat_images, split="test")
    with pytest.raises(rlrr.RLRRError, match="`split` must be one of test, val, train, not 'tset'"):
        evaluate(judge(), flat_images, split="tset")


def test_a_class_the_run_does_not_know_is_named(tmp_path):
    data = fill(tmp_path, {"red": "red red", "violet": "blue blue"})
    with pytest.raises(rlrr.RLRRError, match=r"classes that the run does not know \(violet\); it knows red"):
        evaluate(judge(), data)


def test_skipped_images_count_in_no_figure(tmp_path):
    data = fill(tmp_path, {"red": "red red", "blue": "blue red"})
    (data / "blue" / "1.png").write_bytes(b"")
    with pytest.raises(rlrr.RLRRError, match=r"blue/1\.png: empty file"):
        evaluate(judge(), data)
    result = evaluate(judge(), data, bad_images="skip")
    assert (result.images, result.accuracy) == (3, 1.0)
    assert result.to_dict()["skipped"] == ["blue/1.png: empty file"]


def test_what_is_saved_is_what_was_found(tmp_path):
    result = evaluate(judge(), fill(tmp_path / "data", {"red": "red red", "green": "blue green"}))
    figures, picture = save_evaluation(result, tmp_path / "out")
    content = json.loads(figures.read_text(encoding="utf-8"))
    assert content == result.to_dict()
    assert content["per_class"]["green"]["recall"] == 0.5
    with Image.open(picture) as image:
        assert image.format == "PNG"


@pytest.mark.parametrize("seed", range(5))
def test_the_measures_are_those_of_scikit_learn(seed):
    generator = np.random.default_rng(seed)
    labels, predicted = generator.integers(0, 6, 40), generator.integers(0, 5, 40)  # class 6 is in neither
    confusion = metrics.confusion_matrix(labels, predicted, labels=range(7))
    columns = metrics.precision_recall_fscore_support(labels, predicted, labels=range(7), zero_division=np.nan)
    rows = [(row["precision"], row["recall"], row["f1"], row["images"]) for row in per_class(confusion)]
    np.testing.assert_allclose(np.array(rows, float).T, columns)


def test_without_the_extra_for_pictures_the_figures_are_written_alone(tmp_path, monkeypatch):
    result = evaluate(judge(), fill(tmp_path / "data", {"red": "red red", "green": "blue green"}))
    monkeypatch.setattr("rlrr.inference.evaluate.find_spec", lambda name: None)
    assert save_evaluation(result, tmp_path / "out") == [tmp_path / "out" / "evaluation.json"]


def test_a_finished_run_is_evaluated_by_its_folder(finished_run, images, tmp_path):
    result = rlrr.evaluate(str(finished_run), images)
    record = json.loads((finished_run / "rlrr.json").read_text())
    assert result.accuracy == record["metrics"]["test_accuracy"]
    without = Path(shutil.copytree(images, tmp_path / "subset"))
    for part in ("train", "val", "test"):
        shutil.rmtree(without / part / "green")
    subset = rlrr.evaluate(finished_run, without)
    assert subset.confusion[1].tolist() == [0, 0, 0]
    assert subset.confusion[[0, 2]].tolist() == result.confusion[[0, 2]].tolist()


def test_a_run_is_loaded_by_the_options_of_load(finished_run, images, caplog):
    with caplog.at_level("INFO"):
        result = rlrr.evaluate(finished_run, images, device="cpu", batch_size=2, threads=1)
    assert result.accuracy == rlrr.evaluate(rlrr.load(finished_run), images).accuracy
    assert "measuring 9 images on CPU, threads: 1" in caplog.text
    with pytest.raises(rlrr.RLRRError, match="loaded already: give `device` to `load`"):
        rlrr.evaluate(judge(), images, device="cpu")


@pytest.mark.parametrize(("run", "data"), [(None, "data"), ("run", None), (3, "data")])
def test_arguments_of_other_types_are_one_sentence(run, data):
    with pytest.raises(rlrr.RLRRError, match=r"^`(run|data)` must be str \| Path"):
        rlrr.evaluate(run, data)


def test_it_shows_itself_in_a_line_and_in_a_notebook(tmp_path, monkeypatch):
    result = evaluate(judge(), fill(tmp_path / "<b>", {"red": "red red", "green": "blue green"}))
    assert repr(result) == "Evaluation(<b>, all images: 75.0% of 4 images right)"
    page = result._repr_html_()
    assert "&lt;b&gt;" in page
    assert "<td>green<td>" in page
    assert "data:image/png;base64," in page
    monkeypatch.setattr("rlrr.inference.evaluate.find_spec", lambda name: None)
    assert "<img" not in result._repr_html_()
