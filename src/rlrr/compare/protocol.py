"""One recipe measured on one task by a protocol, from tuning to the mean over seeds; stopped, it goes on.

`honest` chooses the learning rate on validation images, trains on all but the test images, and tests the last epoch,
once for each seed. `paper` tests after every epoch and keeps the best number, of one seed.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, Literal

from filelock import FileLock, Timeout

from rlrr.adapters import RECORD, Record, read_record
from rlrr.data import data_source, load_data
from rlrr.data.digest import data_digest
from rlrr.errors import RLRRError
from rlrr.files import read_json, write_json
from rlrr.methods import methods
from rlrr.training.output import RECIPE, write_recipe
from rlrr.training.recipe import Recipe, differences
from rlrr.training.run import train

Protocol = Literal["honest", "paper"]

SEEDS, PAPER_SEED = (0, 1, 2), 42
RATES = (0.3, 1.0, 3.0)
RESULT, OPTIONS = "result.json", "options.json"


@dataclass(frozen=True)
class Plan:
    """What is measured on one task, and how.

    Attributes:
        recipe: Its `train_on`, `protocol`, `select`, `test` and `seed` are those of the protocol instead.
        protocol: honest or paper.
        seeds: One run each; in the paper's protocol one.
        rates: Factors of the recipe's learning rate to choose from; one alone is taken without tuning.
    """

    recipe: Recipe
    protocol: Protocol = "honest"
    seeds: tuple[int, ...] = SEEDS
    rates: tuple[float, ...] = RATES

    def __post_init__(self) -> None:
        """Refuse what cannot be measured.

        Raises:
            RLRRError: naming the option.
        """
        if not self.seeds or len(set(self.seeds)) < len(self.seeds) or min(self.seeds) < 0:
            raise RLRRError(f"--seeds must be different and 0 or more, not {_listed(self.seeds)}.", usage=True)
        if not self.rates or len(set(self.rates)) < len(self.rates) or min(self.rates) <= 0:
            raise RLRRError(f"--rates must be different and above 0, not {_listed(self.rates)}.", usage=True)
        if self.protocol == "paper" and (len(self.seeds) > 1 or self.rates != (1.0,)):
            raise RLRRError("--protocol paper is one seed at the recipe's own learning rate.", usage=True)

    @property
    def label(self) -> str:
        """What the number is, in words; it stands wherever the number does."""
        if self.protocol == "paper":
            return "best test epoch"
        rate = "chosen on validation images" if len(self.rates) > 1 else "not tuned"
        return f"last epoch, tested once; learning rate {rate}"

    def options(self) -> dict[str, Any]:
        """What a result depends on but the data, as it stands in `options.json`."""
        return {
            "protocol": self.protocol,
            "seeds": list(self.seeds),
            "rates": list(self.rates),
            "recipe": self.recipe.to_dict(),
        }


@dataclass(frozen=True)
class Result:
    """What came out, as it stands in `result.json`. Accuracies are fractions.

    Attributes:
        name: Of the task.
        label: What the accuracies are: `Plan.label`.
        recipe: The plan's, before the learning rate was chosen; `recipe_sha256` is its digest.
        backbone: Its name, and the SHA-256 of its weights as `fingerprint`.
        data_sha256: Of the training and validation images, by seed; the same number unless the seed draws the split.
        test_sha256: Likewise of the test images.
        accuracies: By seed.
        deviation: Of a sample, over the seeds; None of a single one.
        candidates: Each with its `rate`, `learning_rate` and `val_accuracy`; none if nothing was tuned.
        rate: The factor that was chosen, and the `learning_rate` it gives.
        images: Numbers of those trained on at last (`train`), tuned on (`val`) and tested on (`test`).
        parameters: Numbers of trained ones, in the `adapter` and the `head`.
        seconds: Of training, over all runs.
        peak_memory_mb: The most in any run, in MiB.
    """

    name: str
    protocol: Protocol
    label: str
    seeds: list[int]
    rates: list[float]
    recipe: dict[str, Any]
    recipe_sha256: str
    backbone: str
    fingerprint: str
    data_sha256: list[str]
    test_sha256: list[str]
    accuracies: list[float]
    mean: float
    deviation: float | None
    candidates: list[dict[str, float]]
    rate: float
    learning_rate: float
    images: dict[str, int]
    parameters: dict[str, int]
    versions: dict[str, str]
    device: str
    seconds: float
    peak_memory_mb: int | None


def measure(name: str, plan: Plan, folder: Path, say: Callable[[str], None] = lambda text: None) -> Result:
    """Carry a plan out, or go on with what is there of it.

    Args:
        name: Of the task, for messages and the result.
        folder: Gets a run's folder for each training, and `result.json`. With that there, nothing is trained.
        say: Told of each run before it starts.

    Raises:
        RLRRError: the folder is of another plan, another process works on it, or a training fails.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with _locked(folder):
        if found := find_result(plan, folder):
            return found
        _adopt(plan, folder)
        result = _paper(name, plan, folder, say) if plan.protocol == "paper" else _honest(name, plan, folder, say)
        write_json(folder / RESULT, asdict(result))
        return result


