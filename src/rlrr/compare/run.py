"""Whole comparisons: from a benchmark or data sets to the results and the document that shows them."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal

from rlrr.backbones import load_backbone
from rlrr.compare.ablation import TABLES, ablation_jobs, ablation_tables, data_names, depth_of
from rlrr.compare.benchmarks import BENCHMARKS, benchmark_jobs, changes, check_folders, recipe_of, without_recipe
from rlrr.compare.document import Document, ablation_document, benchmark_document, paper_recipe, recipe_options
from rlrr.compare.folder import RESULT
from rlrr.compare.plan import PAPER_SEED, RATES, SEEDS, Plan, Protocol
from rlrr.compare.published import published
from rlrr.compare.runner import Outcomes, run_jobs
from rlrr.errors import UsageError, did_you_mean
from rlrr.hints import checked
from rlrr.methods.apply import method_config
from rlrr.recipes.files import find_options, is_tuned, overlay
from rlrr.recipes.recipe import Recipe

_OF_PLAN = ("data", "protocol", "train_on", "select", "test", "seed")  # options of a recipe that a plan sets


@checked
def reproduce(
    benchmark: Literal["vtab1k", "fgvc"],
    root: str | Path,
    output: str | Path | None = None,
    *,
    tasks: Sequence[str] | None = None,
    variant: Literal["aug"] | None = None,
    protocol: Protocol = "honest",
    seeds: Sequence[int] | None = None,
    rates: Sequence[float] | None = None,
    jobs: int = 1,
    **options: Any,
) -> Document:
    """Run the tasks of a benchmark by published recipes, and write one table beside the published numbers.

    Tasks that have a result in `output` are not run again.

    Args:
        benchmark: vtab1k or fgvc.
        root: Folder with one folder for each task.
        output: Folder for the runs and the table; by default named after the benchmark and the protocol.
        tasks: Tasks to run; None for all.
        variant: Variant of the recipes for FGVC.
        protocol: honest trains on all images but the test images, and tests the last epoch, once; paper tests every
            epoch and keeps the best.
        seeds: Seeds, with one run for each; None for 0, 1, 2, and in the paper's protocol 42.
        rates: Factors of the learning rate, of which validation images choose one; None for 0.3, 1, 3.
        jobs: Number of runs at a time, which share the cores.
        **options: Options of `Recipe` in the place of the recipes' own.

    Raises:
        RLRRError: the data or an option is wrong, or a run failed; the others are run and written all the same.

    Example:
        >>> rlrr.reproduce("vtab1k", "vtab-1k/", tasks=["cifar"], method="ssf").content["lines"]
    """
    folder = benchmark_folder(benchmark, output, variant, protocol)
    document, outcomes = run_benchmark(
        benchmark,
        root,
        folder,
        tasks=tasks,
        variant=variant,
        plan=plan_fields(protocol, seeds, rates, RATES),
        jobs=jobs,
        options=options,
    )
    document.write(folder)
    outcomes.raise_failures()
    return document


@checked
def ablate(
    data: str | Path | Sequence[str | Path],
    output: str | Path = "ablation",
    *,
    tables: Sequence[str] = tuple(TABLES),
    config: str | Path | None = None,
    protocol: Protocol = "honest",
    seeds: Sequence[int] | None = None,
    rates: Sequence[float] | None = None,
    jobs: int = 1,
    **options: Any,
) -> Document:
    """Run the paper's ablations of RLRR on any data, and write one table beside the paper's numbers.

    Variations that have a result in `output` are not run again.

    Args:
        data: Folders of images, samples or Hub data sets, or one.
        output: Folder for the runs and the tables.
        tables: Tables of the paper: table6, fig2, table10, table11.
        config: Recipe of the full method: a YAML file or a packaged recipe. None takes the paper's recipe for a folder
            of VTAB-1k or FGVC, and the defaults of `train` for other data.
        protocol: As for `reproduce`.
        seeds: As for `reproduce`.
        rates: As for `reproduce`, but None for 1, the same rate for all variants.
        jobs: As for `reproduce`.
        **options: Options of `Recipe` in the place of the recipe's own.

    Raises:
        RLRRError: the data or an option is wrong, or a run failed; the others are run and written all the same.

    Example:
        >>> rlrr.ablate("sample:mnist", tables=["table6"], model="vit_small_focus", image_size=70)
    """
    sources = [data] if isinstance(data, (str, Path)) else data
    document, outcomes = run_ablation(
        [str(source) for source in sources],
        output,
        tables=tables,
        config=None if config is None else str(config),
        plan=plan_fields(protocol, seeds, rates, (1.0,)),
        jobs=jobs,
        options=options,
    )
    document.write(Path(output))
    outcomes.raise_failures()
    return document


def run_benchmark(
    name: str,
    root: str | Path,
    output: Path,
    *,
    tasks: Sequence[str] | None,
    variant: str | None,
    plan: Mapping[str, Any],
    jobs: int,
    options: Mapping[str, Any],
) -> tuple[Document, Outcomes]:
    """Run the tasks that have no result yet, and make the table; the arguments are those of `reproduce`.

    Args:
        name: Name of the benchmark.
        root: Folder with one folder for each task.
        output: Folder for the runs.
        tasks: Tasks to run.
        variant: Variant of the recipes.
        plan: Fields of `Plan`, from `plan_fields`.
        jobs: Number of runs at a time.
        options: Options of a recipe.
    """
    _expect_options(options)
    benchmark, root = BENCHMARKS[name], Path(root)
    planned = benchmark_jobs(benchmark, root, plan, options, output, variant)
    wanted = benchmark.chosen(tasks)
    check_folders(benchmark, root, {name: planned[name] for name in wanted if not _is_done(planned[name].folder)})
    first_plan = planned[wanted[0]].plan
    recipe = first_plan.recipe
    method_config(recipe.method, recipe.settings)
    if is_tuned(recipe.method, benchmark.recipes(variant)):
        described = paper_recipe(changes(options))
    else:
        described = without_recipe(recipe.method, changes(options))
    outcomes = run_jobs(list(planned.values()), jobs, say, wanted)
    document = benchmark_document(
        benchmark,
        variant,
        first_plan,
        outcomes.results,
        published(benchmark.name, recipe.model, recipe.method),
        described,
        outcomes.preprocessing,
    )
    return document, outcomes


def run_ablation(
    data: Sequence[str],
    output: str | Path,
    *,
    tables: Sequence[str],
    config: str | None,
    plan: Mapping[str, Any],
    jobs: int,
    options: Mapping[str, Any],
) -> tuple[Document, Outcomes]:
    """Run the variations that have no result yet, and make the tables; the arguments are those of `ablate`.

    Args:
        data: Folders of images, samples or Hub data sets.
        output: Folder for the runs.
        tables: Names of tables.
        config: Recipe of the full method.
        plan: Fields of `Plan`, from `plan_fields`.
        jobs: Number of runs at a time.
        options: Options of a recipe.
    """
    _expect_options(options)
    plans, recipes = {}, {}
    for source, name in data_names(data).items():
        packaged = None if config else recipe_of(source)
        base = config or packaged
        recipe = Recipe(**overlay(find_options(base) if base else {}, {**options, "data": source}))
        method_config(recipe.method, recipe.settings)
        plans[name] = Plan(recipe, **plan)
        recipes[name] = paper_recipe(changes(options)) if packaged else recipe_options(recipe)
    depth = 1
    if "fig2" in tables:
        depth = depth_of(load_backbone(recipe.model, num_classes=0, weights=recipe.weights).model)
    rows = ablation_tables(tables, depth)
    planned = ablation_jobs(rows, plans, Path(output))
    outcomes = run_jobs([job for of_data in planned.values() for job in of_data.values()], jobs, say)
    results = {
        name: {
            variation: outcomes.results[job.name] for variation, job in of_data.items() if job.name in outcomes.results
        }
        for name, of_data in planned.items()
    }
    return ablation_document(rows, plans, results, recipes, outcomes.preprocessing), outcomes


def plan_fields(
    protocol: Protocol, seeds: Sequence[int] | None, rates: Sequence[float] | None, default_rates: Sequence[float]
) -> dict[str, Any]:
    """Return the fields of `Plan` beside the recipe.

    Args:
        protocol: honest or paper.
        seeds: Seeds; None for the usual ones.
        rates: Factors of the learning rate; None for `default_rates`.
        default_rates: Factors of the honest protocol.

    Raises:
        UsageError: seeds or rates are given with the paper's protocol.
    """
    paper = protocol == "paper"
    if paper and (seeds or rates):
        raise UsageError(
            f"Leave `{'seeds' if seeds else 'rates'}` out with `protocol` paper, which is one run with seed "
            f"{PAPER_SEED} at the recipe's own learning rate."
        )
    return {
        "protocol": protocol,
        "seeds": (PAPER_SEED,) if paper else tuple(seeds or SEEDS),
        "rates": (1.0,) if paper else tuple(rates or default_rates),
    }


def benchmark_folder(benchmark: str, output: str | Path | None, variant: str | None, protocol: str) -> Path:
    """Choose the folder of a benchmark's results."""
    return Path(output or "-".join(filter(None, (benchmark, variant, protocol))))


def say(text: str) -> None:
    """Print a line on stderr. (A function of a module can be sent to other processes.)"""
    print(f"rlrr: {text}", file=sys.stderr, flush=True)


def _expect_options(options: Mapping[str, Any]) -> None:
    names = [option.name for option in fields(Recipe) if option.name not in _OF_PLAN]
    if unknown := [name for name in options if name not in names]:
        raise UsageError(f"{unknown[0]} is no option of the recipes here.{did_you_mean(unknown[0], names)}")


def _is_done(folder: Path) -> bool:
    return (folder / RESULT).exists()
