"""`rlrr data check`."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING, Any, Literal

from rlrr.cli.parser import Parser
from rlrr.errors import RLRRError
from rlrr.words import counted

if TYPE_CHECKING:
    from rlrr.data.benchmarks.inventory import Inventory, TaskInventory

USAGE = "FOLDER [options]"
EXAMPLE = "rlrr data check vtab-1k/"
_SHOWN = 20  # problems of one task


def add_arguments(parser: Parser) -> None:
    """Add the folder to check, and the form of the result."""
    parser.add_argument("root", metavar="FOLDER", type=str, help="A copy of VTAB-1k or FGVC, or one task of it.")
    parser.add_argument(
        "--benchmark",
        type=Literal["vtab1k", "fgvc"] | None,
        default=None,
        help="Benchmark to check, if FOLDER holds tasks of both.",
    )
    parser.add_argument(
        "--output", metavar="FILE", type=str | None, default=None, help="File for the full result, as JSON."
    )
    parser.add_argument("--json", type=bool, default=False, help="Print the full result as JSON.")


def run(options: Any) -> None:
    """Check a copy, and print a table and the problems; fail if there are any."""
    from rlrr.cli.show import print_json
    from rlrr.data.benchmarks.inventory import take_inventory
    from rlrr.files import write_json

    inventory = take_inventory(Path(options.root).expanduser(), options.benchmark)
    if options.output:
        write_json(Path(options.output), inventory.to_dict())
    if options.json:
        print_json(inventory.to_dict())
    else:
        _print(inventory)
        if options.output:
            print(f"\nwritten  {options.output}")
    if not inventory.clean:
        raise RLRRError(_summary(inventory))


def _print(inventory: Inventory) -> None:
    from rlrr.cli.show import print_table

    rows = []
    for task in inventory.tasks:
        train = task.images.get("train") or task.images["trainval"]
        counts = (train, task.images.get("val", (0, None)), task.images["test"], task.classes)
        rows.append([task.name, *(_count(*count) for count in counts), str(len(task.problems)), str(len(task.notes))])
    print_table(["task", "train", "val", "test", "classes", "problems", "notes"], rows)
    if inventory.missing:
        print("\n" + fill(f"missing: {', '.join(inventory.missing)}", 90, subsequent_indent="  "))
    for task in inventory.tasks:
        _print_faults(task)
    if inventory.clean:
        print("\nNo problems.")


def _count(number: int, expected: int | None) -> str:
    """Write a number beside the expected one, as "800/800"; alone if the expected one is not known."""
    return f"{number}/{expected}" if expected is not None else str(number or "-")


def _print_faults(task: TaskInventory) -> None:
    lines = [fault.message for fault in task.problems] + [f"note: {fault.message}" for fault in task.notes]
    if lines:
        kinds = Counter(fault.kind for fault in (*task.problems, *task.notes))
        print(f"\n{task.name}: {', '.join(f'{count} {kind}' for kind, count in kinds.items())}")
        print("\n".join(f"  {line}" for line in lines[:_SHOWN]))
    if len(lines) > _SHOWN:
        print(f"  and {len(lines) - _SHOWN} more: --output FILE writes all of them")


def _summary(inventory: Inventory) -> str:
    bad = [task for task in inventory.tasks if task.problems]
    parts = []
    if inventory.missing:
        count = len(inventory.missing)
        parts.append(f"{counted(count, 'task')} {'is' if count == 1 else 'are'} missing")
    if bad:
        count = sum(len(task.problems) for task in bad)
        verb = "has" if len(bad) == 1 else "have"
        parts.append(f"{len(bad)} of {counted(len(inventory.tasks), 'task')} {verb} problems, {count} in all")
    return f"{inventory.root}: {' and '.join(parts)}."
