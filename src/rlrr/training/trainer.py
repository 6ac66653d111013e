"""transformers' Trainer for a model that returns logits, saving only what is trained; and what it reports.

Of Trainer's private hooks it overrides `_save`, `_load_from_checkpoint` and `_load_best_model` (checkpoints hold the
trained tensors only, for every method alike, and their moving average), `_init_training_state` (a moved run finds its
best checkpoint, one that early stopping had ended takes no step more), `_determine_best_metric` (ties) and
`_get_grad_norm` (nobody asks for it).
"""

from __future__ import annotations

import json
import logging
import math
import time
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from timm.data import Mixup
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm
from transformers import (
    EarlyStoppingCallback,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.integrations import TensorBoardCallback
from transformers.trainer_callback import ExportableState

from rlrr.adapters.folder import load_trained_state, read_tensors, save_trained_state
from rlrr.adapters.record import TENSORS
from rlrr.data.pipeline import BatchTransform
from rlrr.errors import RLRRError, UsageError
from rlrr.inference.predict import evaluation_batch
from rlrr.recipes.recipe import Recipe
from rlrr.training.average import MovingAverage
from rlrr.training.deviation import WHOLE, Deviation
from rlrr.training.images import TrainingImages
from rlrr.training.optimizer import parameter_groups
from rlrr.training.output import CHECKPOINTS, METRICS, TENSORBOARD
from rlrr.training.schedule import make_scheduler
from rlrr.tuners import frozen_norms

logger = logging.getLogger(__name__)

WEIGHTS = "weights.safetensors"  # in a checkpoint, what is trained where the average of it is kept
_SHOWN = (("loss", "loss", ".3f"), ("accuracy", "eval_accuracy", ".1%"), ("deviation", WHOLE, ".1%"))  # of an epoch


class ClassificationTrainer(Trainer):
    """Trains on cross-entropy, of mixed images if there is a `mixup`, and checkpoints the trained tensors only.

    Args:
        transform: From the pixels of a batch, on the device, to what the model takes; it augments in training.
        mixup: timm's mixup and CutMix, which gives soft labels; None trains on the labels.
        label_smoothing: Without `mixup`, which smooths by itself.
        ema: Decay of the moving average that is measured and kept in place of the weights; None for none.
        **kwargs: Trainer's own.
    """

    def __init__(
        self,
        *,
        transform: BatchTransform,
        mixup: Mixup | None,
        label_smoothing: float,
        ema: float | None,
        **kwargs: Any,
    ) -> None:
        super().__init__(compute_metrics=_accuracy, **kwargs)
        self._transform = transform
        self._mixup = mixup
        self._label_smoothing = label_smoothing
        self._average = MovingAverage(self._plain(), ema) if ema else None
        if self._average:
            self.add_callback(self._average)
        self._frozen_norms = frozen_norms(self._plain())
        self._unchecked: list[tuple[int, float, Tensor]] = []  # step, learning rate, loss
        self._most_unchecked = 50 if self.args.device.type == "cuda" else 1
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
            RLRRError: the loss is not finite, of this batch or of one of the last on a GPU.
        """
        images, targets = self._transform(inputs["pixel_values"], augment=model.training), inputs["labels"]
        smoothing = 0.0
        if model.training:
            for norm in self._frozen_norms:  # which Trainer has just put into training mode
                norm.eval()
            if self._mixup is None:
                smoothing = self._label_smoothing
            else:
                images, targets = self._mixup(images, targets)
        logits = model(images)
        loss = F.cross_entropy(logits.float(), targets, label_smoothing=smoothing)
        rate = self.lr_scheduler.get_last_lr()[0] if self.lr_scheduler else self.args.learning_rate
        self._unchecked.append((self.state.global_step + model.training, float(rate), loss.detach()))
        if len(self._unchecked) >= self._most_unchecked:
            self._check_losses()
        return (loss, {"logits": logits}) if return_outputs else loss

    def _check_losses(self) -> None:
        """Refuse a loss that is not finite; in evaluation too, which comes before the epoch is saved.

        To read a loss is to wait for the GPU, so that those of many steps are read at once.
        """
        unchecked, self._unchecked = self._unchecked, []
        losses = torch.stack([loss for *_, loss in unchecked]).tolist() if unchecked else []
        for (step, rate, _), loss in zip(unchecked, losses, strict=True):
            if not math.isfinite(loss):
                raise RLRRError(
                    f"The loss became {loss} at step {step} (learning rate {rate:.2g}): lower --learning_rate, or "
                    "use --precision fp32. Checkpoints, if there are any, are from before."
                )

    def log(self, *args: Any, **kwargs: Any) -> None:
        """Only what is finite: Trainer logs the loss of an epoch before it measures and saves."""
        self._check_losses()
        super().log(*args, **kwargs)

    def _init_training_state(self, max_steps: int, epoch_steps: int, epochs: int, *args: Any) -> tuple[int, int]:
        trained, steps = super()._init_training_state(max_steps, epoch_steps, epochs, *args)
        if self.state.best_global_step:  # its path is from before the run's folder was moved, if it was
            self.state.best_model_checkpoint = f"{self.args.output_dir}/checkpoint-{self.state.best_global_step}"
        # a run that early stopping had ended has nothing left to do; Trainer would go on with it
        return (epochs if self.control.should_training_stop else trained), steps

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Measure the moving average, if there is one."""
        with self.kept():
            return super().evaluate(*args, **kwargs)

    def get_eval_dataloader(self, *args: Any, **kwargs: Any) -> Any:
        """All images, also where training drops those that fill no batch."""
        drops, self.args.dataloader_drop_last = self.args.dataloader_drop_last, False
        try:
            return super().get_eval_dataloader(*args, **kwargs)
        finally:
            self.args.dataloader_drop_last = drops

    @property
    def seconds(self) -> float:
        """Seconds of training up to now, with those before it was stopped and resumed."""
        return next(callback.seconds for callback in self.callback_handler.callbacks if isinstance(callback, Clock))

    def kept(self) -> AbstractContextManager[None]:
        """Have the model work for a while with the weights that would be kept: the moving average, if there is one."""
        return self._average.in_place() if self._average else nullcontext()

    def keep_average(self) -> None:
        """Leave the model, after training, with the moving average if there is one."""
        if self._average and not self.args.load_best_model_at_end:  # the best one is loaded as an average
            self._average.swap()

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        if not self.args.should_save:
            return
        folder = Path(output_dir or str(self.args.output_dir))
        if self._average is None:
            save_trained_state(self._plain(), folder / TENSORS)
            return
        save_trained_state(self._plain(), folder / WEIGHTS)
        with self._average.in_place():
            save_trained_state(self._plain(), folder / TENSORS)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        self._load(Path(resume_from_checkpoint) / TENSORS)
        if self._average:
            self._average.restart()
            self._load(Path(resume_from_checkpoint) / WEIGHTS)

    def _load_best_model(self) -> None:
        self._load(Path(str(self.state.best_model_checkpoint)) / TENSORS)

    def _load(self, path: Path) -> None:
        load_trained_state(self._plain(), read_tensors(path), path)

    def _determine_best_metric(self, metrics: dict[str, float], trial: Any) -> bool:
        # A tie goes to the later epoch, whose learning rate is lower: few validation images give many ties.
        if metrics["eval_accuracy"] == self.state.best_metric:
            self.state.best_global_step = self.state.global_step
            return True
        return super()._determine_best_metric(metrics, trial)

    def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> None:
        """None: Trainer would take it after every step, through all vectors twice, to log that of an epoch's last."""

    def _plain(self) -> nn.Module:
        return self.accelerator.unwrap_model(self.model, keep_torch_compile=False)


def _accuracy(predictions: Any) -> dict[str, float]:
    return {"accuracy": float((predictions.predictions.argmax(-1) == predictions.label_ids).mean())}


class MetricsFile(TrainerCallback):
    """Writes what is logged in each epoch as JSON lines; on resuming, first what was logged before the checkpoint."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Start the file with the history of the checkpoint."""
        self._path.write_text("".join(json.dumps(record) + "\n" for record in state.log_history), encoding="utf-8")

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Add the newest record, unless it is the summary of the run, which forgets what was before resuming."""
        if "train_runtime" in state.log_history[-1]:
            return
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(state.log_history[-1]) + "\n")


class Clock(TrainerCallback, ExportableState):
    """Seconds of training, with those before a run was stopped and resumed."""

    def __init__(self, seconds: float = 0.0) -> None:
        self._before, self._started = seconds, time.perf_counter()

    @property
    def seconds(self) -> float:
        """Until now."""
        return self._before + time.perf_counter() - self._started

    def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
        """Start."""
        self._started = time.perf_counter()

    def state(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {"args": {"seconds": self.seconds}, "attributes": {}}


class Progress(TrainerCallback):
    """One bar for the run with the latest loss and accuracy beside it; in a file, a line for each epoch."""

    def __init__(self) -> None:
        self._shown: dict[str, str] = {}
        self._bar = tqdm(disable=True)

    def on_train_begin(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
        """Open the bar, on resuming where the run was."""
        self._bar = tqdm(total=state.max_steps, initial=state.global_step, desc="Training", unit="step", disable=None)

    def on_step_end(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
        """Move it on."""
        self._bar.update(state.global_step - self._bar.n)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **kwargs: Any) -> None:
        """Show the newest numbers."""
        for name, key, form in _SHOWN:
            if logs and key in logs:
                self._shown[name] = format(logs[key], form)
        self._bar.set_postfix(self._shown)
        is_last = logs and ("eval_accuracy" in logs or (args.eval_strategy == "no" and "loss" in logs))  # of the epoch
        if self._bar.disable and is_last:
            shown = ", ".join(f"{name} {value}" for name, value in self._shown.items())
            logger.info("epoch %d of %d: %s", round(state.epoch), round(args.num_train_epochs), shown)

    def close(self) -> None:
        """Leave the line of the bar, also when training is stopped."""
        self._bar.close()


def make_trainer(
    recipe: Recipe,
    folder: Path,
    model: nn.Module,
    classes: int,
    images: TrainingImages,
    progress: Progress,
) -> ClassificationTrainer:
    """The trainer of a recipe, with its optimiser, schedule, augmentation of batches and reports."""
    train, watched = images.train, images.watched
    on_gpu = torch.cuda.is_available()
    device = torch.device("cuda" if on_gpu else "cpu")
    at_a_time = evaluation_batch(device, watched.pixels[0]["pixel_values"].shape) if watched else 1
    precision = resolve_precision(recipe.precision)
    mixes = bool(recipe.mixup or recipe.cutmix)
    batches = max(1, len(train) // recipe.batch_size if mixes else math.ceil(len(train) / recipe.batch_size))
    accumulate = min(recipe.accumulate, batches)
    optimizer = torch.optim.AdamW(parameter_groups(model, recipe.weight_decay), lr=recipe.peak_rate, fused=True)
    arguments = TrainingArguments(
        output_dir=str(folder / CHECKPOINTS),
        num_train_epochs=recipe.epochs + recipe.cooldown,
        per_device_train_batch_size=recipe.batch_size,
        per_device_eval_batch_size=max(2 * recipe.batch_size, at_a_time),
        gradient_accumulation_steps=accumulate,
        learning_rate=recipe.peak_rate,
        lr_scheduler_type="cosine",
        warmup_steps=recipe.warmup,  # a float below 1 is a share of all steps
        max_grad_norm=0,  # no clipping, as in the paper
        bf16=precision == "bf16",
        fp16=precision == "fp16",
        use_cpu=not on_gpu,
        eval_strategy="epoch" if watched else "no",
        logging_strategy="epoch",
        logging_nan_inf_filter=False,  # such a loss is an error, and to look for one is to wait for the GPU
        save_strategy="epoch",
        save_total_limit=2,  # should the newest be damaged by a loss of power, there is another
        load_best_model_at_end=keeps_best(recipe),
        metric_for_best_model="accuracy",
        greater_is_better=True,
        restore_callback_states_from_checkpoint=True,  # early stopping's count
        dataloader_num_workers=recipe.workers,
        dataloader_drop_last=mixes,  # they mix in pairs
        dataloader_pin_memory=on_gpu,
        accelerator_config={"non_blocking": on_gpu},
        remove_unused_columns=False,
        label_names=["labels"],
        seed=recipe.seed,
        report_to="none",
        disable_tqdm=True,
    )
    arguments._n_gpu = min(arguments.n_gpu, 1)  # or Trainer would split each batch over all GPUs of the machine
    callbacks = [
        Clock(),
        MetricsFile(folder / METRICS),
        TensorBoardCallback(SummaryWriter(str(folder / TENSORBOARD))),
        progress,
    ]
    if recipe.early_stop:
        callbacks.append(EarlyStoppingCallback(recipe.early_stop))
    trainer = ClassificationTrainer(
        model=model,
        args=arguments,
        train_dataset=train.pixels,
        eval_dataset=watched.pixels if watched else None,
        callbacks=callbacks,
        optimizers=(optimizer, make_scheduler(recipe, optimizer, math.ceil(batches / accumulate))),
        transform=train.transform,
        ema=recipe.ema,
        label_smoothing=recipe.label_smoothing,
        mixup=Mixup(
            mixup_alpha=recipe.mixup,
            cutmix_alpha=recipe.cutmix,
            label_smoothing=recipe.label_smoothing,
            num_classes=classes,
        )
        if mixes
        else None,
    )
    trainer.remove_callback(PrinterCallback)
    if recipe.log_deviation:
        trainer.add_callback(Deviation(model, trainer.log, trainer.kept))
    return trainer


def keeps_best(recipe: Recipe) -> bool:
    """Whether the best epoch is kept, on validation or in the published practice on test; else it is the last."""
    return recipe.protocol == "paper" or (recipe.validates and recipe.select == "best")


def resolve_precision(asked: str) -> str:
    """What `auto` means here: bf16 only where the hardware multiplies in it, since emulation is slower than fp32.

    Raises:
        RLRRError: fp16 on a CPU.
    """
    on_gpu = torch.cuda.is_available()
    if asked == "fp16" and not on_gpu:
        raise UsageError("--precision fp16 needs a GPU: use bf16 or fp32 on a CPU.")
    if asked != "auto":
        return asked
    if on_gpu:
        supported = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        supported = any(torch.cpu.get_capabilities().get(unit, False) for unit in ("amx_bf16", "avx512_bf16"))
    return "bf16" if supported else "fp32"
