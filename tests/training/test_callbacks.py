"""Callbacks: equal epochs, moved folders, lines of progress, and a machine without TensorBoard."""

import io
import logging
import re
import sys
from types import SimpleNamespace

import pytest
from transformers import TrainerState

from rlrr.recipes.recipe import Recipe
from rlrr.training import callbacks
from rlrr.training.callbacks import BestCheckpoint, Progress, tensorboard_callbacks
from rlrr.training.output import METRICS, TENSORBOARD, read_metrics
from rlrr.training.run import train


@pytest.mark.parametrize(("accuracy", "best"), [(0.5, 20), (0.4, 10)])
def test_the_latest_of_equal_epochs_is_the_best(accuracy, best):
    state = TrainerState(global_step=20, best_global_step=10, best_metric=0.5)
    BestCheckpoint().on_evaluate(None, state, None, metrics={"eval_accuracy": accuracy})
    assert state.best_global_step == best


def test_the_best_checkpoint_is_looked_for_where_the_run_is_now():
    state = TrainerState(best_global_step=10, best_model_checkpoint="before/checkpoint-10")
    BestCheckpoint().on_train_begin(SimpleNamespace(output_dir="now"), state, None)
    assert state.best_model_checkpoint == "now/checkpoint-10"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("stderr", "columns"), [(Terminal, 80), (Terminal, 0), (io.StringIO, 80)])
def test_each_epoch_has_a_line_whatever_shows_the_bar(monkeypatch, stderr, columns):
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setattr(sys, "stderr", shown := stderr())
    handler = logging.StreamHandler(shown)
    logger = logging.getLogger("rlrr.training.callbacks")
    logger.addHandler(handler)
    monkeypatch.setattr(logger, "level", logging.INFO)
    args = SimpleNamespace(eval_strategy="epoch", num_train_epochs=2)
    progress = Progress()
    try:
        progress.on_train_begin(args, SimpleNamespace(max_steps=4, global_step=0), None)
        for epoch in (1, 2):
            progress.on_step_end(args, SimpleNamespace(global_step=2 * epoch), None)
            for logs in ({"loss": 1 / epoch}, {"eval_accuracy": epoch / 2}):
                progress.on_log(args, SimpleNamespace(epoch=float(epoch)), None, logs=logs)
        progress.close()
    finally:
        logger.removeHandler(handler)
    lines = re.split(r"[\r\n]+", shown.getvalue())
    assert [line.strip() for line in lines if line.startswith("epoch")] == [
        "epoch 1 of 2: loss 1.000, accuracy 50.0%",
        "epoch 2 of 2: loss 0.500, accuracy 100.0%",
    ]
    assert ("Training" in shown.getvalue()) is (stderr is Terminal)


def test_tensorboard_is_written_if_it_is_installed(tmp_path):
    assert len(tensorboard_callbacks(tmp_path / "logs")) == 1
    assert (tmp_path / "logs").exists()


@pytest.mark.slow
def test_a_run_needs_no_tensorboard(tiny_backbone, images, tmp_path, monkeypatch):
    monkeypatch.setattr(callbacks, "find_spec", lambda name: None)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)  # to import it is an error
    recipe = Recipe(str(images), model=tiny_backbone, epochs=1, batch_size=8, precision="fp32")
    train(recipe, tmp_path / "run")
    assert not (tmp_path / "run" / TENSORBOARD).exists()
    assert read_metrics(tmp_path / "run" / METRICS)
