"""One training run, from a recipe to an adapter folder."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from torch import nn
from transformers import TrainerState, set_seed

from rlrr.adapters.folder import save_adapter
from rlrr.adapters.record import RECORD, Record, backbone_record, check_file, library_versions, read_record
from rlrr.backbones import Backbone, load_backbone
from rlrr.backbones.families import classifier_names
from rlrr.backbones.load import expect_backbone
from rlrr.data import ImageData, Split, data_source, load_data
from rlrr.data.digest import data_digest
from rlrr.errors import RLRRError, Stopped, UsageError, together
from rlrr.files import cannot_write, is_full, no_space
from rlrr.hints import checked
from rlrr.inference.devices import describe_device, resolve_device, resolve_precision
from rlrr.inference.evaluate import evaluate_split
from rlrr.inference.predict import Classifier
from rlrr.inference.progress import show_messages
from rlrr.methods.apply import apply_method, method_config
from rlrr.methods.trainable import check_adapted, parameter_counts
from rlrr.recipes.files import RECIPE, write_recipe
from rlrr.recipes.recipe import Recipe
from rlrr.training.callbacks import Progress
from rlrr.training.compiling import compile_model
from rlrr.training.deviation import check_measurable
from rlrr.training.images import TrainingImages, preprocessing, training_images
from rlrr.training.memory import forget_peak, peak_memory
from rlrr.training.output import (
    CHECKPOINTS,
    METRICS,
    check_output,
    check_space,
    checkpoint_epoch,
    checkpoint_to_resume,
    ended_early,
    last_checkpoint,
    log_test,
    remove_checkpoints,
    remove_incomplete,
    remove_run,
)
from rlrr.training.precision import fastest_attention
from rlrr.training.same_images import Listing, expect_same_images, list_images, listing_digest, write_images
from rlrr.training.trainer import keeps_best, make_trainer

BEST_TEST_EPOCH = "best test epoch: the test images chose it, as in published practice; not comparable with others"

logger = logging.getLogger(__name__)


@checked
def train(recipe: Recipe, output: str | Path, *, resume: bool = False, overwrite: bool = False) -> Record:
    """Train by a recipe and write the adapter folder to `output`.

    Training and validation images are checked before anything is trained. Validation chooses the epoch, or the last
    epoch is kept. The test images, if there are any, are read after that, once (but see `Recipe.protocol`).

    Args:
        recipe: The options of the training.
        output: Folder of the run: the adapter, `recipe.yaml`, `metrics.jsonl`, `tensorboard/` (if TensorBoard is
            installed) and, until the run is finished, `checkpoints/`.
        resume: Go on from the last checkpoint of a stopped run; a finished run is left as it is.
        overwrite: Delete an earlier run in `output` first.

    Returns:
        The record of the adapter, as in `rlrr.json`.

    Raises:
        Stopped: Ctrl-C or a signal stopped the training.
        RLRRError: the input is bad, a loss is not finite, or the disk is full.

    Example:
        >>> import rlrr
        >>> recipe = rlrr.Recipe(data="sample:mnist", model="vit_small_focus", image_size=70, epochs=1)
        >>> record = rlrr.train(recipe, "run")
        >>> record.metrics["test_accuracy"]
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UsageError("Training runs in one process and on one GPU: start it without torchrun.")
    show_messages()
    method_config(recipe.method, recipe.settings)  # refuses bad settings before any image is read
    folder, device = Path(output), resolve_device(recipe.device)
    precision = resolve_precision(recipe.precision, device)
    if recipe.log_deviation and device.type == "mps":
        raise UsageError("`log_deviation` needs float64, which Apple's GPU lacks: leave it out, or use `device` cpu.")
    if resume and (folder / RECORD).exists():
        check_output(folder, recipe, resume, overwrite)
        record = read_record(folder)
        check_file(folder, record, RECIPE)
        logger.warning("The run in %s is finished: nothing to resume.", folder)
        remove_checkpoints(folder)
        return record
    data, *_ = together(
        lambda: load_data(recipe.data, val_fraction=recipe.val_fraction, seed=recipe.seed),
        lambda: expect_backbone(recipe.model, recipe.weights),
        lambda: check_output(folder, recipe, resume, overwrite),
    )
    if recipe.threads:
        torch.set_num_threads(recipe.threads)
    set_seed(recipe.seed)
    forget_peak(device)
    backbone, model = build(recipe, len(data.classes))
    images = training_images(recipe, data, backbone.data_config)
    if recipe.log_deviation:
        check_measurable(model)
    listing = list_images(data, recipe)
    if resume:
        expect_same_images(folder, listing)
    check_space(folder, model)
    if recipe.compile:
        compile_model(model, device)
    _announce(recipe, images, backbone, model, len(data.classes), f"{precision} on {describe_device(device)}")
    if overwrite:  # only now that the new run can start
        remove_run(folder)
    with _stops_explained(folder), closing(Progress()) as progress:
        checkpoint = checkpoint_to_resume(folder / CHECKPOINTS, recipe, keeps_best(recipe))
        write_recipe(recipe, folder)
        write_images(folder, listing)
        trainer = make_trainer(recipe, folder, model, len(data.classes), images, progress)
        if checkpoint and ended_early(checkpoint):  # Trainer would train further epochs
            trainer.args.num_train_epochs = checkpoint_epoch(checkpoint)
        with fastest_attention(model, precision):  # the test is as `rlrr evaluate` measures
            trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        trainer.keep_average()
        # take mixed precision off again, so that the test is what `rlrr evaluate` will measure
        trainer.accelerator.unwrap_model(model, keep_fp32_wrapper=False)
        test = data.test if recipe.test and recipe.protocol == "honest" else None
        record = _record(recipe, data, listing, backbone, images, model, trainer.state, bool(test))
        cost = {"train_seconds": round(trainer.seconds, 1), "peak_memory_mb": peak_memory(device)}
        record.metrics.update(**cost, device=describe_device(device))
        if test:
            record = _tested(model, record, test, recipe, images)
            log_test(folder, record.metrics)
        written = save_adapter(folder, model, record, [RECIPE, METRICS])
    remove_checkpoints(folder)  # the adapter is safe now
    return written


