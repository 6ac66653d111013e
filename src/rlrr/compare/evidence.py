"""The comparison of results with the runs beside them: numbers edited by hand, and folders that were mixed up."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from rlrr.adapters.record import RECORD, Record, read_record
from rlrr.compare.plan import Result
from rlrr.errors import RLRRError
from rlrr.recipes.recipe import Recipe
from rlrr.training.output import METRICS, read_metrics

_LOGGED = {  # the name in metrics.jsonl of each accuracy of a record
    "val_accuracy": "eval_accuracy",
    "best_test_accuracy": "eval_accuracy",
    "test_accuracy": "test_accuracy",
}


def read_run(recipe: Recipe, folder: Path) -> Record:
    """Read the record of a finished run, and compare it with its recipe and its log.

    Raises:
        RLRRError: the run is of another recipe, or its accuracies are not those of its log.
    """
    record = read_record(folder)
    try:
        digest = Recipe(**record.recipe).digest()
    except (TypeError, RLRRError) as error:
        raise RLRRError(f"{folder / RECORD} is damaged, or of another version of rlrr: delete {folder}.") from error
    if digest != recipe.digest():
        raise RLRRError(f"{folder} holds a run of another recipe: was it moved there? Delete it, and it is run again.")
    log = read_metrics(folder / METRICS)
    for name, key in _LOGGED.items():
        logged = [(round(line["epoch"]), line[key]) for line in log if key in line]
        epoch, value = record.metrics.get("epoch"), record.metrics.get(name)
        # the log of an older run has no accuracy on the test images
        if value is not None and logged and (epoch, value) not in logged:
            raise RLRRError(
                f"{folder / RECORD} has {name} {value} of epoch {epoch}, which {METRICS} beside it has not: one of "
                f"them was changed. Delete {folder}, and it is run again."
            )
    return record


def finished_runs(recipes: Mapping[str, Recipe], folder: Path) -> dict[str, Record]:
    """Read those of these runs that are finished, by the names of their folders.

    Raises:
        RLRRError: see `read_run`.
    """
    there = {name: recipe for name, recipe in recipes.items() if (folder / name / RECORD).exists()}
    return {name: read_run(recipe, folder / name) for name, recipe in there.items()}


def check_result(result: Result, rebuilt: Result, path: Path) -> None:
    """Refuse a result that is not the one that its runs give.

    Raises:
        RLRRError: naming what differs.
    """
    one, other = asdict(result), asdict(rebuilt)
    compared = one.keys() - {"recipe"}  # by its digest, as the data and the machine may be others by now
    differ = [f"{key}: {one[key]}, by the runs {other[key]}" for key in sorted(compared) if one[key] != other[key]]
    if differ:
        raise RLRRError(
            f"{path} is not what the runs beside it give ({'; '.join(differ)}): it was changed, or belongs to other "
            "runs. Delete it, and it is made again from them."
        )
