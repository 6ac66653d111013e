"""Learning rates by epochs: against lists made by hand, and through an optimiser, also a resumed one."""

import logging
import math

import pytest
import torch

from rlrr.recipes.recipe import Recipe
from rlrr.training.schedule import epoch_rates, make_scheduler, step_rates


def recipe(**options):
    return Recipe("data", **{"schedule": "paper", "epochs": 100, "cooldown": 10, "warmup": 0.1, **options})


def paper_rate(epoch, peak, epochs, warmup):
    """Without a library: warm-up from 1e-7, a cosine to 1e-8 by all epochs, and one epoch late."""
    late = max(epoch - 1, 0)
    if late < warmup:
        return 1e-7 + (peak - 1e-7) * late / warmup
    if late < epochs:
        return 1e-8 + (peak - 1e-8) * (1 + math.cos(math.pi * late / epochs)) / 2
    return 1e-8


@pytest.mark.parametrize(("epochs", "warmup"), [(100, 10), (50, 10)], ids=["VTAB-1k", "FGVC"])
@pytest.mark.parametrize("peak", [1e-4, 3e-3, 1e-2])
def test_the_papers_rates_are_those_worked_out_by_hand(epochs, warmup, peak):
    rates = epoch_rates(recipe(epochs=epochs, warmup=warmup / epochs), peak)
    assert rates == pytest.approx([paper_rate(e, peak, epochs, warmup) for e in range(epochs + 10)], rel=1e-9)


def test_the_papers_run_has_a_lag_a_warm_up_and_a_floor():
    rates = epoch_rates(recipe(), 3e-3)
    assert len(rates) == 110
    assert rates[:2] == [1e-7, 1e-7]
    assert rates[2:11] == pytest.approx([1e-7 + k * (3e-3 - 1e-7) / 10 for k in range(1, 10)])
    assert rates[11] == max(rates) < 3e-3  # the cosine is past its top when the warm-up ends
    assert rates[100] > 1e-8
    assert rates[101:] == [1e-8] * 9


def test_restarts_have_no_warm_up_and_run_on_through_the_cooldown():
    period = [(1 + math.cos(math.pi * k / 5)) / 2 for k in range(5)]
    options = {"schedule": "restarts", "restart_epochs": 5, "restart_factor": 1}
    rates = epoch_rates(recipe(epochs=50, **options), 3e-3)
    assert rates == pytest.approx([3e-3 * rate for rate in (period[:1] + period * 12)[:60]])


def test_each_period_is_longer_by_the_factor():
    periods = [(1 + math.cos(math.pi * k / length)) / 2 for length in (10, 20, 40, 80) for k in range(length)]
    rates = epoch_rates(recipe(schedule="restarts", restart_epochs=10, restart_factor=2), 1e-2)
    assert rates == pytest.approx([1e-2 * rate for rate in [1.0, *periods][:110]])


@pytest.mark.parametrize("epochs", [1, 2, 3, 5])
@pytest.mark.parametrize("warmup", [0.0, 0.1, 0.5, 0.9])
@pytest.mark.parametrize("schedule", ["paper", "restarts"])
def test_a_short_run_learns_whatever_its_warm_up(schedule, warmup, epochs, caplog):
    with caplog.at_level(logging.WARNING):
        rates = epoch_rates(recipe(schedule=schedule, warmup=warmup, epochs=epochs, cooldown=0), 1e-3)
    assert len(rates) == epochs
    assert rates[-1] > 1e-5
    assert not caplog.records  # timm would say that one epoch is no schedule


def optimizer(peak=3e-3):
    weights = [torch.nn.Parameter(torch.ones(1)), torch.nn.Parameter(torch.ones(1))]
    return torch.optim.AdamW([{"params": weights[:1], "weight_decay": 0.0}, {"params": weights[1:]}], lr=peak)


def run(scheduler, optimizer, steps):
    rates = []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        assert optimizer.param_groups[1]["lr"] == rates[-1]
        optimizer.step()
        scheduler.step()
    return rates


@pytest.mark.parametrize("schedule", ["paper", "restarts"])
def test_the_rate_changes_with_the_epoch_not_with_the_step(schedule):
    options, adam = recipe(schedule=schedule, epochs=6, cooldown=2), optimizer()
    expected = [rate for rate in epoch_rates(options, 3e-3) for _ in range(3)]
    assert run(make_scheduler(options, adam, steps_per_epoch=3), adam, 24) == pytest.approx(expected)


@pytest.mark.parametrize("schedule", ["paper", "restarts"])
def test_a_resumed_run_has_the_rates_of_a_whole_one(schedule):
    options, whole, first, second = recipe(schedule=schedule, epochs=6), optimizer(), optimizer(), optimizer()
    expected = run(make_scheduler(options, whole, 3), whole, 48)
    scheduler = make_scheduler(options, first, 3)
    begun = run(scheduler, first, 10)
    resumed = make_scheduler(options, second, 3)
    second.load_state_dict(first.state_dict())
    resumed.load_state_dict(scheduler.state_dict())
    assert begun + run(resumed, second, 38) == expected


def test_cosine_by_steps_is_left_to_trainer():
    assert make_scheduler(Recipe("data"), optimizer(), 3) is None


@pytest.mark.parametrize("schedule", ["cosine", "paper", "restarts"])
def test_the_rates_of_all_steps_are_those_of_a_training(schedule):
    recipe = Recipe("data", epochs=3, warmup=0.2, schedule=schedule)
    rates = step_rates(recipe, 5, 0.5)
    assert len(rates) == 15
    assert max(rates) == pytest.approx(0.5) if schedule != "paper" else max(rates) <= 0.5
    if schedule != "cosine":
        assert rates[::5] == pytest.approx(epoch_rates(recipe, 0.5))
