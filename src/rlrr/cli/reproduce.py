"""`rlrr reproduce`."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from rlrr.cli.measuring import add_measuring, plan_of, publish, say, say_runs_only
from rlrr.cli.parser import Parser
from rlrr.cli.recipe_options import add_recipe_options, given_options

USAGE = "{vtab1k,fgvc} ROOT [options]"
EXAMPLE = "rlrr reproduce vtab1k vtab-1k/ --tasks cifar kitti --output vtab1k-honest"
_OVERRIDES = (
    *("model", "weights", "method", "settings", "image_size", "epochs", "cooldown", "batch_size", "precision"),
    *("normalization", "threads", "workers"),
)


def add_arguments(parser: Parser) -> None:
    """Add the benchmark, the protocol, and options in the place of the recipes' own."""
    parser.add_argument("benchmark", type=Literal["vtab1k", "fgvc"], help="Benchmark: VTAB-1k or FGVC.")
    parser.add_argument("root", metavar="ROOT", type=str, help="Folder with one folder for each task.")
    parser.add_argument(
        "--tasks", metavar="TASK", nargs="+", type=str, default=None, help="Tasks to run; by default all."
    )
    parser.add_argument(
        "--variant",
        type=Literal["aug"] | None,
        default=None,
        help="Variant of the recipes for FGVC: aug adds mixup, CutMix and, for rlrr, an EMA of the weights.",
    )
    parser.add_argument(
        "--output",
        metavar="FOLDER",
        type=str | None,
        default=None,
        help="Folder for the runs and the table; by default named after the benchmark and the protocol.",
    )
    add_measuring(parser, rates="0.3 1 3")
    add_recipe_options(parser, _OVERRIDES)


def run(options: Any) -> None:
    """Run the tasks that have no result yet, and print the table."""
    from rlrr.compare.benchmarks import BENCHMARKS, benchmark_jobs, changes, check_folders, without_recipe
    from rlrr.compare.document import benchmark_document, paper_recipe
    from rlrr.compare.folder import RESULT
    from rlrr.compare.plan import RATES
    from rlrr.compare.published import published
    from rlrr.compare.runner import run_jobs
    from rlrr.methods.apply import method_config
    from rlrr.recipes.files import is_tuned

    say_runs_only()
    benchmark, root, plan = BENCHMARKS[options.benchmark], Path(options.root), plan_of(options, RATES)
    output = Path(options.output or "-".join(filter(None, (benchmark.name, options.variant, options.protocol))))
    changed = given_options(options, _OVERRIDES)
    jobs = benchmark_jobs(benchmark, root, plan, changed, output, options.variant)
    wanted = benchmark.chosen(options.tasks)
    unfinished = {name: jobs[name] for name in wanted if not (jobs[name].folder / RESULT).exists()}
    check_folders(benchmark, root, unfinished)
    first_plan = jobs[wanted[0]].plan
    recipe = first_plan.recipe
    method_config(recipe.method, recipe.settings)
    if is_tuned(recipe.method, benchmark.recipes(options.variant)):
        described = paper_recipe(changes(changed))
    else:
        described = without_recipe(recipe.method, changes(changed))
    outcomes = run_jobs(list(jobs.values()), options.jobs, say, wanted)
    document = benchmark_document(
        benchmark,
        options.variant,
        first_plan,
        outcomes.results,
        published(benchmark.name, recipe.model, recipe.method),
        described,
        outcomes.preprocessing,
    )
    publish(document, output, options.json)
    outcomes.raise_failures()
