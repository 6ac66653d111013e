"""Callbacks: equal epochs, moved folders, and a machine without TensorBoard."""

import sys
from types import SimpleNamespace

import pytest
from transformers import TrainerState

from rlrr.recipes.recipe import Recipe
from rlrr.training import callbacks
from rlrr.training.callbacks import BestCheckpoint, tensorboard_callbacks
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
