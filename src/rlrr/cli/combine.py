"""`rlrr combine`."""

from __future__ import annotations

from typing import Any, Literal

from rlrr.cli.parser import Parser

USAGE = "RUN RUN [RUN ...] --output FOLDER [options]"
EXAMPLE = "rlrr combine run1 run2 --weights 0.7 0.3 --output combined"


def add_arguments(parser: Parser) -> None:
    """Which runs, how, and where to."""
    parser.add_argument("runs", metavar="RUN", type=str, nargs="+", help="Folders of finished runs of rlrr.")
    parser.add_argument(
        "--output", metavar="FOLDER", type=str, required=True, help="Folder for the combined run; it must not exist."
    )
    parser.add_argument(
        "--weights",
        metavar="W",
        type=float,
        nargs="+",
        default=[],
        help="A number for each run; equal ones that add up to 1 if not given.",
    )
    parser.add_argument(
        "--type",
        type=Literal["exact", "average"],
        default="exact",
        help="Add up the runs' changes of the weights (ranks add up), or their vectors (which keeps the rank).",
    )
    parser.add_argument(
        "--backbone_weights",
        metavar="PATH",
        type=str | None,
        default=None,
        help="Where the backbone's weights are now, if not where they were in training.",
    )


def run(options: Any) -> None:
    """Combine, and say what came out."""
    from rlrr.adapters.combine import combine

    record = combine(
        options.runs,
        options.output,
        weights=options.weights or None,
        combination=options.type,
        backbone_weights=options.backbone_weights,
    )
    count = record.parameters
    print(f"{record.backbone['name']}, rlrr: {record.protocol}")
    print(f"holds      {count['adapter']:,} parameters and {count['head']:,} of the classifier")
    print("accuracy   not measured: rlrr evaluate does it")
    print(f"saved in   {options.output}")
