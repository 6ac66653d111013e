"""A moving average (EMA) of the trained weights, which is measured and kept in their place."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn
from transformers import TrainerCallback


class MovingAverage(TrainerCallback):
    """Keep an EMA of the trained parameters of a model, step by step: `average = decay average + (1 - decay) weights`.

    The average begins at the weights that training begins with (as timm's ModelEma, which the paper's FGVC code uses).

    Args:
        model: On the device it is trained on.
        decay: Between 0 and 1.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self._weights = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self._update = get_ema_multi_avg_fn(decay)
        self.restart()

    def restart(self) -> None:
        """Begin the average again, at the present weights."""
        self._average = [weight.detach().clone() for weight in self._weights]

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Take the weights after a step of the optimiser into the average."""
        self._update(self._average, [weight.detach() for weight in self._weights], 0)

    @torch.no_grad()
    def swap(self) -> None:
        """Exchange the weights of the model and their average."""
        for weight, average in zip(self._weights, self._average, strict=True):
            kept = weight.clone()
            weight.copy_(average)
            average.copy_(kept)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Give the model the average, inside the block."""
        self.swap()
        try:
            yield
        finally:
            self.swap()
