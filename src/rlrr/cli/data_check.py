"""`rlrr data check`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING, Any, Literal, Protocol

from rlrr.cli.parser import Parser
from rlrr.errors import RLRRError, counted

if TYPE_CHECKING:
    from rlrr.data.benchmarks.inventory import Inventory, TaskInventory
    from rlrr.data.review import Review

USAGE = "DATA [options]"
EXAMPLE = "rlrr data check flowers/"
_SHOWN = 20  # problems of one task


def add_arguments(parser: Parser) -> None:
    """Add the data to check, and the form of the result."""
    parser.add_argument(
        "root",
        metavar="DATA",
        type=str,
        help="Images with labels (a folder, sample:NAME or hub:OWNER/NAME), or a copy of VTAB-1k or FGVC, or one task.",
    )
    parser.add_argument(
        "--benchmark",
        type=Literal["vtab1k", "fgvc"] | None,
        default=None,
        help="Benchmark to check, if DATA holds tasks of both.",
    )
    parser.add_argument(
        "--output", metavar="FILE", type=str | None, default=None, help="File for the full result, as JSON."
    )
    parser.add_argument("--json", type=bool, default=False, help="Print the full result as JSON.")


def run(options: Any) -> None:
    """Check data or a copy of a benchmark, and print a table and the problems; fail if there are any."""
    from rlrr.data.benchmarks.inventory import holds_tasks, take_inventory

    root = Path(options.root).expanduser()
    if options.benchmark or holds_tasks(root):
        inventory = take_inventory(root, options.benchmark)
        _show(inventory, lambda: _print(inventory), options)
        if not inventory.clean:
            raise RLRRError(_summary(inventory))
    else:
        from rlrr.data.review import review

        found = review(options.root)
        _show(found, lambda: _print_review(found), options)
        if not found.clean:
            bad = sum(map(len, found.unreadable.values()))
            raise RLRRError(f"{options.root}: {bad} of {counted(sum(found.images.values()), 'image')} cannot be read.")


class _Result(Protocol):
    def to_dict(self) -> dict[str, Any]: ...


def _show(result: _Result, print_words: Callable[[], None], options: Any) -> None:
    """Write a result to the file that is asked for, and print it as JSON or in words."""
    from rlrr.cli.show import print_json
    from rlrr.files import write_json

    if options.output:
        write_json(Path(options.output), result.to_dict())
    if options.json:
        print_json(result.to_dict())
        return
    print_words()
    if options.output:
        print(f"\nwritten  {options.output}")


def _print_review(found: Review) -> None:
    from rlrr.cli.show import print_table
    from rlrr.data.split import enumerated

    rows = []
    for name, number in found.images.items():
        classes = len(found.classes) - len(found.missing_classes[name])
        rows.append([name, *map(str, (number, f"{classes}/{len(found.classes)}", len(found.unreadable[name])))])
    print_table(["split", "images", "classes", "unreadable"], rows)
    for name, absent in found.missing_classes.items():
        if absent:
            print(f"\n{name} has no image of {enumerated(absent)}")
    if found.clean and not found.duplicates and not any(found.missing_classes.values()):
        print("\nNo problems.")


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
