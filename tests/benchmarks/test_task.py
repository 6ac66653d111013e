"""The benchmark of a whole task: its data are a task, its procedures do what they say, and its clock adds up."""

import time
from pathlib import Path

import pytest
import torch

from rlrr.data import load_data
from rlrr.training.trainer import ClassificationTrainer

pytestmark = pytest.mark.slow


@pytest.fixture
def task(script):
    return script("task")


@pytest.fixture
def generated(task, tmp_path) -> Path:
    task.write_task(tmp_path / "generated", 25, 12, 40)
    return tmp_path / "generated"


def test_what_is_written_is_a_task_of_vtab(generated):
    data = load_data(generated)
    assert (len(data.train), len(data.val), len(data.test)) == (20, 5, 12)
    assert len((generated / "train800val200.txt").read_text().splitlines()) == 25


@pytest.mark.parametrize(
    ("procedure", "tested"), [("official", [12, 12]), ("rlrr", [5, 5]), ("rlrr_trainval", [])], ids=str
)
def test_each_procedure_measures_the_images_that_it_says(
    task, generated, tiny_backbone, monkeypatch, procedure, tested
):
    seen = []
    accuracy, evaluate = task._accuracy, ClassificationTrainer.evaluate
    monkeypatch.setattr(task, "_accuracy", lambda *args: seen.append(len(args[1].dataset)) or accuracy(*args))
    monkeypatch.setattr(
        ClassificationTrainer,
        "evaluate",
        lambda self, **kwargs: seen.append(len(self.eval_dataset)) or evaluate(self, **kwargs),
    )
    options = {"data": str(generated), "model": tiny_backbone, "epochs": 2, "batch_size": 8, "precision": "fp32"}
    seconds = task.measure(procedure, options | {"threads": 1, "learning_rate": task.RATE}, workers=0)
    assert seen == tested
    assert seconds["total"] == pytest.approx(sum(seconds[stage] for stage in task.STAGES))
    empty = {"official": {"test"}, "rlrr": set(), "rlrr_trainval": {"evaluate"}}[procedure]
    assert {stage for stage in task.STAGES if not seconds[stage]} == empty


def test_a_stage_within_another_counts_for_itself_alone(task, monkeypatch):
    now = iter([0.0, 10.0, 13.0, 20.0])
    monkeypatch.setattr(time, "perf_counter", lambda: next(now))
    clock = task.Clock(torch.device("cpu"))
    with clock.stage("train"), clock.stage("save"):
        pass
    assert (clock.seconds["train"], clock.seconds["save"]) == (17.0, 3.0)


def test_ratios_are_to_the_official_procedure_in_the_same_turn(task):
    totals = [("official", 0, 10.0), ("rlrr", 0, 5.0), ("official", 1, 20.0), ("rlrr", 1, 12.0)]
    stages = dict.fromkeys(task.STAGES, 1.0)
    runs = [{"procedure": name, "turn": turn, "total": total, **stages} for name, turn, total in totals]
    table = task.summary(runs, epochs=3, images=1000, test_images=12)
    ours = next(line for line in table.splitlines() if line.startswith("| rlrr"))
    assert [cell.strip() for cell in ours.split("|")][2:4] == ["800", "12"]
    assert "0.550 (0.500–0.600)" in ours  # noqa: RUF001
