"""How far training has moved a backbone from pre-training, epoch by epoch.

Deviation is `sqrt(Σ‖ΔW‖² / Σ‖W‖²)` over the weights of all linears and convolutions of the backbone, trained or not:
0.4 is "40 % from pre-training". The classifier is not in it, nor what is no matrix: biases, shifts, the scales and
shifts of norms, tables of positions.
"""

from __future__ import annotations

import copy
import logging
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
from rlrr.methods.trainable import plain_model
from rlrr.tuners.rlrr.functional import rescaling_norm
from rlrr.tuners.rlrr.layer import Affine, Rescaled, RLRRLayer

logger = logging.getLogger(__name__)

WHOLE = "deviation"  # as it is logged; a block's has its index after it


class Deviation(TrainerCallback):
    """Logs the deviation before the first and after each epoch, and warns or ends training where it passes a limit.

    Args:
        model: As a method leaves it, before a step is taken or a checkpoint loaded.
        log: The trainer's.
        kept: The trainer's: has the model work with the weights that would be kept.
        warn: Deviation from which on to warn, once; None for never.
        stop: Deviation at which to end training; None for never.
    """

    def __init__(
        self,
        model: nn.Module,
        log: Callable[[dict[str, float]], None],
        kept: Callable[[], AbstractContextManager[None]],
        *,
        warn: float | None = None,
        stop: float | None = None,
    ) -> None:
        self._weights = _weights(model)
        self._log, self._kept, self._warn, self._stop = log, kept, warn, stop

    @torch.no_grad()
    def measure(self) -> dict[str, float]:
        """The deviation now, of the whole backbone (`deviation`) and of each block (`deviation_0`, ...)."""
        sums: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
        with self._kept():
            for weight in self._weights:
                change = weight.change()
                for name in (WHOLE, *([] if weight.block is None else [f"{WHOLE}_{weight.block}"])):
                    sums[name][0] += change**2
                    sums[name][1] += weight.size**2
        return {name: math.sqrt(change / size) for name, (change, size) in sums.items() if size}

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Log where training starts, which for RLRR is not where pre-training ended."""
        if state.global_step == 0:
            self._log(self.measure())

    def on_epoch_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Log, and look at the limits."""
        should_log = control.should_log
        self._log(self.measure())
        control.should_log = should_log  # to log anything at all takes the epoch's own log for done
        *before, now = deviations(state)
        after = f"This run has moved {now:.1%} from pre-training after epoch {round(state.epoch)}"
        if ended_by_deviation(state, self._stop):
            control.should_training_stop = True
            logger.warning("%s, and ends here (--stop_deviation is %g).", after, self._stop)
        elif self._warn is not None and now >= self._warn and max(before, default=0.0) < self._warn:
            tail = "to stay nearer, lower --learning_rate or --epochs"
            logger.warning("%s (--warn_deviation is %g): %s.", after, self._warn, tail)


def deviations(state: TrainerState) -> list[float]:
    """The deviation after each epoch up to now, also of those before a run was stopped and resumed."""
    return [record[WHOLE] for record in state.log_history if WHOLE in record and record["step"]]


def ended_by_deviation(state: TrainerState, limit: float | None) -> bool:
    """Whether a run that is where `state` says has reached the limit and not yet its last step."""
    reached = limit is not None and max(deviations(state)[-1:], default=0.0) >= limit
    return reached and state.global_step < state.max_steps


@dataclass(frozen=True)
class _Weight:
    """One weight of the backbone.

    Attributes:
        block: Index of the block it is in, if it is in one.
        size: Its Frobenius norm before training.
        change: Gives that of its change by now.
    """

    block: int | None
    size: float
    change: Callable[[], float]


def _weights(model: nn.Module) -> list[_Weight]:
    plain = plain_model(model)
    blocks, found = block_names(plain), []
    seen = classifier_names(plain)
    for name, module in plain.named_modules():
        if any(name == other or name.startswith(f"{other}.") for other in seen):
            continue
        base = module
        if isinstance(module, BaseTunerLayer):  # whose own modules are no part of the backbone
            seen.append(name)
            base = module.get_base_layer()
        if not isinstance(base, (nn.Linear, _ConvNd)):
            continue
        block = next((index for index, its in enumerate(blocks) if name.startswith(f"{its}.")), None)
        found.append(_Weight(block, _norm(base.weight), _change_of(module, base)))
    return found


def _change_of(module: nn.Module, base: nn.Linear | _ConvNd) -> Callable[[], float]:
    """What gives the norm of the change of a layer's weight; it keeps a copy of a weight that is trained itself."""
    if isinstance(module, RLRRLayer):
        return partial(_rescaled, module)
    if isinstance(module, BaseTunerLayer):
        return partial(_merged, module)
    if base.weight.requires_grad:
        return partial(_trained, base, base.weight.detach().to("cpu", copy=True))
    return lambda: 0.0


def _rescaled(layer: RLRRLayer) -> float:
    (adapter,) = layer.active_adapters
    weight = layer.frozen[0]
    assert weight is not None, "linears and convolutions have one"
    vectors = {name: getattr(layer, name).get(adapter) for name in layer.adapter_layer_names}
    if isinstance(layer, Affine):  # of a convolution, each output of which is scaled
        return rescaling_norm(weight.flatten(1), vectors["rlrr_scale"][:, None] - 1, None)
    assert isinstance(layer, Rescaled), "there are two kinds"
    config = layer.configs[adapter]
    return rescaling_norm(
        layer.as_matrix(weight),
        vectors["rlrr_scale_out"],
        vectors["rlrr_scale_in"],
        residual=config.residual,
        multiply_weight=config.multiply_weight,
    )


def _merged(layer: nn.Module) -> float:
    """For any method whose adapters merge, in a copy of the layer in float32."""
    merged: Any = copy.deepcopy(layer).float()
    before = merged.get_base_layer().weight.detach().clone()
    merged.merge()
    return _norm(merged.get_base_layer().weight - before)


def _trained(layer: nn.Module, before: Tensor) -> float:
    weight: Any = layer.weight
    return _norm(weight - before.to(weight.device))


def _norm(tensor: Tensor) -> float:
    return torch.linalg.vector_norm(tensor.detach(), dtype=torch.float64).item()
