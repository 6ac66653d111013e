"""EMA of the trained weights, which is measured and kept in place of the weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn
from transformers import TrainerCallback


class MovingAverage(TrainerCallback):
    """Update an EMA of the trained parameters after each step: `average = decay * average + (1 - decay) * weights`.

    The average starts at the initial weights, as in timm's ModelEma, which the paper's FGVC code uses.

    Args:
        model: The model, on the device of the training.
        decay: Decay per step, between 0 and 1.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self._weights = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self._update = get_ema_multi_avg_fn(decay)
        self.restart()

    def restart(self) -> None:
        """Start the average again, at the present weights."""
        self._average = [weight.detach().clone() for weight in self._weights]

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Add the weights after a step of the optimiser to the average."""
        self._update(self._average, [weight.detach() for weight in self._weights], 0)

    @torch.no_grad()
    def swap(self) -> None:
        """Swap the weights of the model with the average."""
        for weight, average in zip(self._weights, self._average, strict=True):
            former_weight = weight.clone()
            weight.copy_(average)
            average.copy_(former_weight)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Put the average into the model, inside the block."""
        self.swap()
        try:
            yield
        finally:
            self.swap()
