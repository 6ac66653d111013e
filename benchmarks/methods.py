"""Is every method better than a linear probe? All of `rlrr methods` on one small task, by the honest protocol.

    python benchmarks/methods.py --output bench/methods --table docs/methods/table

Each method has its default settings and learning rate; three seeds are trained on all but the test images and tested
once, at the last epoch. "to linear" is the mean of the differences to the linear probe, seed by seed.

The default learning rates of the methods without one of their authors were chosen on validation images of other data:

    python benchmarks/methods.py --data sample:digits --rates [0.3,1,3] --seeds [0] --output bench/rates \\
        --table docs/methods/rates

The run goes on where it was stopped, and begins no further method after --minutes. Numbers are written to the file of
--table with the ending .json as they come, and the page at the end, with the ending .md.
"""

from __future__ import annotations

import json
import textwrap
import time
from dataclasses import asdict
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from measure import command_line, markdown_table

from rlrr.compare.plan import Plan, Result
from rlrr.compare.runner import Job, run_jobs
from rlrr.files import write_json
from rlrr.methods.table import METHODS
from rlrr.recipes.recipe import Recipe

LINEAR = "linear"
SEEDS = [0, 1, 2]
KEPT = ("accuracies", "learning_rate", "candidates", "parameters")
"""What is kept of a result."""


def main(
    output: str = "bench/methods",
    table: str = "bench/methods/table",
    data: str = "sample:mnist",
    model: str = "vit_small_focus",
    image_size: int = 42,
    epochs: int = 5,
    batch_size: int = 32,
    methods: list[str] | None = None,
    seeds: list[int] = SEEDS,
    rates: list[float] = [1.0],  # noqa: B006 - read alone
    jobs: int = 2,
    minutes: float = 80,
) -> None:
    """Run what is missing, and write the table.

    Args:
        output: Folder for the runs.
        table: Files of the table, without an ending.
        data: Data with test images.
        model: Backbone.
        image_size: Side of the images in pixels.
        epochs: Passes over the images.
        batch_size: Images in a step.
        methods: Names of methods; all by default. "rlrr product" is RLRR in product form.
        seeds: Seeds, with one run for each.
        rates: Factors of the learning rate, of which validation images choose one.
        jobs: Number of methods at a time, each in a process with one thread.
        minutes: Time after which no further method begins.
    """
    end = time.monotonic() + 60 * minutes
    common: dict[str, Any] = {
        "data": data,
        "model": model,
        "image_size": image_size,
        "epochs": epochs,
        "batch_size": batch_size,
    }
    names = methods or [*METHODS, "rlrr product"]
    plans = {
        name: Plan(Recipe(threads=1, **common, **_method(name)), seeds=tuple(seeds), rates=tuple(rates))
        for name in names
    }
    todo = [Job(name, plan, Path(output) / name.replace(":", "-")) for name, plan in plans.items()]
    file = Path(table).with_suffix(".json")
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))["methods"] if file.exists() else {}
    while todo and time.monotonic() < end:
        now, todo = todo[:jobs], todo[jobs:]
        outcomes = run_jobs(now, processes=jobs, say=print)
        outcomes.raise_failures()
        found |= {name: _kept(result) for name, result in outcomes.results.items()}
        write_json(file, {"recipe": common, "seeds": seeds, "rates": rates, "methods": found})
    if found:
        print(_table(found))
        Path(table).with_suffix(".md").write_text(_page(common, seeds, rates, found), encoding="utf-8")
    if todo:
        print(f"{len(todo)} methods are left: run the same command again to go on.")


def _method(name: str) -> dict[str, Any]:
    method, _, form = name.partition(" ")
    return {"method": method, "settings": {"form": form} if form else {}}


def _kept(result: Result) -> dict[str, Any]:
    whole = asdict(result)
    return {name: whole[name] for name in KEPT}


def _page(common: dict[str, Any], seeds: list[int], rates: list[float], found: dict[str, Any]) -> str:
    """Write the table under a title and the words that a reader needs; the command is in this file's first lines."""
    rate = "its default learning rate"
    if len(rates) > 1:
        rate = f"the one of {len(rates)} learning rates that is best on validation images, tried with seed {seeds[0]}"
    words = (
        f"Every method on {common['data']} with the backbone {common['model']}, by default settings and {rate}: "
        f"{common['image_size']} pixels, {common['epochs']} epochs in batches of {common['batch_size']}, on all but "
        "the test images, which are read once, after the last epoch. Percent right, mean and deviation over seeds "
        f'{", ".join(map(str, seeds))}; "to linear" is the mean of the differences to the linear probe, seed by seed. '
        "`benchmarks/methods.py` has the command. So short a training on so small a task tells that a method works, "
        "not which is best."
    )
    return f"# Methods side by side on {common['data']}\n\n{textwrap.fill(words, 120)}\n\n{_table(found)}\n"


def _table(found: dict[str, Any]) -> str:
    linear = found.get(LINEAR, {}).get("accuracies")
    rows = []
    for name in sorted(found, key=lambda name: -fmean(found[name]["accuracies"])):
        one = found[name]
        accuracies = [100 * accuracy for accuracy in one["accuracies"]]
        ahead = [mine - 100 * other for mine, other in zip(accuracies, linear, strict=True)] if linear else []
        rows.append(
            [
                name,
                f"{one['parameters']['adapter']:,}",
                f"{one['learning_rate']:g}",
                _spread(accuracies),
                _spread(ahead, "+") if ahead and name != LINEAR else "-",
            ]
        )
    columns = ["method", "parameters beside the head", "learning rate", "right on the test images", "to linear"]
    return markdown_table(columns, rows)


def _spread(values: list[float], sign: str = "") -> str:
    deviation = f" ± {stdev(values):.1f}" if len(values) > 1 else ""
    return f"{fmean(values):{sign}.1f}{deviation}"


if __name__ == "__main__":
    command_line(main)
