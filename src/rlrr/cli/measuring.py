"""The parts that the commands of many runs share: options of the protocol, lines of progress, and the tables."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rlrr.cli.parser import Parser
from rlrr.errors import UsageError

if TYPE_CHECKING:
    from rlrr.compare.document import Document


def add_measuring(parser: Parser, rates: str) -> None:
    """Add the protocol, seeds, learning rates, jobs and JSON.

    Args:
        parser: The parser of a command.
        rates: The default of the learning rates, in words.
    """
    parser.add_argument(
        "--protocol",
        type=Literal["honest", "paper"],
        default="honest",
        help="honest trains on all images but the test images, and tests the last epoch, once; paper tests every "
        "epoch and keeps the best.",
    )
    parser.add_argument(
        "--seeds",
        metavar="N",
        nargs="+",
        type=int,
        default=None,
        help="Seeds, with one run for each (default: 0 1 2; with --protocol paper 42).",
    )
    parser.add_argument(
        "--rates",
        metavar="X",
        nargs="+",
        type=float,
        default=None,
        help="Factors of the learning rate, of which validation images choose one; a single factor is used without "
        f"tuning (default: {rates}).",
    )
    parser.add_argument(
        "--jobs", metavar="N", type=int, default=1, help="Number of runs at a time, which share the cores."
    )
    parser.add_argument("--json", type=bool, default=False, help="Print the results as JSON.")


def plan_of(options: Any, rates: tuple[float, ...]) -> dict[str, Any]:
    """Return the fields of `Plan` beside the recipe.

    Args:
        options: The options of the command line.
        rates: The factors of the learning rate if none are given.

    Raises:
        UsageError: seeds or rates are given with the paper's protocol.
    """
    from rlrr.compare.plan import PAPER_SEED, SEEDS

    paper = options.protocol == "paper"
    if paper and (options.seeds or options.rates):
        name = "seeds" if options.seeds else "rates"
        raise UsageError(
            f"Leave --{name} out with --protocol paper, which is one run with seed {PAPER_SEED} at the recipe's own "
            "learning rate.",
        )
    return {
        "protocol": options.protocol,
        "seeds": (PAPER_SEED,) if paper else tuple(options.seeds or SEEDS),
        "rates": (1.0,) if paper else tuple(options.rates or rates),
    }


def say(text: str) -> None:
    """Print a line on stderr. (A function of a module can be sent to other processes.)"""
    print(f"rlrr: {text}", file=sys.stderr, flush=True)


def say_runs_only() -> None:
    """Silence the lines of single epochs, and log each warning about the data once."""
    logging.getLogger("rlrr").setLevel(logging.WARNING)
    logged: set[str] = set()

    def is_new(record: logging.LogRecord) -> bool:
        message = record.getMessage()
        if message in logged:
            return False
        logged.add(message)
        return True

    logging.getLogger("rlrr.data.benchmarks.lists").addFilter(is_new)


def publish(document: Document, output: Path, as_json: bool) -> None:
    """Write the tables to a folder, and print them or their content as JSON."""
    from rlrr.cli.show import print_json

    document.write(output)
    if as_json:
        print_json(document.content)
    else:
        print(document.text, end="")
