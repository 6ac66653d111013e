"""`rlrr reproduce`."""

from __future__ import annotations

from typing import Any, Literal

from rlrr.cli.measuring import add_measuring, publish, say_runs_only
from rlrr.cli.parser import Parser
from rlrr.cli.recipe_options import add_recipe_options, given_options

USAGE = "{vtab1k,fgvc} ROOT [options]"
EXAMPLE = "rlrr reproduce vtab1k vtab-1k/ --tasks cifar kitti --output vtab1k-honest"
_OVERRIDES = (
    *("model", "weights", "method", "settings", "image_size", "epochs", "cooldown", "batch_size", "precision"),
    *("normalization", "device", "threads", "workers"),
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
    from rlrr.compare.plan import RATES
    from rlrr.compare.run import benchmark_folder, plan_fields, run_benchmark

    say_runs_only()
    output = benchmark_folder(options.benchmark, options.output, options.variant, options.protocol)
    document, outcomes = run_benchmark(
        options.benchmark,
        options.root,
        output,
        tasks=options.tasks,
        variant=options.variant,
        plan=plan_fields(options.protocol, options.seeds, options.rates, RATES),
        jobs=options.jobs,
        options=given_options(options, _OVERRIDES),
    )
    publish(document, output, options.json)
    outcomes.raise_failures()
