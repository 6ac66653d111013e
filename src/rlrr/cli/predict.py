"""`rlrr predict`."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rlrr.cli.machine import add_machine, machine_of
from rlrr.cli.parser import Parser

if TYPE_CHECKING:
    from rlrr.inference.predict import Prediction

logger = logging.getLogger(__name__)

USAGE = "RUN IMAGE [IMAGE ...] [options]"
EXAMPLE = "rlrr predict run photo.jpg holiday/ --top-k 3 --output holiday.csv"


def add_arguments(parser: Parser) -> None:
    """Take the run, the images and the form of the result."""
    parser.add_run()
    parser.add_argument(
        "images",
        metavar="IMAGE",
        type=str,
        nargs="+",
        help="Images to classify: files, folders with all that is in them, or patterns in quotes, such as "
        "'photos/*.jpg' or 'photos/**/*.jpg'.",
    )
    parser.add_argument("--top_k", type=int, default=5, help="Number of most likely classes to print for each image.")
    parser.add_argument(
        "--output",
        metavar="FILE",
        type=str | None,
        default=None,
        help="File for the result, which must not exist: .csv, .json or .jsonl (a line of JSON for each image).",
    )
    parser.add_argument(
        "--bad_images",
        type=Literal["error", "skip"],
        default="error",
        help="Treatment of images that cannot be read. The others are answered all the same, and the bad ones are "
        "named; the exit code is 1, or with skip 0.",
    )
    parser.add_argument("--json", type=bool, default=False, help="Print the result as JSON.")
    add_machine(parser)


def run(options: Any) -> None:
    """Classify the images, print a line for each or write them to a file, and name those that cannot be read."""
    from rlrr.cli.show import print_json, print_line
    from rlrr.inference.predict import cannot_read, load
    from rlrr.inference.table import as_dict, expect_table, write_table

    if options.output:
        expect_table(Path(options.output))
    classifier = load(options.run, **machine_of(options))
    answered: list[Prediction] = []
    bad: list[str] = []
    for one in classifier.classify(options.images, options.top_k):
        if one.problem:
            bad.append(f"{one.image}: {one.problem}")
            continue
        answered.append(one)
        if not (options.json or options.output):
            tops = zip(one.classes, one.probabilities, strict=True)
            print_line(f"{one.image}: " + ", ".join(f"{name} {p:.1%}" for name, p in tops))
    if options.output and answered:
        write_table(Path(options.output), answered)
    if options.json:
        print_json([as_dict(one) for one in answered])
    elif options.output and answered:
        print_line(f"written  {options.output}")
    if bad:
        error = cannot_read(bad, len(bad) + len(answered))
        if options.bad_images == "error" or not answered:
            raise error
        logger.warning("%s", error)
