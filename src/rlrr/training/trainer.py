"""The trainer: transformers' Trainer with an objective in place of its loss, saving only the trained tensors.

It overrides three private hooks of Trainer. `_save`, `_load_from_checkpoint` and `_load_best_model` make a checkpoint
hold the trained tensors alone, for every method alike, with their moving average and the state of the objective;
Trainer has no public way to choose the content of a checkpoint. It also sets two private fields of `TrainingArguments`:
`_n_gpu`, since Trainer would otherwise split each batch over all GPUs of the machine, and `_setup_devices`, since it
would otherwise take the first GPU.
"""

from __future__ import annotations

import logging
import math
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import EarlyStoppingCallback, PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from rlrr.adapters.folder import load_trained_state, read_tensors, save_trained_state
from rlrr.adapters.record import TENSORS
from rlrr.data.pipeline import BatchTransform
from rlrr.errors import RLRRError, counted
from rlrr.inference.devices import resolve_device, resolve_precision
from rlrr.inference.predict import evaluation_batch
from rlrr.recipes.recipe import Recipe
from rlrr.training.average import MovingAverage
from rlrr.training.callbacks import (
    BestCheckpoint,
    Clock,
    MetricsFile,
    Progress,
    SealedCheckpoints,
    tensorboard_callbacks,
)
from rlrr.training.deviation import Deviation
from rlrr.training.images import TrainingImages
from rlrr.training.objective import Batch, Objective, classifying_logits, load_state, make_objective, save_state
from rlrr.training.optimizer import parameter_groups
from rlrr.training.output import CHECKPOINTS, METRICS, TENSORBOARD
from rlrr.training.schedule import batches_of, make_scheduler
from rlrr.tuners import frozen_norms

logger = logging.getLogger(__name__)

# Trainer sorts checkpoints by their times, and where epochs are short it warns that it goes by their numbers.
logging.getLogger("transformers.trainer_utils").addFilter(lambda record: "mtime" not in record.getMessage())

WEIGHTS = "weights.safetensors"  # in a checkpoint: the trained tensors, where TENSORS holds their moving average


