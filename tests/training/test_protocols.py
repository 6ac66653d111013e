"""Which images a run may touch, when, and what its number is called."""

import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from rlrr.adapters.record import read_record
from rlrr.cli.show import print_record
from rlrr.errors import RLRRError
from rlrr.inference.evaluate import evaluate
from rlrr.recipes.recipe import Recipe
from rlrr.training.run import train
from rlrr.training.trainer import ClassificationTrainer

pytestmark = pytest.mark.slow

OPENED: list[str] | None = None  # while it is a list, every file that Python opens is noted in it


def _note(event, arguments):
    if OPENED is not None and event == "open" and isinstance(arguments[0], str):
        OPENED.append(arguments[0])


sys.addaudithook(_note)


@pytest.fixture
def opened():
    """The paths of all files opened during the test, by whatever library."""
    global OPENED
    OPENED = []
    yield OPENED
    OPENED = None


@pytest.fixture
def recipe(tiny_backbone, images, tmp_path):
    shutil.copytree(images, tmp_path / "data")

    def make(**options):
        common = {"data": str(tmp_path / "data"), "model": tiny_backbone, "epochs": 2, "batch_size": 8}
        return Recipe(**common | {"precision": "fp32"} | options)

    return make


def steps_of(patch) -> list[int]:
    """The sizes of all batches that are trained on from now."""
    seen: list[int] = []
    step = ClassificationTrainer.training_step

    def watch(self, model, inputs, *args, **kwargs):
        seen.append(len(inputs["labels"]))
        return step(self, model, inputs, *args, **kwargs)

    patch.setattr(ClassificationTrainer, "training_step", watch)
    return seen


@pytest.mark.parametrize("train_on", ["train", "trainval"])
def test_no_test_image_is_opened_before_training_is_over(recipe, tmp_path, opened, monkeypatch, train_on):
    def of_test() -> set[str]:
        return {Path(path).name for path in opened if Path(path).is_relative_to(tmp_path / "data" / "test")}

    def at_the_end(self):
        assert self.state.global_step == self.state.max_steps
        assert len([path for path in opened if Path(path).is_relative_to(tmp_path / "data" / "train")]) >= 24
        assert not of_test()

    monkeypatch.setattr(ClassificationTrainer, "keep_average", at_the_end)
    train(recipe(train_on=train_on), tmp_path / "run")
    assert of_test()


def test_a_run_that_tests_nothing_never_opens_a_test_image(recipe, tmp_path, opened):
    record = train(recipe(test=False), tmp_path / "run")
    assert not [path for path in opened if Path(path).is_relative_to(tmp_path / "data" / "test")]
    assert "test_accuracy" not in record.metrics
    assert record.protocol == "best epoch on validation; no test"


def test_trainval_trains_on_the_validation_images_too_and_keeps_the_last_epoch(recipe, tmp_path, monkeypatch):
    sizes = steps_of(monkeypatch)
    record = train(recipe(train_on="trainval"), tmp_path / "run")
    assert sum(sizes) == 2 * (24 + 9)
    assert record.data["train"] == 33
    assert record.data["val"] == 0
    assert record.metrics["epoch"] == 2
    assert "val_accuracy" not in record.metrics
    assert record.protocol.startswith("last epoch, trained on the validation images too; test read once")
    assert 0 <= record.metrics["test_accuracy"] <= 1


def test_the_papers_protocol_tests_each_epoch_keeps_the_best_and_says_so(recipe, tmp_path, monkeypatch, capsys):
    sizes = steps_of(monkeypatch)
    scripted = iter([0.4, 0.9, 0.7])
    monkeypatch.setattr("rlrr.training.trainer._accuracy", lambda predictions: {"accuracy": next(scripted)})
    record = train(recipe(protocol="paper", epochs=3), tmp_path / "run")
    assert sum(sizes) == 3 * (24 + 9)
    assert (record.metrics["best_test_accuracy"], record.metrics["epoch"]) == (0.9, 2)
    assert "test_accuracy" not in record.metrics
    assert record.protocol.startswith("best test epoch")
    print_record(record, tmp_path / "run")
    assert "90.0%, best test epoch (2): the test images chose it" in capsys.readouterr().out


def test_the_papers_protocol_needs_test_images(recipe, tmp_path):
    shutil.rmtree(tmp_path / "data" / "test")
    with pytest.raises(RLRRError, match="has no test images: add a test split"):
        train(recipe(protocol="paper"), tmp_path / "run")


def test_a_bad_test_image_costs_no_training(recipe, tmp_path, monkeypatch):
    image = next((tmp_path / "data" / "test").rglob("*.png"))
    whole = image.read_bytes()
    image.write_bytes(b"no image")
    with pytest.raises(RLRRError, match=r"(?s)1 of the 9 images of test.*The training is done and kept"):
        train(recipe(), tmp_path / "run")
    image.write_bytes(whole)
    sizes = steps_of(monkeypatch)
    record = train(recipe(), tmp_path / "run", resume=True)
    assert not sizes
    assert "test_accuracy" in record.metrics


def test_the_record_names_the_data_by_its_content(recipe, tmp_path):
    records = [train(recipe(epochs=1), tmp_path / "one")]
    (tmp_path / "data").rename(tmp_path / "moved")
    moved = replace(recipe(epochs=1), data=str(tmp_path / "moved"))
    records.append(train(moved, tmp_path / "two"))
    shutil.copy(tmp_path / "moved/train/red/0.png", tmp_path / "moved/train/red/1.png")
    records.append(train(moved, tmp_path / "three"))
    one, two, three = (record.data["sha256"] for record in records)
    assert one == two != three
    assert len({record.data["test_sha256"] for record in records}) == 1
    assert records[0].metrics["peak_memory_mb"] > 100
    assert records[0].metrics["device"].startswith(("CPU", "NVIDIA"))


@pytest.mark.parametrize(
    ("options", "split", "said"),
    [
        ({}, "val", "val: they chose the epoch"),
        ({}, "train", "train: they were trained on"),
        ({"train_on": "trainval"}, "val", "val: they were trained on"),
        ({}, "test", "test"),
        ({"select": "last"}, "val", "val"),
        ({"protocol": "paper"}, "test", "test: best test epoch, they chose it"),
        ({"protocol": "paper"}, "val", "val: they were trained on"),
        ({"protocol": "paper"}, "train", "train: they were trained on"),
    ],
)
def test_an_evaluation_says_what_the_images_did_in_the_run(recipe, tmp_path, options, split, said):
    train(recipe(epochs=1, **options), tmp_path / "run")
    assert evaluate(tmp_path / "run", tmp_path / "data", split=split).split == f"data, {said}"


def test_seconds_before_a_stop_are_counted(recipe, tmp_path, monkeypatch):
    def interrupt(self, *args, **kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("rlrr.training.callbacks.time.perf_counter", iter(range(0, 10**6, 100)).__next__)
        patch.setattr(ClassificationTrainer, "keep_average", interrupt)
        with pytest.raises(RLRRError, match="Stopped"):
            train(recipe(), tmp_path / "run")
    train(recipe(), tmp_path / "run", resume=True)
    assert read_record(tmp_path / "run").metrics["train_seconds"] >= 100