def find_result(plan: Plan, folder: Path) -> Result | None:
    """The finished result of a plan, or None if there is none yet.

    Raises:
        RLRRError: what is there was made with other options, on other data, or is damaged.
    """
    if not (folder / OPTIONS).exists():
        return None
    _check_options(plan, folder)
    return read_result(folder) if (folder / RESULT).exists() else None


def read_result(folder: Path) -> Result:
    """Read `result.json`.

    Raises:
        RLRRError: it is missing or damaged.
    """
    content = read_json(folder / RESULT)
    if not isinstance(content, dict) or content.keys() != {field.name for field in fields(Result)}:
        raise RLRRError(f"{folder / RESULT} is damaged: delete it, and it is made again from the runs beside it.")
    return Result(**content)


def learning_rate(recipe: Recipe, rate: float = 1.0) -> float:
    """The peak rate of a recipe times a factor, without the dust of floating point."""
    own = recipe.learning_rate or methods()[recipe.method].learning_rate
    return float(f"{own * rate:.6g}")


def choose(candidates: Sequence[dict[str, float]]) -> dict[str, float]:
    """The candidate with the best validation accuracy; of equal ones the recipe's own rate, else the lowest."""
    return max(candidates, key=lambda one: (one["val_accuracy"], one["rate"] == 1, -one["rate"]))


def _honest(name: str, plan: Plan, folder: Path, say: Callable[[str], None]) -> Result:
    recipe, candidates, records = replace(plan.recipe, select="last", protocol="honest"), [], []
    if len(plan.rates) > 1:
        _check_tests_agree(name, plan)
        for number, rate in enumerate(plan.rates, start=1):
            peak = learning_rate(recipe, rate)
            say(f"{name}: learning rate {peak:g}, {number} of {len(plan.rates)}")
            tuned = replace(recipe, train_on="train", test=False, seed=plan.seeds[0], learning_rate=peak)
            record = _run(tuned, folder / f"rate-{rate:g}")
            accuracy = record.metrics["val_accuracy"]
            candidates.append({"rate": rate, "learning_rate": peak, "val_accuracy": accuracy})
            records.append(record)
    rate = choose(candidates)["rate"] if candidates else plan.rates[0]
    final = replace(recipe, train_on="trainval", test=True, learning_rate=learning_rate(recipe, rate))
    tested = []
    for number, seed in enumerate(plan.seeds, start=1):
        say(f"{name}: seed {seed}, {number} of {len(plan.seeds)}")
        tested.append(_run(replace(final, seed=seed), folder / f"seed-{seed}"))
        if "test_accuracy" not in tested[-1].metrics:
            raise RLRRError(f"{name} has no test images: give data with a test split.")
    return _result(name, plan, tested, "test_accuracy", candidates, rate, records)


def _paper(name: str, plan: Plan, folder: Path, say: Callable[[str], None]) -> Result:
    (seed,) = plan.seeds
    say(f"{name}: seed {seed}, tested after every epoch")
    recipe = replace(plan.recipe, protocol="paper", select="best", test=True, seed=seed)
    return _result(name, plan, [_run(recipe, folder / f"paper-{seed}")], "best_test_accuracy", [], 1.0, [])


def _run(recipe: Recipe, folder: Path) -> Record:
    """Train, go on with a training that was stopped, or take a finished one."""
    if (folder / RECORD).exists():
        return read_record(folder)
    if not (folder / RECIPE).exists():  # of a run that was killed before it began
        shutil.rmtree(folder, ignore_errors=True)
        return train(recipe, folder)
    write_recipe(recipe, folder)  # the same but for paths and threads, which may have changed
    return train(recipe, folder, resume=True)


