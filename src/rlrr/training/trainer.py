"""transformers' Trainer for a model that returns logits, saving only what is trained; and what it reports."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from timm.data import Mixup
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from rlrr.adapters import TENSORS, load_trained_state, read_tensors, save_trained_state
from rlrr.errors import RLRRError


class ClassificationTrainer(Trainer):
    """Trains on cross-entropy, of mixed images if there is a `mixup`, and checkpoints the trained tensors only.

    Args:
        mixup: timm's mixup and CutMix, which gives soft labels; None trains on the labels.
        label_smoothing: Without `mixup`, which smooths by itself.
        **kwargs: Trainer's own.
    """

    def __init__(self, *, mixup: Mixup | None, label_smoothing: float, **kwargs: Any) -> None:
        super().__init__(compute_metrics=_accuracy, **kwargs)
        self._mixup = mixup
        self._label_smoothing = label_smoothing
        # a PeftModel takes any keyword, from which Trainer concludes that it scales its loss when accumulating
        self.model_accepts_loss_kwargs = False

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """Mean cross-entropy of a batch.

        Raises:
            RLRRError: the training loss is not finite.
        """
        images, targets = inputs["pixel_values"], inputs["labels"]
        smoothing = 0.0
        if model.training:
            if self._mixup is None:
                smoothing = self._label_smoothing
            else:
                images, targets = self._mixup(images, targets)
        logits = model(images)
        loss = F.cross_entropy(logits.float(), targets, label_smoothing=smoothing)
        if model.training and not torch.isfinite(loss):
            rate = self.lr_scheduler.get_last_lr()[0] if self.lr_scheduler else self.args.learning_rate
            raise RLRRError(
                f"The loss became {loss.item()} at step {self.state.global_step + 1} (learning rate {rate:.2g}): lower "
                "--learning_rate, or use --precision fp32. The last checkpoint is from before."
            )
        return (loss, {"logits": logits}) if return_outputs else loss

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        if self.args.should_save:
            save_trained_state(self._plain(), Path(output_dir or self.args.output_dir) / TENSORS)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        path = Path(resume_from_checkpoint) / TENSORS
        load_trained_state(self._plain(), read_tensors(path), path)

    def _load_best_model(self) -> None:
        if self.state.best_model_checkpoint:
            self._load_from_checkpoint(self.state.best_model_checkpoint)

    def _plain(self) -> nn.Module:
        return self.accelerator.unwrap_model(self.model, keep_torch_compile=False)


def _accuracy(predictions: Any) -> dict[str, float]:
    return {"accuracy": float((predictions.predictions.argmax(-1) == predictions.label_ids).mean())}


class MetricsFile(TrainerCallback):
    """Writes what is logged as JSON lines; on resuming, first what was logged before the checkpoint."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Start the file with the history of the checkpoint."""
        self._path.write_text("".join(json.dumps(record) + "\n" for record in state.log_history), encoding="utf-8")

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Add the newest record."""
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(state.log_history[-1]) + "\n")


class Progress(TrainerCallback):
    """One bar for the run, with the latest loss and validation accuracy beside it; none where no one looks."""

    def __init__(self) -> None:
        self._shown: dict[str, str] = {}

    def on_train_begin(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
        """Open the bar, on resuming where the run was."""
        self._bar = tqdm(total=state.max_steps, initial=state.global_step, desc="Training", unit="step", disable=None)

    def on_step_end(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
        """Move it on."""
        self._bar.update(state.global_step - self._bar.n)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **kwargs: Any) -> None:
        """Show the newest numbers."""
        for name, key, form in (("loss", "loss", ".3f"), ("val", "eval_accuracy", ".1%")):
            if logs and key in logs:
                self._shown[name] = format(logs[key], form)
        self._bar.set_postfix(self._shown)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Close it."""
        self._bar.close()
