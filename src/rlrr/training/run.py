"""One training run, from a recipe to an adapter folder."""

from __future__ import annotations

import json
import logging
import math
import os
import platform
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import yaml
from peft import PeftModel
from timm.data import Mixup
from torch import nn
from torch.utils.tensorboard import SummaryWriter
from torchvision.transforms import v2
from transformers import EarlyStoppingCallback, PrinterCallback, TrainingArguments, set_seed
from transformers.integrations import TensorBoardCallback

from rlrr.adapters import RECORD, Record, check_adapted, parameter_counts, read_record, save_adapter
from rlrr.backbones import Backbone, load_backbone
from rlrr.data import ImageData, PreparedImages, Split, load_data, prepare_split
from rlrr.data.pipeline import preparation, random_resize
from rlrr.errors import RLRRError
from rlrr.files import atomic, cannot_write
from rlrr.methods import apply_method, methods
from rlrr.targets import classifier_names
from rlrr.training.optimizer import parameter_groups
from rlrr.training.recipe import Recipe, differences
from rlrr.training.trainer import ClassificationTrainer, MetricsFile, Progress

logger = logging.getLogger(__name__)

RECIPE, METRICS, CHECKPOINTS = "recipe.yaml", "metrics.jsonl", "checkpoints"


def train(recipe: Recipe, output: str | Path, *, resume: bool = False, overwrite: bool = False) -> Record:
    """Train by a recipe and write the adapter folder to `output`.

    Images are checked before anything is trained. Validation chooses the epoch (or the last one is kept), and the
    test images, if there are any, are only read after that, once.

    Args:
        recipe: What to train.
        output: Folder of the run: the adapter, `recipe.yaml`, `metrics.jsonl`, `tensorboard/` and, until the run
            is finished, `checkpoints/`.
        resume: Go on from the last checkpoint of a run that was stopped; a finished run is left as it is.
        overwrite: Delete an earlier run in `output` first.

    Returns:
        What `rlrr.json` says of the adapter.

    Raises:
        RLRRError: for bad input, a loss that is not finite, a full disk, or Ctrl-C.
    """
    folder = Path(output)
    _check_output(folder, recipe, resume, overwrite)
    if resume and (folder / RECORD).exists():
        logger.warning("The run in %s is finished: nothing to resume.", folder)
        return read_record(folder)
    torch.set_num_threads(recipe.threads or len(os.sched_getaffinity(0)))
    data = load_data(recipe.data, val_fraction=recipe.val_fraction, seed=recipe.seed)
    set_seed(recipe.seed)
    backbone, model = build(recipe, len(data.classes))
    trained, val, skipped = _datasets(recipe, data, backbone)

    if overwrite and folder.exists():
        shutil.rmtree(folder)
    _check_space(folder, model)
    started = time.perf_counter()
    try:
        with atomic(folder / RECIPE) as temporary:
            temporary.write_text(yaml.safe_dump(recipe.to_dict(), sort_keys=False, allow_unicode=True), encoding="utf-8")
        trainer = _trainer(recipe, folder, model, len(data.classes), trained, val)
        checkpoint = last_checkpoint(folder / CHECKPOINTS)
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    except KeyboardInterrupt:
        kept = last_checkpoint(folder / CHECKPOINTS)
        state = f"epoch {_epoch(kept):g} is saved" if kept else "before the first checkpoint"
        raise RLRRError(f"Stopped: {state}. Run the same command with --resume to go on.") from None
    except OSError as error:
        raise cannot_write(folder, error) from error
    seconds = time.perf_counter() - started

    best = recipe.select == "best"
    metrics: dict[str, Any] = {"train_seconds": round(seconds, 1), **_chosen(trainer.state.log_history, best)}
    if data.test is not None:
        test, more_skipped = _dataset(recipe, data.test, backbone, "test")
        metrics["test_accuracy"] = trainer.evaluate(test, metric_key_prefix="test")["test_accuracy"]
        skipped += more_skipped
    record = Record(
        method=recipe.method,
        backbone={
            "name": backbone.name,
            "weights": recipe.weights,
            "architecture": backbone.architecture,
            "tag": backbone.tag,
            "image_size": backbone.image_size,
            "fingerprint": backbone.fingerprint,
        },
        classes=list(data.classes),
        preprocessing=backbone.data_config,
        recipe=recipe.to_dict(),
        data={
            "name": data.name,
            "splits": data.split_origin,
            "train": len(trained),
            "val": len(val),
            "test": len(test) if data.test is not None else 0,
            "skipped": list(skipped),
        },
        protocol="best epoch on validation; test read once, after it" if best else "last epoch; test read once, after it",
        metrics=metrics,
        parameters=parameter_counts(model),
        versions=_versions(),
    )
    written = save_adapter(folder, model, record)
    shutil.rmtree(folder / CHECKPOINTS, ignore_errors=True)  # the adapter is safe now
    return written


