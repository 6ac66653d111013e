"""`rlrr combine`."""

from __future__ import annotations

from typing import Any, Literal

from rlrr.cli.parser import Parser

USAGE = "RUN RUN [RUN ...] --output FOLDER [options]"
EXAMPLE = "rlrr combine run1 run2 --weights 0.7 0.3 --output combined"


def add_arguments(parser: Parser) -> None:
    """Add the runs, the way to combine them and the folder."""
    parser.add_argument("runs", metavar="RUN", type=str, nargs="+", help="Folders of finished runs of one method.")
    parser.add_argument(
        "--output", metavar="FOLDER", type=str, required=True, help="Folder for the combined run; it must not exist."
    )
    parser.add_argument(
        "--weights",
        metavar="W",
        type=float,
        nargs="+",
        default=[],
        help="Weights of the runs, one for each; by default equal weights that add up to 1.",
    )
    parser.add_argument(
        "--combination",
        type=Literal["exact", "average"],
        default="exact",
        help="Way to combine: exact sums the changes of the weights, so that ranks add up; average sums the vectors, "
        "which keeps the rank.",
    )
    parser.add_argument(
        "--backbone_weights",
        metavar="PATH",
        type=str | None,
        default=None,
        help="File or folder with the backbone's weights, if they have moved since training.",
    )
    parser.add_json()


def run(options: Any) -> None:
    """Combine the runs, and print a summary of the result."""
    from rlrr.adapters.combine import combine
    from rlrr.cli.show import print_json
    from rlrr.words import counted

    record = combine(
        options.runs,
        options.output,
        weights=options.weights or None,
        combination=options.combination,
        backbone_weights=options.backbone_weights,
    )
    if options.json:
        print_json(record.__dict__)
        return
    count = record.parameters
    print(f"{record.backbone['name']}, {record.method}: {record.protocol}")
    print(f"holds      {counted(count['adapter'], 'parameter')} and {count['head']:,} of the classifier")
    print("accuracy   not measured: use rlrr evaluate")
    print(f"saved in   {options.output}")
