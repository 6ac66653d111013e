"""The parts that the commands of many runs share: options of the protocol, lines of progress, and the tables."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from rlrr.cli.parser import Parser

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
