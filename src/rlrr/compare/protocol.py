"""One recipe measured on one task by a protocol, from tuning to the mean over seeds; stopped, it goes on.

`honest` chooses the learning rate on validation images, trains on all but the test images, and tests the last epoch,
once for each seed. `paper` tests after every epoch and keeps the best number, of one seed.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from statistics import fmean, stdev

from rlrr.adapters.record import RECORD, Record
from rlrr.compare.evidence import check_result, finished_runs, read_run
from rlrr.compare.folder import RESULT, adopt, check_data, find_result, locked
from rlrr.compare.plan import Plan, Result, learning_rate
from rlrr.data import load_data
from rlrr.errors import RLRRError, UsageError
from rlrr.files import write_json
from rlrr.recipes.files import RECIPE, write_recipe
from rlrr.recipes.recipe import Recipe
from rlrr.training.run import train


def measure(
    name: str, plan: Plan, fingerprint: str, folder: Path, say: Callable[[str], None] = lambda text: None
) -> Result:
    """Run a plan, or go on where it was stopped.

    Args:
        name: Name of the task, for messages and the result.
        fingerprint: SHA-256 of the backbone's weights.
        folder: Gets a run's folder for each training, and `result.json`. With that there, nothing is trained.
        say: Told of each run before it starts.

    Raises:
        RLRRError: the folder is of another plan, another process works on it, a training fails, or the weights or the
            data are not the same for all runs.
    """
    with locked(folder):
        if found := find_result(plan, fingerprint, folder):
            check_evidence(found, plan, folder)
            return found
        adopt(plan, fingerprint, folder)
        tuned = _tune(name, plan, folder, say)
        tested: list[Record] = []
        for number, (run, recipe) in enumerate(plan.testing(_rate(plan, tuned)).items(), start=1):
            say(f"{name}: seed {recipe.seed}, {number} of {len(plan.seeds)}")
            tested.append(_run(recipe, folder / run))
            if not tested[-1].data["test"]:
                raise RLRRError(f"{name} has no test images: give data with a test split.")
        if {record.backbone["fingerprint"] for record in (*tuned, *tested)} != {fingerprint}:
            raise RLRRError(f"The backbone's weights changed between the runs in {folder}: delete it.")
        check_data(plan, folder)
        result = _result(name, plan, tuned, tested)
        write_json(folder / RESULT, asdict(result))
        return result


def check_evidence(result: Result, plan: Plan, folder: Path) -> None:
    """Refuse a result that the runs in its folder do not give. Where some were deleted, the others are compared.

    Raises:
        RLRRError: a number was changed, or a run is another's.
    """
    tuning = plan.tuning()
    tuned = finished_runs(tuning, folder)
    rate = _rate(plan, [*tuned.values()]) if tuned.keys() == tuning.keys() else result.rate
    testing = plan.testing(rate)
    tested = finished_runs(testing, folder)
    if (tuned.keys(), tested.keys()) == (tuning.keys(), testing.keys()):
        rebuilt = _result(result.name, plan, [*tuned.values()], [*tested.values()])
    else:
        known = zip(testing, result.accuracies, strict=True)
        rebuilt = replace(result, accuracies=[_accuracy(tested[run]) if run in tested else one for run, one in known])
    check_result(result, rebuilt, folder / RESULT)


def choose(candidates: Sequence[dict[str, float]]) -> dict[str, float]:
    """Choose the rate with the best validation accuracy; of equal ones the recipe's own, else the lowest."""
    return max(candidates, key=lambda one: (one["val_accuracy"], one["rate"] == 1, -one["rate"]))


def _tune(name: str, plan: Plan, folder: Path, say: Callable[[str], None]) -> list[Record]:
    """Train once at each rate, with the first seed; not at all if there is no choice."""
    if not (runs := plan.tuning()):
        return []
    _check_tests_agree(name, plan)
    records = []
    for number, (run, recipe) in enumerate(runs.items(), start=1):
        say(f"{name}: learning rate {recipe.learning_rate:g}, {number} of {len(runs)}")
        records.append(_run(recipe, folder / run))
    return records


def _candidates(plan: Plan, tuned: Sequence[Record]) -> list[dict[str, float]]:
    """List the rates that were tuned, each with its validation accuracy."""
    rates = plan.rates if tuned else ()
    return [
        {
            "rate": rate,
            "learning_rate": learning_rate(plan.recipe, rate),
            "val_accuracy": record.metrics["val_accuracy"],
        }
        for rate, record in zip(rates, tuned, strict=True)
    ]


def _rate(plan: Plan, tuned: Sequence[Record]) -> float:
    """Choose the rate of the runs that are tested."""
    return choose(_candidates(plan, tuned))["rate"] if tuned else plan.rates[0]


def _accuracy(record: Record) -> float:
    """Return the accuracy on the test images of a run."""
    return record.metrics["best_test_accuracy" if record.recipe["protocol"] == "paper" else "test_accuracy"]


def _run(recipe: Recipe, folder: Path) -> Record:
    """Train, go on with a training that was stopped, or take a finished one."""
    if (folder / RECORD).exists():
        return read_run(recipe, folder)
    if not (folder / RECIPE).exists():  # of a run that was killed before it began
        shutil.rmtree(folder, ignore_errors=True)
        return train(recipe, folder)
    write_recipe(recipe, folder)  # the same but for paths and threads, which may have changed
    return train(recipe, folder, resume=True)


def _result(name: str, plan: Plan, tuned: Sequence[Record], tested: Sequence[Record]) -> Result:
    last, everything, rate = tested[-1], [*tuned, *tested], _rate(plan, tuned)
    accuracies = [_accuracy(record) for record in tested]
    memory = [record.metrics["peak_memory_mb"] for record in everything if record.metrics["peak_memory_mb"]]
    return Result(
        name=name,
        label=plan.label,
        **plan.options(),
        recipe_sha256=plan.recipe.digest(),
        backbone=last.backbone["name"],
        fingerprint=last.backbone["fingerprint"],
        data_sha256=[record.data["sha256"] for record in tested],
        test_sha256=[record.data["test_sha256"] for record in tested],
        accuracies=accuracies,
        mean=fmean(accuracies),
        deviation=stdev(accuracies) if len(accuracies) > 1 else None,
        candidates=_candidates(plan, tuned),
        rate=rate,
        learning_rate=learning_rate(plan.recipe, rate),
        images={
            "train": last.data["train"],
            "val": tuned[0].data["val"] if tuned else 0,
            "test": last.data["test"],
        },
        parameters=last.parameters,
        versions=last.versions,
        device=last.metrics["device"],
        seconds=round(sum(record.metrics["train_seconds"] for record in everything), 1),
        peak_memory_mb=max(memory, default=None),
    )


def _check_tests_agree(name: str, plan: Plan) -> None:
    """Refuse to tune on images that another seed tests on."""
    fraction = plan.recipe.val_fraction
    first, *others = (load_data(plan.recipe.data, val_fraction=fraction, seed=seed).test for seed in plan.seeds)
    if any(test and first and set(test.names) != set(first.names) for test in others):
        raise UsageError(
            f"{name} draws its test images anew for each seed, so that a rate chosen with one seed is chosen on images "
            "that another tests on: give one of `rates`, or one of `seeds`.",
        )
