"""Deviation of a backbone from pre-training, epoch by epoch.

Deviation is `sqrt(Σ‖ΔW‖² / Σ‖W‖²)` over the weights of all linears and convolutions of the backbone, trained or not:
0.4 is "40 % from pre-training". The classifier is left out, and so are all tensors that are no matrix: biases, shifts,
the scales and shifts of norms, position embeddings.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from transformers import TrainerCallback, TrainerControl, TrainerState

from rlrr.backbones.families import block_names, classifier_names
from rlrr.errors import UsageError
from rlrr.methods.capabilities import can_merge, weight_change
from rlrr.methods.trainable import plain_model

WHOLE = "deviation"  # name in the log; the name of a block has its index after it


class Deviation(TrainerCallback):
    """Callback that logs the deviation before the first and after each epoch.

    Args:
        model: The model to train, before a step is taken or a checkpoint loaded.
        log: The trainer's `log`.
        kept: The trainer's `kept`, a context in which the model has the weights that would be kept.

    Raises:
        UsageError: the method's update is no change of weights.
    """

    def __init__(
        self,
        model: nn.Module,
        log: Callable[[dict[str, float]], None],
        kept: Callable[[], AbstractContextManager[None]],
    ) -> None:
        check_measurable(model)
        self._weights = _weights(model)
        self._log, self._kept = log, kept

    @torch.no_grad()
    def measure(self) -> dict[str, float]:
        """Measure the deviation now, of the whole backbone (`deviation`) and of each block (`deviation_0`, ...)."""
        sums: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
        with self._kept():
            for weight in self._weights:
                change = weight.change()
                names = [WHOLE]
                if weight.block is not None:
                    names.append(f"{WHOLE}_{weight.block}")
                for name in names:
                    sums[name][0] += change**2
                    sums[name][1] += weight.size**2
        return {name: math.sqrt(change / size) for name, (change, size) in sums.items() if size}

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Log the deviation at the start: some methods do not start at the pre-trained function."""
        if state.global_step == 0:
            self._log(self.measure())

    def on_epoch_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Log the deviation after an epoch."""
        should_log = control.should_log
        self._log(self.measure())
        control.should_log = should_log  # logging resets it, and the epoch's own log would be lost


def check_measurable(model: nn.Module) -> None:
    """Refuse a model whose update is no change of weights, before it is trained.

    Args:
        model: A model to which a method is applied.

    Raises:
        UsageError: its deviation from pre-training cannot be measured.
    """
    if not can_merge(model):
        raise UsageError(
            "`log_deviation` measures how far weights move, and the update of this method is no change of weights: "
            "leave it out."
        )


@dataclass(frozen=True)
class _Weight:
    """One weight of the backbone.

    Attributes:
        block: Index of the block that holds the weight; None outside the blocks.
        size: Frobenius norm before training.
        change: Function that computes the Frobenius norm of the change until now.
    """

    block: int | None
    size: float
    change: Callable[[], float]


def _weights(model: nn.Module) -> list[_Weight]:
    plain = plain_model(model)
    blocks, weights = block_names(plain), []
    excluded = classifier_names(plain)
    for name, module in plain.named_modules():
        if any(name == other or name.startswith(f"{other}.") for other in excluded):
            continue
        base = module
        if isinstance(module, BaseTunerLayer):  # the modules in it are no part of the backbone
            excluded.append(name)
            base = module.get_base_layer()
        if not isinstance(base, (nn.Linear, _ConvNd)):
            continue
        block = next((index for index, block in enumerate(blocks) if name.startswith(f"{block}.")), None)
        weights.append(_Weight(block, _norm(base.weight), _change_of(module, base)))
    return weights


def _change_of(module: nn.Module, base: nn.Linear | _ConvNd) -> Callable[[], float]:
    """Make the function that computes the norm of a weight's change; a weight that is trained itself is copied."""
    if isinstance(module, BaseTunerLayer):
        return partial(_adapted, module)
    if base.weight.requires_grad:
        return partial(_trained, base, base.weight.detach().to("cpu", copy=True))
    return lambda: 0.0


def _adapted(layer: nn.Module) -> float:
    change = weight_change(layer)
    assert change is not None, "check_measurable refuses such layers"
    return change


def _trained(layer: nn.Module, before: Tensor) -> float:
    weight: Any = layer.weight
    return _norm(weight - before.to(weight.device))


def _norm(tensor: Tensor) -> float:
    return torch.linalg.vector_norm(tensor.detach(), dtype=torch.float64).item()
