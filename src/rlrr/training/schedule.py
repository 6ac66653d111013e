"""Learning-rate schedules by epochs: the paper's cosine with warm-up, and cosine with restarts."""

from __future__ import annotations

import math
from typing import Any

import torch
from timm.scheduler import CosineLRScheduler
from torch.optim import Optimizer
from torch.optim.lr_scheduler import CosineAnnealingWarmRestarts, LambdaLR
from transformers import get_cosine_schedule_with_warmup

from rlrr.recipes.recipe import Recipe

_FIRST, _LAST = 1e-7, 1e-8  # the paper's rate at the start of the warm-up, and its lowest rate


def epoch_rates(recipe: Recipe, peak: float) -> list[float]:
    """Compute the learning rate of each epoch, for the schedules "paper" and "restarts".

    As in the paper's code, the scheduler steps at the end of an epoch with the index of that epoch, so that the rate
    lags by one: the first two epochs have the same rate. Cooldown has the lowest rate in the paper's schedule; restarts
    run on through cooldown.

    Returns:
        As many rates as there are epochs, cooldown included.
    """
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=peak)
    scheduler: Any = {"paper": _paper, "restarts": _restarts}[recipe.schedule](recipe, optimizer)
    rates = []
    for epoch in range(recipe.epochs + recipe.cooldown):
        rates.append(optimizer.param_groups[0]["lr"])
        scheduler.step(epoch)
    return rates


def batches_of(recipe: Recipe, images: int) -> int:
    """Count the batches in an epoch of so many images."""
    batches = images / recipe.batch_size
    return max(1, math.floor(batches) if recipe.mixup or recipe.cutmix else math.ceil(batches))  # mixed in pairs


def step_rates(recipe: Recipe, steps_per_epoch: int, peak: float) -> list[float]:
    """Compute the learning rate of each step of the optimiser, for every schedule.

    Args:
        recipe: The schedule.
        steps_per_epoch: Number of steps of the optimiser in an epoch, that is, after accumulation.
        peak: The peak rate.
    """
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=peak)
    total = steps_per_epoch * (recipe.epochs + recipe.cooldown)
    scheduler = make_scheduler(recipe, optimizer, steps_per_epoch) or get_cosine_schedule_with_warmup(
        optimizer, math.ceil(recipe.warmup * total), total
    )
    rates = []
    for _ in range(total):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


def make_scheduler(recipe: Recipe, optimizer: Optimizer, steps_per_epoch: int) -> LambdaLR | None:
    """Make the scheduler of a recipe, to be stepped after each step of the optimiser; None leaves it to Trainer.

    In fp16, Trainer skips the steps of optimiser and scheduler where gradients overflow, as in the first few steps: the
    epochs of the schedule begin as many steps late.

    Args:
        recipe: The schedule.
        optimizer: A new optimiser, with the peak rate in all groups.
        steps_per_epoch: Number of steps of the optimiser in an epoch, that is, after accumulation.
    """
    if recipe.schedule == "cosine":
        return None
    peak = optimizer.defaults["lr"]
    rates = epoch_rates(recipe, peak)
    return LambdaLR(optimizer, lambda step: rates[min(step // steps_per_epoch, len(rates) - 1)] / peak)


def _paper(recipe: Recipe, optimizer: Optimizer) -> CosineLRScheduler:
    # in a short run the warm-up is shortened: the last epoch, whose rate lags by one, comes after the warm-up
    warmup = min(round(recipe.warmup * recipe.epochs), max(recipe.epochs - 2, 0))
    return CosineLRScheduler(
        optimizer,
        t_initial=recipe.epochs,
        lr_min=_LAST,
        cycle_decay=0.5,  # as in the paper; no effect in a single cycle, but timm warns without it at 1 epoch
        warmup_t=warmup,
        warmup_lr_init=_FIRST,
    )


def _restarts(recipe: Recipe, optimizer: Optimizer) -> CosineAnnealingWarmRestarts:
    return CosineAnnealingWarmRestarts(optimizer, recipe.restart_epochs, recipe.restart_factor)
