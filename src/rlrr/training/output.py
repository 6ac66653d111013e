"""The folder of a run: checks before writing, reading of logs and checkpoints, and deletion."""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from rlrr.adapters.record import PEFT_CONFIG, RECORD, TENSORS
from rlrr.errors import RLRRError, UsageError
from rlrr.files import cannot_write, file_checksum, is_temporary, nearest_existing, read_sealed, write_sealed
from rlrr.recipes.files import RECIPE, is_changed, read_recipe
from rlrr.recipes.recipe import Recipe, differences

METRICS, CHECKPOINTS, TENSORBOARD = "metrics.jsonl", "checkpoints", "tensorboard"
IMAGES = "images.json"  # the images of a run that is not finished; see `same_images`
# the files of a run and its evaluations, but the recipe, by which the folder still counts as a run; the record is
# deleted first, so that a half deleted run does not pass for a finished one
_EVALUATIONS = ("evaluation", "evaluation-test", "evaluation-val", "evaluation-train")
_RUN_FILES = (RECORD, TENSORS, PEFT_CONFIG, METRICS, CHECKPOINTS, IMAGES, TENSORBOARD, *_EVALUATIONS)
_MANIFEST = "checkpoint.json"  # of a checkpoint, written last: the digest of the recipe and what its files hold
_STATE = "trainer_state.json"

logger = logging.getLogger(__name__)


def check_output(folder: Path, recipe: Recipe, resume: bool, overwrite: bool) -> None:
    """Refuse an output folder that holds something else, or a run that is neither resumed nor overwritten.

    Raises:
        UsageError: the folder is refused; the message names the argument that helps.
    """
    if resume and overwrite:
        raise UsageError("`resume` goes on with a run and `overwrite` deletes it: give one of them.")
    try:
        str(folder.absolute()).encode()
    except UnicodeEncodeError:  # bytes that libraries in other languages cannot take for the name of a file
        raise UsageError(f"{str(folder)!r} is no text in UTF-8: give another `output`.") from None
    existing = next(path for path in (folder, *folder.resolve().parents) if path.exists())
    if not existing.is_dir():
        raise UsageError(f"{existing} is a file: give another `output`.")
    if not os.access(existing, os.W_OK):
        raise UsageError(f"{existing} cannot be written to: give another `output`, or check its permissions.")
    is_run = (folder / RECIPE).exists()
    if resume:
        if not is_run:
            raise UsageError(f"There is no run in {folder} to resume: start it without `resume`.")
        if is_changed(folder / RECIPE):
            raise UsageError(
                f"{folder / RECIPE} is damaged, or was changed since the run was started: bring back the file as it "
                "was, or train again with `overwrite`. To keep a change made by hand, delete its first line."
            )
        if changed := differences(read_recipe(folder / RECIPE), recipe):
            raise UsageError(
                f"The run in {folder} was started with other options ({'; '.join(changed)}): give the same ones, "
                "or another `output`. A run is not trained beyond its own epochs, where its schedule ends; to train "
                "on, merge it with `rlrr merge` and train the merged folder as `model`."
            )
    elif folder.exists() and not all(map(is_temporary, folder.iterdir())):  # a start that was killed leaves no more
        if not is_run:
            raise UsageError(f"{folder} exists and holds something else: give another `output`.")
        if not overwrite:
            raise UsageError(
                f"{folder} already holds a run: go on with it (`resume`), delete it (`overwrite`) or give another "
                "`output`."
            )


def remove_run(folder: Path) -> None:
    """Delete the files of a run but its recipe, which is to be replaced; other files in its folder stay.

    Raises:
        RLRRError: a file cannot be deleted.
    """
    for path in (folder / name for name in _RUN_FILES):
        try:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
        except OSError as error:
            raise cannot_write(path, error) from error


def check_space(folder: Path, model: nn.Module) -> None:
    """Refuse a disk without space for three checkpoints and the adapter.

    Raises:
        RLRRError: the disk is too full; the message says how much space is needed.
    """
    # each checkpoint holds the trained tensors and AdamW's two moments; a third is written before the first goes
    trained = sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad)
    needed = 10 * trained + (20 << 20)
    free = shutil.disk_usage(nearest_existing(folder)).free
    if free < needed:
        raise RLRRError(
            f"The disk of {folder} has {free >> 20} MiB free and the run needs about {needed >> 20} MiB: free some "
            "space, or give another `output`."
        )


def log_test(folder: Path, metrics: Mapping[str, float]) -> None:
    """Append the accuracy on the test images to `metrics.jsonl`, where a result is compared with it."""
    line = {"epoch": metrics["epoch"], "test_accuracy": metrics["test_accuracy"]}
    with (folder / METRICS).open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


