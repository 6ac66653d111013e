"""`rlrr data convert`."""

from __future__ import annotations

import shlex
from typing import Any

from rlrr.cli.parser import Parser

USAGE = "SOURCE --output ROOT [--task TASK]"
EXAMPLE = "rlrr data convert vtab-1k.zip --output vtab-1k"
_NOTE = """

Images keep their bytes. A missing list train800val200 is made of train800 and val200.

The pixels of copies differ: the usual copy was saved as JPEG, others hold the images of TensorFlow Datasets. About 10
points of accuracy between them have been reported on CIFAR-100 (issue 3 of visinf/adapter_plus): compare results on one
copy only. Of a whole data set with train, val and test, the first 800 and 200 images are taken. They are the official
ones only if the data set keeps the order of TensorFlow Datasets."""


def add_arguments(parser: Parser) -> None:
    """Take the copy, and the folder to write to."""
    parser.add_argument(
        "source",
        metavar="SOURCE",
        type=str,
        help="Copy of one task or many: a folder, a zip or hub:OWNER/NAME, with the usual lists, with files such as "
        "TASK/train/img_0-label_5.png, or with data sets of images and labels.",
    )
    parser.add_argument(
        "--output", metavar="ROOT", type=str, required=True, help="Folder for the tasks; no task in it is overwritten."
    )
    parser.add_argument(
        "--task",
        metavar="TASK",
        type=str | None,
        default=None,
        help="Convert this task alone. Where SOURCE has one task, whose name is not known: its name.",
    )
    parser.add_json()
    parser.description = (parser.description or "") + _NOTE


def run(options: Any) -> None:
    """Convert the tasks, and print a line for each."""
    from dataclasses import asdict

    from rlrr.cli.show import print_json
    from rlrr.data.benchmarks.convert import convert

    written = convert(options.source, options.output, task=options.task)
    if options.json:
        print_json([asdict(converted) | {"folder": str(converted.folder)} for converted in written])
        return
    for converted in written:
        train, val, test = (f"{converted.images[key]:,}" for key in ("train800", "val200", "test"))
        print(f"{converted.task}: {train} train, {val} val and {test} test images in {converted.folder}")
    print(f"next: rlrr data check {shlex.quote(options.output)}")
