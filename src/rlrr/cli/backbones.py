"""`rlrr backbones`."""

from __future__ import annotations

from typing import Any

from rlrr.cli.parser import Parser

USAGE = "[options]"
EXAMPLE = "rlrr backbones"


def add_arguments(parser: Parser) -> None:
    """Only the form of the output."""
    parser.add_argument("--json", type=bool, default=False, help="Print the list as JSON.")


def run(options: Any) -> None:
    """List the backbones worth naming."""
    from rlrr.backbones import backbones
    from rlrr.cli.show import print_json, print_table

    found = backbones()
    if options.json:
        print_json([info.__dict__ for info in found])
        return
    columns = ["name", "params", "px", "mean", "std", "here", "weights"]
    rows = [
        [
            info.name,
            f"{info.parameters:.0f} M",
            str(info.image_size),
            "/".join(f"{value:.3g}" for value in info.mean),
            "/".join(f"{value:.3g}" for value in info.std),
            "yes" if info.available else "no",
            info.weights + (f" ({info.note})" if info.note else ""),
        ]
        for info in found
    ]
    print_table(columns, rows)
    print(
        '\n"here": the weights are on this machine; the others come from the Hugging Face Hub when first used.\n'
        "Any other timm name with its tag works too, and so does a local timm folder; --weights FILE loads a file."
    )
