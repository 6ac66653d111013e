"""One training run, from a recipe to an adapter folder."""

from __future__ import annotations

import errno
import logging
import os
import platform
import shutil
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from torch import nn
from torchvision.transforms import v2
from transformers import TrainerState, set_seed

from rlrr.adapters import RECORD, Record, check_adapted, parameter_counts, read_record, save_adapter
from rlrr.backbones import Backbone, load_backbone
from rlrr.data import ImageData, PreparedImages, Split, data_source, load_data, prepare_split
from rlrr.data.pipeline import preparation, random_resize
from rlrr.errors import RLRRError
from rlrr.evaluation import evaluate_split
from rlrr.files import cannot_write
from rlrr.methods import apply_method
from rlrr.predict import Classifier
from rlrr.targets import classifier_names
from rlrr.training.output import (
    CHECKPOINTS,
    check_output,
    check_space,
    checkpoint_epoch,
    last_checkpoint,
    remove_incomplete,
    remove_run,
    write_recipe,
)
from rlrr.training.recipe import Recipe
from rlrr.training.trainer import Progress, make_trainer, resolve_precision

logger = logging.getLogger(__name__)


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
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise RLRRError("Training runs in one process and on one GPU: start it without torchrun.", usage=True)
    folder = Path(output)
    check_output(folder, recipe, resume, overwrite)
    if resume and (folder / RECORD).exists():
        logger.warning("The run in %s is finished: nothing to resume.", folder)
        return read_record(folder)
    if recipe.threads:
        torch.set_num_threads(recipe.threads)
    data = load_data(recipe.data, val_fraction=recipe.val_fraction, seed=recipe.seed)
    set_seed(recipe.seed)
    backbone, model = build(recipe, len(data.classes))
    trained, val, skipped = _datasets(recipe, data, backbone)
    if data.test is not None:  # that its files can be read, no more: better known now than after training
        prepare_split(data.test, None, bad_images=recipe.bad_images, what="test")

    precision = resolve_precision(recipe.precision)
    check_space(folder, model)
    logger.info(
        "%s on %s: %d images to train on, %d to choose the epoch, %d classes; %s of %s parameters are trained, in %s",
        recipe.method,
        backbone.name,
        len(trained),
        len(val),
        len(data.classes),
        f"{sum(parameter_counts(model).values()):,}",
        f"{sum(parameter.numel() for parameter in model.parameters()):,}",
        precision,
    )
    if overwrite:  # only now that the new run can start
        remove_run(folder)
    with _stops_explained(folder), closing(Progress()) as progress:
        write_recipe(recipe, folder)
        remove_incomplete(folder / CHECKPOINTS)
        trainer = make_trainer(recipe, folder, model, len(data.classes), trained, val, progress)
        checkpoint = last_checkpoint(folder / CHECKPOINTS)
        started = time.perf_counter()
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        # take mixed precision off again, so that the test is what `rlrr evaluate` will measure
        trainer.accelerator.unwrap_model(model, keep_fp32_wrapper=False)
        metrics = {
            "train_seconds": round(time.perf_counter() - started, 1),
            **_kept(trainer.state, recipe.select == "best"),
        }
        record = _record(recipe, data, backbone, parameter_counts(model), metrics)
        record.data.update(train=len(trained), val=len(val), skipped=list(skipped))
        if data.test is not None:
            tested = evaluate_split(Classifier(model, record), data.test, "test", recipe.bad_images)
            record.metrics["test_accuracy"] = tested.accuracy
            record.data["test"] = tested.images
            record.data["skipped"] += tested.skipped
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
    model = apply_method(backbone.model, recipe.method, recipe.rank, recipe.target_modules)
    if isinstance(model, PeftModel):
        check_adapted(model, torch.zeros(1, *backbone.data_config["input_size"]))
    return backbone, model


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


@contextmanager
def _stops_explained(folder: Path) -> Iterator[None]:
    """Turn Ctrl-C and a full disk into one sentence, and leave only whole checkpoints behind."""
    try:
        yield
    except KeyboardInterrupt:
        kept = last_checkpoint(folder / CHECKPOINTS)
        state = f"epoch {checkpoint_epoch(kept):g} is saved" if kept else "before the first checkpoint"
        raise RLRRError(
            f"Stopped: {state}. Run the same command with --resume (and without --overwrite) to go on."
        ) from None
    except OSError as error:
        raise cannot_write(folder, error) from error
    except RuntimeError as error:
        if "inline_container" not in str(error):  # where torch.save writes, with errors of this one kind
            raise
        raise cannot_write(folder, OSError(errno.ENOSPC, "")) from error
    finally:
        remove_incomplete(folder / CHECKPOINTS)


def _record(
    recipe: Recipe, data: ImageData, backbone: Backbone, parameters: dict[str, int], metrics: dict[str, Any]
) -> Record:
    """What is known of a run before its images are counted and its test."""
    kept = "best epoch on validation" if recipe.select == "best" else "last epoch"
    return Record(
        method=recipe.method,
        backbone={
            "name": backbone.name,
            "weights": str(Path(recipe.weights).expanduser().resolve()) if recipe.weights else None,
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
            "source": data_source(recipe.data),
            "splits": data.split_origin,
            "train": 0,
            "val": 0,
            "test": 0,
            "skipped": [],
        },
        protocol=f"{kept}; test read once, after it",
        metrics=metrics,
        parameters=parameters,
        versions=_versions(),
    )


def _kept(state: TrainerState, best: bool) -> dict[str, Any]:
    """Validation accuracy and number of the epoch whose weights were kept."""
    step = state.best_global_step if best else state.global_step
    record = next(r for r in state.log_history if r["step"] == step and "eval_accuracy" in r)
    return {"val_accuracy": record["eval_accuracy"], "epoch": round(record["epoch"])}


def _versions() -> dict[str, str]:
    libraries = ("rlrr", "torch", "timm", "peft", "transformers")
    return {"python": platform.python_version(), **{name: version(name) for name in libraries}}
