"""The parts that the commands of many runs share: options of the protocol, progress, and the tables."""

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
    """Take the protocol, seeds, learning rates, jobs and JSON; `rates` is the default of the rates in words."""
    parser.add_argument(
        "--protocol",
        type=Literal["honest", "paper"],
        default="honest",
        help="honest trains on all but the test images and tests the last epoch, once; paper tests every epoch and "
        "keeps the best.",
    )
    parser.add_argument(
        "--seeds",
        metavar="N",
        nargs="+",
        type=int,
        default=None,
        help="The seeds themselves, one run each (default: 0 1 2; with --protocol paper 42).",
    )
    parser.add_argument(
        "--rates",
        metavar="X",
        nargs="+",
        type=float,
        default=None,
        help="Factors of the learning rate to choose from on validation images; one alone is taken without tuning "
        f"(default: {rates}).",
    )
    parser.add_argument("--jobs", metavar="N", type=int, default=1, help="Runs at a time; they share the cores.")
    parser.add_argument("--json", type=bool, default=False, help="Print the results as JSON.")


def plan_of(options: Any, rates: tuple[float, ...]) -> dict[str, Any]:
    """Give the fields of `Plan` beside the recipe; `rates` if none are given.

    Raises:
        RLRRError: seeds or rates are given with the paper's protocol.
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
    """Print a line on stderr; a module's function, since other processes call it too."""
    print(f"rlrr: {text}", file=sys.stderr, flush=True)


def say_runs_only() -> None:
    """Log a line for each run, in place of one for each epoch, and each warning about the data once."""
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