class ClassificationTrainer(Trainer):
    """Train a classifier by an objective, and checkpoint the trained tensors only.

    Args:
        transform: Turns the pixels of a batch, on the device, into the input of the model; it augments in training.
        objective: The loss.
        ema: Decay of the moving average that is measured and kept in place of the weights; None for none.
        **kwargs: Further arguments of Trainer.
    """

    def __init__(self, *, transform: BatchTransform, objective: Objective, ema: float | None, **kwargs: Any) -> None:
        super().__init__(compute_metrics=_accuracy, **kwargs)
        self._transform = transform
        self._objective = objective
        self._logs: dict[str, list[Tensor]] = {}  # logs of the objective since the last log of an epoch
        self._average = MovingAverage(self._plain(), ema) if ema else None
        if self._average:
            self.add_callback(self._average)
        self._frozen_norms = frozen_norms(self._plain())
        self._unchecked: list[tuple[int, float, Tensor]] = []  # step, learning rate, loss
        self._most_unchecked = 1 if self.args.device.type == "cpu" else 50
        # a PeftModel takes any keyword, and Trainer would conclude that the model scales its loss when accumulating
        self.model_accepts_loss_kwargs = False

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """Compute the objective on a training batch, or plain cross-entropy on a batch of evaluation.

        Raises:
            RLRRError: a loss is not finite, of this batch or, on a GPU, of one of the last batches.
        """
        images = self._transform(inputs["pixel_values"], augment=model.training)
        batch = Batch(images, inputs["labels"], inputs["indices"])
        if model.training:
            for norm in self._frozen_norms:  # Trainer has just put them in training mode
                norm.eval()
            outcome = self._objective(model, batch, self.state.global_step / max(self.state.max_steps, 1))
            for name, value in outcome.logs.items():
                self._logs.setdefault(name, []).append(torch.as_tensor(value, device=images.device).detach().float())
        else:
            outcome = self._objective.evaluate(model, batch)
        rate = self.lr_scheduler.get_last_lr()[0] if self.lr_scheduler else self.args.learning_rate
        step = self.state.global_step
        if model.training:  # counted after the step is done
            step += 1
        self._unchecked.append((step, float(rate), outcome.loss.detach()))
        if len(self._unchecked) >= self._most_unchecked:
            self._check_losses()
        if return_outputs:
            return outcome.loss, {"logits": classifying_logits(outcome.logits)}
        return outcome.loss

    def _check_losses(self) -> None:
        """Refuse a loss that is not finite, also in evaluation, which comes before the epoch is saved.

        Reading a loss waits for the GPU, so the losses of many steps are read at once.
        """
        unchecked, self._unchecked = self._unchecked, []
        losses = torch.stack([loss for *_, loss in unchecked]).tolist() if unchecked else []
        for (step, rate, _), loss in zip(unchecked, losses, strict=True):
            if not math.isfinite(loss):
                raise RLRRError(
                    f"The loss became {loss} at step {step} (learning rate {rate:.2g}): lower `learning_rate`, or "
                    "use `precision` fp32. Checkpoints, if there are any, are from before."
                )

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Log an epoch with the objective's own numbers, after a check that all losses are finite.

        Trainer logs the loss of an epoch before it measures and saves the epoch.
        """
        self._check_losses()
        if "loss" in logs:
            means = {name: torch.stack(values).mean().item() for name, values in self._logs.items()}
            logs, self._logs = means | logs, {}
        super().log(logs, *args, **kwargs)

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Measure the model with its moving average, if there is one."""
        with self.kept():
            return super().evaluate(*args, **kwargs)

    def get_eval_dataloader(self, *args: Any, **kwargs: Any) -> Any:
        """Load all images, also where training drops an incomplete last batch."""
        drops, self.args.dataloader_drop_last = self.args.dataloader_drop_last, False
        try:
            return super().get_eval_dataloader(*args, **kwargs)
        finally:
            self.args.dataloader_drop_last = drops

    @property
    def seconds(self) -> float:
        """Seconds of training until now, including the time before the run was stopped and resumed."""
        return next(callback.seconds for callback in self.callback_handler.callbacks if isinstance(callback, Clock))

    def kept(self) -> AbstractContextManager[None]:
        """Put into the model, inside the block, the weights that are kept: the moving average, if there is one."""
        return self._average.in_place() if self._average else nullcontext()

    def keep_average(self) -> None:
        """Put the moving average, if there is one, into the model after training."""
        if self._average and not self.args.load_best_model_at_end:  # the best epoch is loaded as an average
            self._average.swap()

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        if not self.args.should_save:
            return
        folder = Path(output_dir or str(self.args.output_dir))
        if self._average:
            save_trained_state(self._plain(), folder / WEIGHTS)
        with self.kept():
            save_trained_state(self._plain(), folder / TENSORS)
        save_state(self._objective, folder)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        folder = Path(resume_from_checkpoint)
        self._load(folder / TENSORS)
        if self._average:
            self._average.restart()
            self._load(folder / WEIGHTS)
        load_state(self._objective, folder)

    def _load_best_model(self) -> None:
        self._load(Path(str(self.state.best_model_checkpoint)) / TENSORS)

    def _load(self, path: Path) -> None:
        load_trained_state(self._plain(), read_tensors(path), path)

    def _plain(self) -> nn.Module:
        return self.accelerator.unwrap_model(self.model, keep_torch_compile=False)


def _accuracy(predictions: Any) -> dict[str, float]:
    return {"accuracy": float((predictions.predictions.argmax(-1) == predictions.label_ids).mean())}


