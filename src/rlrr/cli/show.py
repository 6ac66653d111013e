"""Print results in words, as tables and as JSON."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from rlrr.adapters.record import TENSORS, Record
from rlrr.methods.abilities import abilities
from rlrr.report.table import text_table


def print_json(value: Any) -> None:
    """Print `value` as JSON on stdout; letters that stdout cannot hold are escaped, so that none is lost."""
    text = json.dumps(value, indent=2, ensure_ascii=False)
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        text = json.dumps(value, indent=2)
    print(text)


def print_line(text: str) -> None:
    """Print a line on stdout, above a bar that is being shown."""
    with tqdm.external_write_mode():
        print(text)


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table with aligned columns; columns of numbers are flush right."""
    print(text_table(columns, rows))


def print_record(record: Record, folder: str | Path) -> None:
    """Print the results of a run, and the commands that can follow, in a few lines."""
    metrics, count = record.metrics, record.parameters
    size = (Path(folder) / TENSORS).stat().st_size
    print(
        f"{record.backbone['name']}, {record.method}: "
        f"{record.data['train']} training images, {len(record.classes)} classes"
    )
    print(f"trained    {count['adapter']:,} parameters and {count['head']:,} of the classifier, {size / 1e6:.2f} MB")
    if "val_accuracy" in metrics:
        print(f"validation {metrics['val_accuracy']:.1%} after epoch {metrics['epoch']}")
    if "best_test_accuracy" in metrics:
        accuracy = metrics["best_test_accuracy"]
        print(f"test       {accuracy:.1%}, best test epoch ({metrics['epoch']}): the test images chose it")
    if "test_accuracy" in metrics:
        print(f"test       {metrics['test_accuracy']:.1%} of {record.data['test']} images, read once")
    if skipped := record.data["skipped"]:
        print(f"skipped    {len(skipped)} images that cannot be read (listed in {folder}/rlrr.json)")
    print(f"saved in   {folder}")
    run, merged, exported = (shlex.quote(f"{folder}{ending}") for ending in ("", "-merged", ".onnx"))
    merges = abilities(record.method)["can_merge"]
    ship = f"rlrr merge {run} --output {merged}" if merges else f"rlrr export {run} --output {exported}"
    print(f"next       rlrr predict {run} IMAGE …   or   {ship}")
