"""`rlrr demo`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from rlrr.cli.machine import add_machine, machine_of
from rlrr.cli.parser import Parser
from rlrr.errors import require

USAGE = "[options]"
EXAMPLE = "rlrr demo --output demo"


def add_arguments(parser: Parser) -> None:
    """Take the folder to write to, and the length of training."""
    parser.add_argument(
        "--output",
        metavar="FOLDER",
        type=str,
        default="demo",
        help="Folder for both runs, the pictures and report.html.",
    )
    parser.add_argument(
        "--resume", type=bool, default=False, help="Go on with the demo in --output, if it was stopped."
    )
    parser.add_argument(
        "--overwrite", type=bool, default=False, help="Delete the runs of an earlier demo in --output first."
    )
    parser.add_argument(
        "--epochs",
        type=int | None,
        default=None,
        help="Passes over the training images; by default those of the packaged recipe.",
    )
    parser.add_argument("--seed", type=int, default=0, help="Seed of the split and of training.")
    add_machine(parser, "device", "threads")
    parser.add_json()


def run(options: Any) -> None:
    """Run the demo and print its table."""
    from dataclasses import replace

    require("demo")
    from rlrr.cli.show import print_json, print_table
    from rlrr.compare.demo import COLUMNS, demo_recipe, results, run_demo

    recipe = replace(demo_recipe(), seed=options.seed, **machine_of(options))
    if options.epochs is not None:
        recipe = replace(recipe, epochs=options.epochs)
    folder = Path(options.output)
    outcomes = run_demo(
        recipe,
        folder,
        overwrite=options.overwrite,
        resume=options.resume,
        say=lambda text: print(text, file=sys.stderr, flush=True),
    )
    if options.json:
        print_json(results(outcomes))
        return
    print_table(COLUMNS, [outcome.row for outcome in outcomes.values()])
    print(f"\nreport: {folder / 'report.html'}")