def make_trainer(
    recipe: Recipe,
    folder: Path,
    model: nn.Module,
    classes: int,
    images: TrainingImages,
    progress: Progress,
) -> ClassificationTrainer:
    """Make the trainer of a recipe, with its optimiser, schedule, augmentation of batches and reports.

    Args:
        recipe: The recipe.
        folder: The folder of the run.
        model: The model with its method applied.
        classes: Number of classes.
        images: The images to train on and to measure after each epoch.
        progress: The bar to show.
    """
    if recipe.accumulate > (batches := _batches(recipe, images)):
        logger.warning(
            "`accumulate` is %d, and an epoch has %s: the gradients of each epoch are added up.",
            recipe.accumulate,
            counted(batches, "batch", "batches"),
        )
    arguments = _arguments(recipe, folder, images)
    steps_per_epoch = math.ceil(_batches(recipe, images) / arguments.gradient_accumulation_steps)
    optimizer = torch.optim.AdamW(parameter_groups(model, recipe.weight_decay), lr=arguments.learning_rate, fused=True)
    trainer = ClassificationTrainer(
        model=model,
        args=arguments,
        train_dataset=images.train.pixels,
        eval_dataset=images.watched.pixels if images.watched else None,
        callbacks=_callbacks(recipe, folder, progress),
        optimizers=(optimizer, make_scheduler(recipe, optimizer, steps_per_epoch)),
        transform=images.train.transform,
        objective=make_objective(recipe, classes, len(images.train)),
        ema=recipe.ema,
    )
    trainer.remove_callback(PrinterCallback)
    if recipe.log_deviation:
        trainer.add_callback(Deviation(model, trainer.log, trainer.kept))
    return trainer


def _arguments(recipe: Recipe, folder: Path, images: TrainingImages) -> TrainingArguments:
    device = resolve_device(recipe.device)
    precision, on_gpu = resolve_precision(recipe.precision, device), device.type == "cuda"
    arguments = TrainingArguments(
        output_dir=str(folder / CHECKPOINTS),
        num_train_epochs=recipe.epochs + recipe.cooldown,
        per_device_train_batch_size=recipe.batch_size,
        per_device_eval_batch_size=_evaluation_batch(recipe, images, device),
        gradient_accumulation_steps=min(recipe.accumulate, _batches(recipe, images)),
        learning_rate=recipe.peak_rate,
        lr_scheduler_type="cosine",
        warmup_steps=recipe.warmup,  # a float below 1 is a share of all steps
        max_grad_norm=0,  # no clipping, as in the paper
        bf16=precision == "bf16",
        fp16=precision == "fp16",
        use_cpu=device.type == "cpu",
        eval_strategy="epoch" if images.watched else "no",
        logging_strategy="epoch",
        logging_nan_inf_filter=False,  # a loss that is not finite is an error, and the filter waits for the GPU
        save_strategy="epoch",
        save_total_limit=2,  # one in reserve, should a loss of power damage the newest
        load_best_model_at_end=keeps_best(recipe),
        metric_for_best_model="accuracy",
        greater_is_better=True,
        restore_callback_states_from_checkpoint=True,  # the count of early stopping
        dataloader_num_workers=recipe.workers,
        dataloader_drop_last=_mixes(recipe),  # images are mixed in pairs
        dataloader_pin_memory=on_gpu,
        accelerator_config={"non_blocking": on_gpu},
        remove_unused_columns=False,
        label_names=["labels"],
        seed=recipe.seed,
        report_to="none",
        disable_tqdm=True,
    )
    arguments._n_gpu = min(arguments.n_gpu, 1)
    if device.index is not None:
        torch.cuda.set_device(device)
        arguments._setup_devices = device
    return arguments


def _callbacks(recipe: Recipe, folder: Path, progress: Progress) -> list[TrainerCallback]:
    callbacks = [Clock(), MetricsFile(folder / METRICS), *tensorboard_callbacks(folder / TENSORBOARD), progress]
    callbacks += [BestCheckpoint(), SealedCheckpoints(recipe)]
    if recipe.early_stop:
        callbacks.append(EarlyStoppingCallback(recipe.early_stop))
    return callbacks


def _mixes(recipe: Recipe) -> bool:
    return bool(recipe.mixup or recipe.cutmix)


def _batches(recipe: Recipe, images: TrainingImages) -> int:
    """Count the batches in an epoch."""
    return batches_of(recipe, len(images.train))


def _evaluation_batch(recipe: Recipe, images: TrainingImages, device: torch.device) -> int:
    if not images.watched:
        return 2 * recipe.batch_size
    return max(2 * recipe.batch_size, evaluation_batch(device, images.watched.pixels[0]["pixel_values"].shape))


def keeps_best(recipe: Recipe) -> bool:
    """Tell whether the best epoch is kept, on validation or in the published practice on test; else the last is."""
    return recipe.protocol == "paper" or (recipe.validates and recipe.select == "best")
