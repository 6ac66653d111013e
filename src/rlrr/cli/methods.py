"""`rlrr methods`."""

from __future__ import annotations

from typing import Any

from rlrr.cli.parser import Parser

USAGE = "[options]"
EXAMPLE = "rlrr methods"


def add_arguments(parser: Parser) -> None:
    """Only the form of the output."""
    parser.add_argument("--json", type=bool, default=False, help="Print the list as JSON.")


def run(options: Any) -> None:
    """List the methods and their defaults."""
    from rlrr.cli.show import print_json, print_table
    from rlrr.methods.apply import methods

    found = methods()
    if options.json:
        print_json(
            {
                name: {
                    "title": m.title,
                    "summary": m.summary,
                    "learning_rate": m.learning_rate,
                    "rank": m.rank,
                }
                for name, m in found.items()
            }
        )
        return
    rows = [
        [name, f"{method.learning_rate:g}", str(method.rank or "-"), method.summary] for name, method in found.items()
    ]
    print_table(["method", "learning rate", "rank", "what is trained"], rows)
