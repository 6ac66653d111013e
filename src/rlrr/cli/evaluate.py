"""`rlrr evaluate`."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from rlrr.cli.machine import add_machine, machine_of
from rlrr.cli.parser import Parser
from rlrr.errors import UsageError

USAGE = "RUN DATA [options]"
EXAMPLE = "rlrr evaluate run flowers/ --split test"


def add_arguments(parser: Parser) -> None:
    """Take the run, the data, and the folder for the result."""
    parser.add_run()
    parser.add_argument(
        "data", metavar="DATA", type=str, help="Images with labels: a folder, sample:NAME or hub:OWNER/NAME."
    )
    parser.add_argument(
        "--split",
        type=Literal["test", "val", "train"] | None,
        default=None,
        help="Split to measure on; by default test if there is one, else val, else all images.",
    )
    parser.add_argument(
        "--output",
        metavar="FOLDER",
        type=str | None,
        default=None,
        help="Folder for the results; by default RUN/evaluation, or RUN/evaluation-SPLIT with --split.",
    )
    parser.add_argument(
        "--bad_images",
        type=Literal["error", "skip"],
        default="error",
        help="Treatment of images that cannot be read: stop, or leave them out.",
    )
    parser.add_argument("--json", type=bool, default=False, help="Print the result as JSON.")
    add_machine(parser)


def run(options: Any) -> None:
    """Evaluate the run, and print the table and the paths of the results."""
    from rlrr.cli.show import print_json, print_table
    from rlrr.inference.evaluate import COLUMNS, evaluate, save_evaluation
    from rlrr.inference.predict import load

    if options.output and (Path(options.output) / "evaluation.json").exists():
        raise UsageError(f"{options.output} already holds an evaluation: give another --output.")
    classifier = load(options.run, **machine_of(options))
    result = evaluate(classifier, options.data, split=options.split, bad_images=options.bad_images)
    name = f"evaluation-{options.split}" if options.split else "evaluation"  # one split does not overwrite another
    written = save_evaluation(result, Path(options.output or Path(options.run) / name))
    if options.json:
        print_json(result.to_dict())
        return
    print_table(COLUMNS, result.rows)
    print(f"\naccuracy {result.accuracy:.1%} on {result.images} images ({result.split})")
    if result.skipped:
        print(f"skipped  {len(result.skipped)} images that cannot be read (listed in {written[0]})")
    print("written  " + "\n         ".join(map(str, written)))
