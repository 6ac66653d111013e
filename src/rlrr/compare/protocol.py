"""One recipe measured on one task by a protocol, from tuning to the mean over seeds; stopped, it goes on.

`honest` chooses the learning rate on validation images, trains on all but the test images, and tests the last epoch,
once for each seed. `paper` tests after every epoch and keeps the best number, of one seed.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import fmean, stdev

from rlrr.adapters.record import RECORD, Record, read_record
from rlrr.compare.folder import RESULT, adopt, check_data, find_result, locked
from rlrr.compare.plan import Plan, Result, learning_rate, plain
from rlrr.data import load_data
from rlrr.errors import RLRRError, UsageError
from rlrr.files import write_sealed
from rlrr.recipes.files import RECIPE, write_recipe
from rlrr.recipes.recipe import Recipe
from rlrr.training.output import remove_checkpoints
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
            return found
        adopt(plan, fingerprint, folder)
        tuned = _tune(name, plan, folder, say) if len(plan.rates) > 1 else {}
        candidates = [
            {
                "rate": rate,
                "learning_rate": learning_rate(plan.recipe, rate),
                "val_accuracy": record.metrics["val_accuracy"],
            }
            for rate, record in tuned.items()
        ]
        rate = choose(candidates)["rate"] if candidates else plan.rates[0]
        tested = []
        for number, seed in enumerate(plan.seeds, start=1):
            say(f"{name}: seed {seed}, {number} of {len(plan.seeds)}")
            kind = "paper" if plan.protocol == "paper" else "seed"
            tested.append(_run(plan.tested(seed, rate), folder / f"{kind}-{seed}"))
            if not tested[-1].data["test"]:
                raise RLRRError(f"{name} has no test images: give data with a test split.")
        if {record.backbone["fingerprint"] for record in (*tuned.values(), *tested)} != {fingerprint}:
            raise RLRRError(f"The backbone's weights changed between the runs in {folder}: delete it.")
        check_data(plan, folder)
        result = _result(name, plan, tuned, tested, candidates, rate)
        write_sealed(folder / RESULT, asdict(result))
        return result


def choose(candidates: Sequence[dict[str, float]]) -> dict[str, float]:
    """Choose the rate with the best validation accuracy; of equal ones the recipe's own, else the lowest."""
    return max(candidates, key=lambda one: (one["val_accuracy"], one["rate"] == 1, -one["rate"]))


def _tune(name: str, plan: Plan, folder: Path, say: Callable[[str], None]) -> dict[float, Record]:
    """Train once at each rate, with the first seed."""
    _check_tests_agree(name, plan)
    records = {}
    for number, rate in enumerate(plan.rates, start=1):
        recipe = plan.tuned(rate)
        say(f"{name}: learning rate {recipe.learning_rate:g}, {number} of {len(plan.rates)}")
        records[rate] = _run(recipe, folder / f"rate-{plain(rate)}")
    return records


def _run(recipe: Recipe, folder: Path) -> Record:
    """Train, go on with a training that was stopped, or take a finished one."""
    if (folder / RECORD).exists():
        remove_checkpoints(folder)
        return read_record(folder)
    if not (folder / RECIPE).exists():  # of a run that was killed before it began
        shutil.rmtree(folder, ignore_errors=True)
        return train(recipe, folder)
    write_recipe(recipe, folder)  # the same but for paths and threads, which may have changed
    return train(recipe, folder, resume=True)


def _result(
    name: str,
    plan: Plan,
    tuned: Mapping[float, Record],
    tested: Sequence[Record],
    candidates: list[dict[str, float]],
    rate: float,
) -> Result:
    last, everything = tested[-1], [*tuned.values(), *tested]
    metric = "best_test_accuracy" if plan.protocol == "paper" else "test_accuracy"
    accuracies = [record.metrics[metric] for record in tested]
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
        candidates=candidates,
        rate=rate,
        learning_rate=learning_rate(plan.recipe, rate),
        images={
            "train": last.data["train"],
            "val": next((record.data["val"] for record in tuned.values()), 0),
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
