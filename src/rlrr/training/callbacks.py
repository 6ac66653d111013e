"""The callbacks of a training: its metrics file, clock, progress bar, checkpoints and TensorBoard log."""

from __future__ import annotations

import json
import logging
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.integrations import TensorBoardCallback
from transformers.trainer_callback import ExportableState

from rlrr.recipes.recipe import Recipe
from rlrr.training.deviation import WHOLE
from rlrr.training.output import seal_checkpoint

logger = logging.getLogger(__name__)

_SHOWN = (
    ("loss", "loss", ".3f"),
    ("accuracy", "eval_accuracy", ".1%"),
    ("deviation", WHOLE, ".1%"),
)  # name, key in the log, format


class MetricsFile(TrainerCallback):
    """Write the log as JSON lines; on resuming, write the log of the checkpoint first."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Start the file with the history of the checkpoint."""
        self._path.write_text("".join(json.dumps(record) + "\n" for record in state.log_history), encoding="utf-8")

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Append the newest record, unless it is the summary of the run, which is wrong after resuming."""
        if "train_runtime" in state.log_history[-1]:
            return
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(state.log_history[-1]) + "\n")


class Clock(TrainerCallback, ExportableState):
    """Count the seconds of a training, including the time before it was stopped and resumed."""

    def __init__(self, seconds: float = 0.0) -> None:
        self._before, self._started = seconds, time.perf_counter()

    @property
    def seconds(self) -> float:
        """Seconds of training until now."""
        return self._before + time.perf_counter() - self._started

    def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
        """Start the clock."""
        self._started = time.perf_counter()

    def state(self) -> dict[str, Any]:
        """Return the state for a checkpoint."""
        return {"args": {"seconds": self.seconds}, "attributes": {}}


class BestCheckpoint(TrainerCallback):
    """Keep the latest of equally good epochs, and find the best checkpoint in a folder that was moved.

    Trainer keeps the first of equal epochs. The latest one has the lower learning rate, and few validation images give
    many ties.
    """

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Replace the path of the best checkpoint, which leads to the folder in which the run was started."""
        if state.best_global_step:
            state.best_model_checkpoint = f"{args.output_dir}/checkpoint-{state.best_global_step}"

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """Record this epoch as the best one if it is as good as the best before."""
        if metrics and metrics["eval_accuracy"] == state.best_metric:
            state.best_global_step = state.global_step


class SealedCheckpoints(TrainerCallback):
    """Seal each checkpoint once it is written, after which no file of it may change."""

    def __init__(self, recipe: Recipe) -> None:
        self._recipe = recipe

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Seal the newest checkpoint; Trainer, which has just deleted an older one, keeps one beside it."""
        seal_checkpoint(Path(f"{args.output_dir}/checkpoint-{state.global_step}"), self._recipe)


class Progress(TrainerCallback):
    """Show a bar for the run, with the latest loss and accuracy, and above it a line for each epoch.

    There is no bar in a file or a pipe.
    """

    def __init__(self) -> None:
        self._shown: dict[str, str] = {}
        self._bar = tqdm(disable=True)

    def on_train_begin(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
        """Open the bar, on resuming at the step of the checkpoint."""
        self._bar = tqdm(total=state.max_steps, initial=state.global_step, desc="Training", unit="step", disable=None)

    def on_step_end(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
        """Move the bar on by a step."""
        self._bar.update(state.global_step - self._bar.n)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **kwargs: Any) -> None:
        """Show the newest numbers, and log them at the end of an epoch."""
        for name, key, form in _SHOWN:
            if logs and key in logs:
                self._shown[name] = format(logs[key], form)
        self._bar.set_postfix(self._shown)
        ends_epoch = logs and ("eval_accuracy" in logs or (args.eval_strategy == "no" and "loss" in logs))
        if ends_epoch:
            numbers = ", ".join(f"{name} {value}" for name, value in self._shown.items())
            with tqdm.external_write_mode(file=sys.stderr):
                logger.info("epoch %d of %d: %s", round(state.epoch), round(args.num_train_epochs), numbers)

    def close(self) -> None:
        """Close the bar, also when training is stopped."""
        self._bar.close()


def tensorboard_callbacks(folder: Path) -> list[TrainerCallback]:
    """Make the callback that logs for TensorBoard into `folder`; none if TensorBoard is not installed."""
    if find_spec("tensorboard") is None:
        return []
    from torch.utils.tensorboard import SummaryWriter

    return [TensorBoardCallback(SummaryWriter(str(folder)))]
