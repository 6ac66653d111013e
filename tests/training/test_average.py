"""The moving average of the trained weights."""

import math

import pytest
import torch
from torch import nn

from rlrr.adapters.folder import read_tensors
from rlrr.adapters.record import TENSORS
from rlrr.recipes.recipe import Recipe
from rlrr.training.average import MovingAverage
from rlrr.training.output import METRICS, read_metrics
from rlrr.training.run import train


def test_each_step_takes_in_a_share_of_the_trained_weights():
    model = nn.Linear(2, 1)
    model.bias.requires_grad_(False)
    nn.init.zeros_(model.weight)
    average = MovingAverage(model, 0.9)
    expected = torch.zeros(1, 2)
    for value in (1.0, 3.0):
        nn.init.constant_(model.weight, value)
        average.on_step_end(None, None, None)
        expected = 0.9 * expected + 0.1 * value
    with average.in_place():
        torch.testing.assert_close(model.weight.detach(), expected)
    assert (model.weight == 3).all()


@pytest.mark.slow
def test_the_average_is_what_a_run_keeps(tiny_backbone, images, tmp_path, monkeypatch):
    weights = []
    take_in = MovingAverage.on_step_end

    def watch(self, args, state, control, model=None, **kwargs):
        weights.append(model.head.weight.detach().clone())
        take_in(self, args, state, control)

    monkeypatch.setattr(MovingAverage, "on_step_end", watch)
    options = {"method": "linear", "epochs": 3, "batch_size": 8, "precision": "fp32", "ema": 0.5}
    train(Recipe(str(images), model=tiny_backbone, train_on="trainval", **options), tmp_path / "run")
    expected = torch.zeros_like(weights[0])  # where the classifier starts
    for weight in weights:
        expected = 0.5 * expected + 0.5 * weight
    kept = read_tensors(tmp_path / "run" / TENSORS)["head.weight"]
    torch.testing.assert_close(kept, expected)
    assert not torch.allclose(kept, weights[-1])


@pytest.mark.slow
def test_the_average_is_what_is_measured(tiny_backbone, images, tmp_path):
    """With a decay near 1 it hardly leaves the classifier's zeros, and all logits stay near 0."""
    options = {"method": "linear", "epochs": 2, "batch_size": 8, "precision": "fp32"}
    train(Recipe(str(images), model=tiny_backbone, ema=0.999999, **options), tmp_path / "run")
    measured = [record["eval_loss"] for record in read_metrics(tmp_path / "run" / METRICS) if "eval_loss" in record]
    assert measured == pytest.approx([math.log(3)] * 2, abs=1e-4)
