"""`rlrr reproduce`."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from rlrr.cli.measuring import add_measuring, add_overrides, given, publish, say, say_runs_only, seeds_of
from rlrr.cli.parser import Parser
from rlrr.errors import RLRRError

USAGE = "{vtab1k,fgvc} ROOT [options]"
EXAMPLE = "rlrr reproduce vtab1k vtab-1k/ --tasks cifar kitti --output vtab1k-honest"
_OVERRIDES = (
    *("model", "weights", "method", "rank", "image_size", "epochs", "cooldown", "batch_size", "precision"),
    *("normalization", "threads", "workers"),
)


def add_arguments(parser: Parser) -> None:
    """Which benchmark, by which protocol, and what differs from the paper's recipes."""
    parser.add_argument("benchmark", type=Literal["vtab1k", "fgvc"], help="VTAB-1k or FGVC.")
    parser.add_argument("root", metavar="ROOT", type=str, help="Folder with a folder for each task.")
    parser.add_argument(
        "--tasks", metavar="TASK", nargs="+", type=str, default=None, help="Run only these; all if not given."
    )
    parser.add_argument(
        "--protocol",
        type=Literal["honest", "paper"],
        default="honest",
        help="honest tunes on validation images and tests once; paper tests every epoch and keeps the best.",
    )
    parser.add_argument(
        "--variant",
        type=Literal["aug"] | None,
        default=None,
        help="Of FGVC's recipes: aug is with mixup, CutMix and a moving average.",
    )
    parser.add_argument(
        "--output",
        metavar="FOLDER",
        type=str | None,
        default=None,
        help="Folder for the runs and the table; called by benchmark and protocol if not given.",
    )
    add_measuring(parser, rates="0.3 1 3")
    add_overrides(parser, _OVERRIDES)


def run(options: Any) -> None:
    """Run what has no result yet and print the table."""

    from rlrr.compare.benchmarks import BENCHMARKS, benchmark_jobs, check_places
    from rlrr.compare.document import benchmark_document
    from rlrr.compare.protocol import PAPER_SEED, RATES, SEEDS, find_result
    from rlrr.compare.published import published
    from rlrr.compare.runner import check_one_backbone, check_one_protocol, run_jobs

    say_runs_only()
    benchmark, root, paper = BENCHMARKS[options.benchmark], Path(options.root), options.protocol == "paper"
    if paper and (options.seeds or options.rates):
        name = "seeds" if options.seeds else "rates"
        raise RLRRError(
            f"Leave --{name} out with --protocol paper, which is one run with seed {PAPER_SEED} at the recipe's own "
            "learning rate.",
            usage=True,
        )
    output = Path(options.output or "-".join(filter(None, (benchmark.name, options.variant, options.protocol))))
    changed = given(options, _OVERRIDES)
    plan = {
        "protocol": options.protocol,
        "seeds": (PAPER_SEED,) if paper else seeds_of(options, SEEDS),
        "rates": (1.0,) if paper else tuple(options.rates or RATES),
    }
    jobs = benchmark_jobs(benchmark, root, plan, changed, output, options.variant)
    wanted = {name: jobs[name] for name in benchmark.chosen(options.tasks)}
    check_one_protocol(output, jobs[next(iter(wanted))].plan)
    earlier = {name: find_result(job.plan, job.folder) for name, job in jobs.items()}
    check_places(benchmark, root, {name: job for name, job in wanted.items() if not earlier[name]})
    outcomes = run_jobs(list(wanted.values()), options.jobs, say)
    results = {name: result for name in jobs if (result := outcomes.results.get(name) or earlier[name])}
    check_one_backbone(results)
    recipe = jobs[next(iter(wanted))].plan
    document = benchmark_document(
        benchmark.title + (f" with {options.variant}" if options.variant else ""),
        benchmark.groups,
        recipe,
        results,
        published(benchmark.name, recipe.recipe.model, recipe.recipe.method),
        benchmark.changes(changed),
    )
    publish(document, output, options.json)
    outcomes.raise_failures()