def _announce(
    recipe: Recipe, images: TrainingImages, backbone: Backbone, model: nn.Module, classes: int, machine: str
) -> None:
    """Log the method, the backbone, the numbers of images and parameters, and the precision and device."""
    counts = parameter_counts(model)
    total = sum(parameter.numel() for parameter in model.parameters())
    if isinstance(model, PeftModel):  # PEFT keeps the untrained classifier too
        total -= counts["head"]
    purpose = "test after each epoch" if recipe.protocol == "paper" else "choose the epoch"
    logger.info(
        "%s on %s: %d images to train on, %s%d classes; %s of %s parameters are trained, in %s",
        recipe.method,
        backbone.name,
        len(images.train),
        f"{len(images.watched)} to {purpose}, " if images.watched else "",
        classes,
        f"{sum(counts.values()):,}",
        f"{total:,}",
        machine,
    )


def build(recipe: Recipe, num_classes: int) -> tuple[Backbone, nn.Module]:
    """Load the backbone of a recipe and build, around the same weights, the model to train.

    The classifier starts at zero, as in the paper's code.
    """
    frozen = recipe.method == "linear"  # a linear probe is trained on the features that the finished model has
    backbone = load_backbone(
        recipe.model,
        num_classes=num_classes,
        image_size=recipe.image_size,
        weights=recipe.weights,
        drop_path=0.0 if frozen else recipe.drop_path,
        drop_path_kind=recipe.drop_path_kind,
        preprocessing=preprocessing(recipe),
    )
    for name in classifier_names(backbone.model):
        for parameter in backbone.model.get_submodule(name).parameters():
            nn.init.zeros_(parameter)
    model = apply_method(backbone.model, recipe.method, recipe.settings)
    if isinstance(model, PeftModel):
        check_adapted(model, torch.zeros(1, *backbone.data_config["input_size"]))
    return backbone, model