def _result(
    name: str,
    plan: Plan,
    tested: Sequence[Record],
    metric: str,
    candidates: list[dict[str, float]],
    rate: float,
    tuned: Sequence[Record],
) -> Result:
    last, everything = tested[-1], [*tuned, *tested]
    accuracies = [record.metrics[metric] for record in tested]
    memory = [record.metrics["peak_memory_mb"] for record in everything if record.metrics["peak_memory_mb"]]
    prints = {record.backbone["fingerprint"] for record in everything}
    if len(prints) > 1:
        raise RLRRError(f"The runs of {name} are not of one backbone: its weights changed between them.")
    return Result(
        name=name,
        label=plan.label,
        **plan.options(),
        recipe_sha256=plan.recipe.digest(),
        backbone=last.backbone["name"],
        fingerprint=prints.pop(),
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
            "val": tuned[0].data["val"] if tuned else 0,
            "test": last.data["test"],
        },
        parameters=last.parameters,
        versions=last.versions,
        device=last.metrics["device"],
        seconds=round(sum(record.metrics["train_seconds"] for record in everything), 1),
        peak_memory_mb=max(memory, default=None),
    )


def _check_options(plan: Plan, folder: Path) -> None:
    """Refuse a folder that was made by another plan or on other data."""
    made = read_json(folder / OPTIONS)
    try:
        recipe, source = Recipe(**made["recipe"]), made["source"]
        changed = [
            f"{key}: {_listed(made[key])} -> {_listed(now)}"
            for key, now in plan.options().items()
            if key != "recipe" and made[key] != now
        ]
    except (KeyError, TypeError):
        raise RLRRError(f"{folder / OPTIONS} is damaged: give another --output.") from None
    if recipe.digest() != plan.recipe.digest():
        changed += differences(replace(recipe, **_elsewhere(plan.recipe)), plan.recipe)
    if changed:
        raise RLRRError(
            f"{folder} was made with other options ({'; '.join(changed)}): give the same ones, or another --output.",
            usage=True,
        )
    if source != data_source(plan.recipe.data):
        _check_moved(plan, folder, source)


def _check_moved(plan: Plan, folder: Path, source: str) -> None:
    """Refuse other data than the runs in `folder` were made on; the same data may lie elsewhere now."""
    for path in sorted(folder.glob(f"*/{RECORD}")):
        record = read_record(path.parent)
        made = Recipe(**record.recipe)
        data = load_data(plan.recipe.data, val_fraction=made.val_fraction, seed=made.seed)
        if data_digest(data.train, data.val) != record.data["sha256"]:
            raise RLRRError(
                f"{folder} was made on other data ({source}) than {plan.recipe.data}: give another --output.",
                usage=True,
            )
    for path in folder.glob(f"*/{RECIPE}"):  # half done, and of data that nothing is known of
        if not (path.parent / RECORD).exists():
            shutil.rmtree(path.parent, ignore_errors=True)


def _adopt(plan: Plan, folder: Path) -> None:
    write_json(folder / OPTIONS, plan.options() | {"source": data_source(plan.recipe.data)})


def _elsewhere(recipe: Recipe) -> dict[str, Any]:
    """The options that do not change a result."""
    return {name: getattr(recipe, name) for name in ("data", "weights", "workers", "threads")}


def _check_tests_agree(name: str, plan: Plan) -> None:
    """Refuse to tune on images that another seed tests on."""
    first, *others = plan.seeds
    fraction = plan.recipe.val_fraction
    tests = [load_data(plan.recipe.data, val_fraction=fraction, seed=seed).test for seed in (first, *others)]
    if any(test and tests[0] and set(test.names) != set(tests[0].names) for test in tests[1:]):
        raise RLRRError(
            f"{name} draws its test images anew for each seed, so that a rate chosen with one seed is chosen on images "
            "that another tests on: give one of --rates, or one of --seeds.",
            usage=True,
        )


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    try:
        with FileLock(folder / ".lock", timeout=0):
            yield
    except Timeout:
        raise RLRRError(f"Another process works in {folder}: wait for it, or give another --output.") from None


def _listed(value: Any) -> str:
    return " ".join(f"{one:g}" for one in value) if isinstance(value, list | tuple) else str(value)
