"""`rlrr data convert`."""

from __future__ import annotations

import shlex
from typing import Any

from rlrr.cli.parser import Parser

USAGE = "SOURCE --output ROOT [--task TASK]"
EXAMPLE = "rlrr data convert vtab-1k.zip --output vtab-1k"
_NOTE = """

Images are kept as they are in the source, and train800val200 is made of the other two if it is not there. The pixels
of copies differ: the usual one was saved as JPEG, and others hold what TensorFlow Datasets gives. On CIFAR-100 about 10
points of accuracy between them have been reported (issue 3 of visinf/adapter_plus). Compare results on one copy only.
From a whole data set with train, val and test, the first 800 and 200 images are taken; they are the official ones only
if it keeps the order of TensorFlow Datasets."""


def add_arguments(parser: Parser) -> None:
    """Take the copy, and the folder to write to."""
    parser.add_argument(
        "source",
        metavar="SOURCE",
        type=str,
        help="A folder or zip with one task or many, or hub:OWNER/NAME: with lists, as "
        "TASK/train/img_0-label_5.png, or a data set of images and labels.",
    )
    parser.add_argument(
        "--output", metavar="ROOT", type=str, required=True, help="Folder for the tasks; none is overwritten."
    )
    parser.add_argument(
        "--task",
        metavar="TASK",
        type=str | None,
        default=None,
        help="Only this task; or what the only one in SOURCE is, if its name does not tell.",
    )
    parser.description = (parser.description or "") + _NOTE


def run(options: Any) -> None:
    """Convert, and print a line for each task."""
    from rlrr.data.benchmarks.convert import convert

    for done in convert(options.source, options.output, task=options.task):
        train, val, test = (f"{done.images[key]:,}" for key in ("train800", "val200", "test"))
        print(f"{done.task}: {train} train, {val} val and {test} test images in {done.folder}")
    print(f"next: rlrr data check {shlex.quote(options.output)}")