def read_metrics(path: Path) -> list[dict[str, float]]:
    """Read the records of a `metrics.jsonl`, in order.

    Raises:
        RLRRError: the file is missing or damaged.
    """
    try:
        records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    except FileNotFoundError:
        raise RLRRError(f"{path} is missing: copy the whole folder, or train again.") from None
    except ValueError as error:
        raise RLRRError(f"{path} is damaged ({error}): copy it again, or train again.") from None
    if not all(isinstance(record, dict) for record in records):
        raise RLRRError(f"{path} is damaged: each line has to hold names and numbers. Copy it again, or train again.")
    return records


def seal_checkpoint(checkpoint: Path, recipe: Recipe) -> None:
    """Write into a checkpoint what its files hold and which recipe it is of: without that it does not count as one."""
    files = {
        str(path.relative_to(checkpoint)): {"bytes": path.stat().st_size, "sha256": file_checksum(path)}
        for path in sorted(checkpoint.rglob("*"))
        if path.is_file() and path.name != _MANIFEST and not is_temporary(path)
    }
    write_sealed(checkpoint / _MANIFEST, {"recipe_sha256": recipe.digest(), "files": files})


def last_checkpoint(folder: Path) -> Path | None:
    """Return the newest complete checkpoint; None if there is none."""
    return max(filter(_is_complete, _checkpoints(folder)), key=_step, default=None)


def checkpoint_to_resume(folder: Path, recipe: Recipe, keeps_best: bool) -> Path | None:
    """Return the newest checkpoint from which a run ends as if it had not been stopped; None if there is none.

    Checkpoints that are incomplete, damaged, or later than a damaged best one are deleted, the latter two with a
    warning.

    Args:
        folder: The folder of the checkpoints.
        recipe: The recipe of the run.
        keeps_best: Whether the weights of the best epoch are needed in the end, which an older checkpoint may hold.

    Raises:
        RLRRError: the checkpoints were made with another recipe.
    """
    remove_incomplete(folder)
    for checkpoint in _checkpoints(folder):
        if not _is_intact(checkpoint):
            logger.warning("%s is damaged: it is deleted, and the run goes on without it", checkpoint)
            shutil.rmtree(checkpoint, ignore_errors=True)
        elif _manifest(checkpoint)["recipe_sha256"] != recipe.digest():
            raise RLRRError(
                f"{checkpoint} was made with other options than {RECIPE} has now, and which ones is not known: train "
                "again with `overwrite`, or bring back the file as it was."
            )
    for checkpoint in sorted(_checkpoints(folder), key=_step, reverse=True):
        best = _state(checkpoint).get("best_global_step")
        if not (keeps_best and best) or (folder / f"checkpoint-{best}").is_dir():
            return checkpoint
        logger.warning("%s is of no use without the best epoch before it, which is gone: it is deleted", checkpoint)
        shutil.rmtree(checkpoint, ignore_errors=True)
    return None


def remove_incomplete(folder: Path) -> None:
    """Delete incomplete checkpoints, so that none of their files ends up in a later checkpoint."""
    for checkpoint in _checkpoints(folder):
        if not _is_complete(checkpoint):
            shutil.rmtree(checkpoint, ignore_errors=True)


def remove_checkpoints(folder: Path) -> None:
    """Delete what a finished run needs no more, which is the last step of a training and may have been missed."""
    shutil.rmtree(folder / CHECKPOINTS, ignore_errors=True)
    (folder / IMAGES).unlink(missing_ok=True)


def checkpoint_epoch(checkpoint: Path) -> float:
    """Return the number of epochs that were trained before a checkpoint."""
    return _state(checkpoint)["epoch"]


def ended_early(checkpoint: Path) -> bool:
    """Tell whether training was to end with this checkpoint, as early stopping has it."""
    return _state(checkpoint)["stateful_callbacks"]["TrainerControl"]["args"]["should_training_stop"]


def _checkpoints(folder: Path) -> list[Path]:
    return [path for path in folder.glob("checkpoint-*") if path.name.rpartition("-")[2].isdecimal()]


def _step(checkpoint: Path) -> int:
    return int(checkpoint.name.rpartition("-")[2])


def _state(checkpoint: Path) -> dict[str, Any]:
    return json.loads((checkpoint / _STATE).read_text(encoding="utf-8"))


def _manifest(checkpoint: Path) -> dict[str, Any]:
    return read_sealed(checkpoint / _MANIFEST)


def _is_complete(checkpoint: Path) -> bool:
    """Tell whether all files of a checkpoint are there with their lengths, for which none of them is read."""
    try:
        files = _manifest(checkpoint)["files"]
        return all((checkpoint / name).stat().st_size == file["bytes"] for name, file in files.items())
    except (OSError, RLRRError):
        return False


def _is_intact(checkpoint: Path) -> bool:
    """Tell whether all files of a complete checkpoint hold what was written."""
    files = _manifest(checkpoint)["files"]
    return all(file_checksum(checkpoint / name) == file["sha256"] for name, file in files.items())