def build(recipe: Recipe, num_classes: int) -> tuple[Backbone, nn.Module]:
    """The backbone of a recipe and, around the same weights, the model to train.

    The classifier starts at zero, as in the paper's code.
    """
    frozen = recipe.method == "linear"  # a probe sees the features that the finished model will
    backbone = load_backbone(
        recipe.model,
        num_classes=num_classes,
        image_size=recipe.image_size,
        weights=recipe.weights,
        drop_path=0.0 if frozen else recipe.drop_path,
    )
    for name in classifier_names(backbone.model):
        for parameter in backbone.model.get_submodule(name).parameters():
            nn.init.zeros_(parameter)
    model = apply_method(backbone.model, recipe.method, recipe.rank)
    if isinstance(model, PeftModel):
        check_adapted(model, torch.zeros(1, *backbone.data_config["input_size"]))
    return backbone, model


def last_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint that is whole: Trainer writes `trainer_state.json` last."""
    whole = []
    for path in folder.glob("checkpoint-*"):
        try:
            json.loads((path / "trainer_state.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        whole.append(path)
    return max(whole, key=lambda path: int(path.name.rpartition("-")[2]), default=None)


def read_recipe(path: Path) -> Recipe:
    """Read a `recipe.yaml`.

    Raises:
        RLRRError: it is missing, or has a key or value that no recipe has.
    """
    try:
        return Recipe(**yaml.safe_load(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise RLRRError(f"There is no recipe {path}.") from None
    except (TypeError, yaml.YAMLError) as error:
        raise RLRRError(f"{path} is not a recipe: {error}.") from None


def _check_output(folder: Path, recipe: Recipe, resume: bool, overwrite: bool) -> None:
    if resume and overwrite:
        raise RLRRError("--resume goes on with a run and --overwrite deletes it: give one of them.", usage=True)
    is_run = (folder / RECIPE).exists()
    if folder.exists() and not folder.is_dir():
        raise RLRRError(f"{folder} is a file: give another --output.", usage=True)
    if resume:
        if not is_run:
            raise RLRRError(f"There is no run in {folder} to resume: start it without --resume.", usage=True)
        if changed := differences(read_recipe(folder / RECIPE), recipe):
            raise RLRRError(
                f"The run in {folder} was started with other options ({'; '.join(changed)}): give the same ones, "
                "or another --output.",
                usage=True,
            )
    elif folder.exists() and any(folder.iterdir()):
        if not is_run:
            raise RLRRError(f"{folder} exists and holds something else: give another --output.", usage=True)
        if not overwrite:
            raise RLRRError(
                f"{folder} already holds a run: go on with it (--resume), delete it (--overwrite) or give another "
                "--output.",
                usage=True,
            )


def _datasets(
    recipe: Recipe, data: ImageData, backbone: Backbone
) -> tuple[PreparedImages, PreparedImages, tuple[str, ...]]:
    """Training and validation images, all of them checked."""
    val, skipped_val = _dataset(recipe, data.val, backbone, "val")
    train, skipped = _dataset(recipe, data.train, backbone, "train", augment=True)
    if (recipe.mixup or recipe.cutmix) and len(train) < recipe.batch_size:
        raise RLRRError(f"mixup needs one full batch: --batch_size must be at most {len(train)}.", usage=True)
    return train, val, skipped + skipped_val


def _dataset(
    recipe: Recipe, split: Split, backbone: Backbone, what: str, augment: bool = False
) -> tuple[PreparedImages, tuple[str, ...]]:
    config = backbone.data_config
    random = augment and recipe.random_crop is not None
    fixed = None if random else preparation(config)  # decoded once and kept, unless each epoch crops anew
    split, cache, skipped = prepare_split(split, fixed, bad_images=recipe.bad_images, what=what)
    return (
        PreparedImages(
            split,
            fixed or random_resize(config, (recipe.random_crop or 1.0, 1.0)),
            cache=cache,
            augment=v2.RandomHorizontalFlip() if augment and recipe.flip else None,
            mean=config["mean"],
            std=config["std"],
        ),
        skipped,
    )


def _trainer(
    recipe: Recipe, folder: Path, model: nn.Module, classes: int, train: PreparedImages, val: PreparedImages
) -> ClassificationTrainer:
    on_gpu = torch.cuda.is_available()
    precision = _precision(recipe.precision, on_gpu)
    rate = recipe.learning_rate or methods()[recipe.method].learning_rate
    mixes = bool(recipe.mixup or recipe.cutmix)
    steps = math.ceil(len(train) // recipe.batch_size if mixes else len(train) / recipe.batch_size)
    arguments = TrainingArguments(
        output_dir=str(folder / CHECKPOINTS),
        num_train_epochs=recipe.epochs,
        per_device_train_batch_size=recipe.batch_size,
        per_device_eval_batch_size=2 * recipe.batch_size,
        gradient_accumulation_steps=min(recipe.accumulate, max(steps, 1)),
        learning_rate=rate,
        lr_scheduler_type="cosine",
        warmup_steps=recipe.warmup,  # a float below 1 is a share of all steps
        max_grad_norm=0,  # no clipping, as in the paper
        bf16=precision == "bf16",
        fp16=precision == "fp16",
        use_cpu=not on_gpu,
        eval_strategy="epoch",
        logging_strategy="epoch",
        save_strategy="epoch",
        save_total_limit=1,
        load_best_model_at_end=recipe.select == "best",
        metric_for_best_model="accuracy",
        greater_is_better=True,
        dataloader_num_workers=recipe.workers,
        dataloader_drop_last=mixes,  # they mix in pairs
        dataloader_pin_memory=on_gpu,
        remove_unused_columns=False,
        label_names=["labels"],
        seed=recipe.seed,
        report_to="none",
        disable_tqdm=True,
    )
    callbacks = [MetricsFile(folder / METRICS), TensorBoardCallback(SummaryWriter(str(folder / "tensorboard"))), Progress()]
    if recipe.early_stop:
        callbacks.append(EarlyStoppingCallback(recipe.early_stop))
    trainer = ClassificationTrainer(
        model=model,
        args=arguments,
        train_dataset=train,
        eval_dataset=val,
        callbacks=callbacks,
        optimizers=(
            torch.optim.AdamW(parameter_groups(model, recipe.weight_decay), lr=rate),
            None,
        ),
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
    return trainer


def _precision(asked: str, on_gpu: bool) -> str:
    """What `auto` means here: bf16 only where the hardware multiplies in it, since emulation is slower than fp32."""
    if asked == "fp16" and not on_gpu:
        raise RLRRError("--precision fp16 needs a GPU: use bf16 or fp32 on a CPU.", usage=True)
    if asked != "auto":
        return asked
    supported = torch.cuda.is_bf16_supported() if on_gpu else torch.cpu._is_amx_tile_supported()
    return "bf16" if supported else "fp32"


def _check_space(folder: Path, model: nn.Module) -> None:
    # two checkpoints, each with the trained tensors and AdamW's two moments, and the adapter
    trained = sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad)
    needed = 7 * trained + (20 << 20)
    existing = next(parent for parent in (folder.resolve(), *folder.resolve().parents) if parent.exists())
    free = shutil.disk_usage(existing).free
    if free < needed:
        raise RLRRError(
            f"The disk of {folder} has {free >> 20} MiB free and the run needs about {needed >> 20} MiB: free some "
            "space, or give another --output."
        )


def _chosen(history: Sequence[dict[str, Any]], best: bool) -> dict[str, Any]:
    """Validation accuracy and number of the epoch that was kept, the first of the best ones."""
    evaluated = [record for record in history if "eval_accuracy" in record]
    chosen = max(evaluated, key=lambda record: record["eval_accuracy"]) if best else evaluated[-1]
    return {"val_accuracy": chosen["eval_accuracy"], "epoch": round(chosen["epoch"])}


def _epoch(checkpoint: Path) -> float:
    return json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))["epoch"]


def _versions() -> dict[str, str]:
    libraries = ("rlrr", "torch", "timm", "peft", "transformers")
    return {"python": platform.python_version(), **{name: version(name) for name in libraries}}