@contextmanager
def _stops_explained(folder: Path) -> Iterator[None]:
    """Turn a stop or a full disk into an error of one sentence, and delete incomplete checkpoints."""
    try:
        yield
    except KeyboardInterrupt as interrupt:
        checkpoint = last_checkpoint(folder / CHECKPOINTS)
        state = f"epoch {checkpoint_epoch(checkpoint):g} is saved" if checkpoint else "before the first checkpoint"
        message = f"Stopped: {state}. Train again with `resume`, and without `overwrite`, to go on."
        raise Stopped.by(interrupt, message) from None
    except OSError as error:
        raise cannot_write(folder, error) from error
    except RuntimeError as error:  # torch.save raises no other
        if not is_full(folder):
            raise
        raise no_space(folder) from error
    finally:
        remove_incomplete(folder / CHECKPOINTS)


def _record(
    recipe: Recipe,
    data: ImageData,
    listing: Listing,
    backbone: Backbone,
    images: TrainingImages,
    model: nn.Module,
    state: TrainerState,
    tests: bool,
) -> Record:
    """Collect the record of a run before its test.

    Args:
        recipe: The recipe.
        data: The data set.
        listing: Its images, as they were before training.
        backbone: The backbone.
        images: The images that were trained on and measured.
        model: The trained model.
        state: The state of the trainer, after training.
        tests: Whether a test follows.
    """
    return Record(
        method=recipe.method,
        backbone=backbone_record(backbone, recipe.weights),
        classes=list(data.classes),
        preprocessing=backbone.data_config,
        recipe=recipe.to_dict(),
        data={
            "name": data.name,
            "source": data_source(recipe.data),
            "splits": data.split_origin,
            "duplicates": images.duplicates.found,
            "missing_classes": images.missing_classes,
            "train": len(images.train),
            "val": len(images.watched or ()) if recipe.validates else 0,
            "test": len(images.watched or ()) if recipe.protocol == "paper" else 0,
            "sha256": listing_digest(data, listing),
            "test_sha256": _test_digest(data.test, recipe) if recipe.protocol == "paper" and data.test else None,
            "skipped": list(images.skipped),
        },
        protocol=_protocol(recipe, tests),
        metrics=_kept(recipe, state),
        parameters=parameter_counts(model),
        versions=library_versions(),
    )


def _tested(model: nn.Module, record: Record, test: Split, recipe: Recipe, images: TrainingImages) -> Record:
    """Measure the accuracy on the test images, which are read here for the first time, and add it to a record."""
    try:
        with torch.compiler.set_stance("force_eager"):  # as `rlrr evaluate` will
            result = evaluate_split(Classifier(model, record), test, "test", recipe.bad_images)
        digest = _test_digest(test, recipe)
    except RLRRError as error:
        raise RLRRError(
            f"{error}\nThe training is done and kept: repair the test images, then train again with `resume`."
        ) from error
    images.duplicates.add("test", test)
    data = {
        "test": result.images,
        "test_sha256": digest,
        "skipped": [*record.data["skipped"], *result.skipped],
        "duplicates": images.duplicates.found,
    }
    return replace(
        record,
        metrics=record.metrics | {"test_accuracy": result.accuracy},
        data=record.data | data,
    )


def _test_digest(test: Split, recipe: Recipe) -> str:
    return data_digest(test, skip_unreadable=recipe.bad_images == "skip")


def _protocol(recipe: Recipe, tests: bool) -> str:
    """Describe the choice of the epoch and the test in words."""
    if recipe.protocol == "paper":
        return BEST_TEST_EPOCH
    if not recipe.validates:
        kept = "last epoch, trained on the validation images too"
    else:
        kept = "best epoch on validation" if keeps_best(recipe) else "last epoch"
    return f"{kept}; test read once, after it" if tests else f"{kept}; no test"


def _kept(recipe: Recipe, state: TrainerState) -> dict[str, Any]:
    """Return the epoch whose weights were kept, and the accuracy measured after that epoch."""
    step = state.best_global_step if keeps_best(recipe) else state.global_step
    measured = [record for record in state.log_history if record["step"] == step and "eval_accuracy" in record]
    if not measured:
        return {"epoch": round(state.epoch or 0)}
    name = "best_test_accuracy" if recipe.protocol == "paper" else "val_accuracy"
    return {name: measured[0]["eval_accuracy"], "epoch": round(measured[0]["epoch"])}
