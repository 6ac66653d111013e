"""`rlrr import`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rlrr.cli.parser import Parser
from rlrr.errors import RLRRError

USAGE = "FILE --model NAME --output FOLDER [options]"
EXAMPLE = "rlrr import cifar.pth --model vit_base_patch16_224.orig_in21k --classes names.txt --output run"


def add_arguments(parser: Parser) -> None:
    """Take the checkpoint, its backbone and classes, and the folder to write to."""
    parser.add_argument("file", metavar="FILE", type=str, help="The .pth file that the paper's trainer saved.")
    parser.add_argument(
        "--model", metavar="NAME", type=str, required=True, help="Backbone of the checkpoint: a timm name or folder."
    )
    parser.add_argument(
        "--output", metavar="FOLDER", type=str, required=True, help="Folder for the run; it must not exist."
    )
    parser.add_argument(
        "--weights",
        metavar="PATH",
        type=str | None,
        default=None,
        help="Local file or folder with the backbone's weights, instead of the Hub.",
    )
    parser.add_argument(
        "--image_size",
        type=int | None,
        default=None,
        help="Side of the square images in pixels; by default the backbone's own.",
    )
    parser.add_argument(
        "--classes",
        metavar="FILE",
        type=str | None,
        default=None,
        help="Text file with the names of the classes in order, one on each line; by default 0, 1, ….",
    )
    parser.add_json()


def run(options: Any) -> None:
    """Import the checkpoint, and say what is not known of the run."""
    from rlrr.cli.show import print_json
    from rlrr.interop.paper_file import import_official
    from rlrr.words import counted

    record = import_official(
        options.file,
        options.output,
        model=options.model,
        weights=options.weights,
        image_size=options.image_size,
        classes=_read_classes(Path(options.classes)) if options.classes else None,
    )
    if options.json:
        print_json(record.__dict__)
        return
    count = record.parameters
    print(f"{record.backbone['name']}, rlrr: {counted(len(record.classes), 'class', 'classes')}")
    print(f"imported   {count['adapter']:,} parameters and {count['head']:,} of the classifier")
    print("images     squashed and normalised as the paper's code does with VTAB-1k")
    print("not known  the data, its accuracy, and how the epoch was chosen")
    print(f"saved in   {options.output}")


def _read_classes(path: Path) -> list[str]:
    try:
        names = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except OSError as error:
        raise RLRRError(f"Cannot read {path}: {error.strerror}. Give a text file with a class on each line.") from None
    except UnicodeDecodeError:
        raise RLRRError(f"{path} is not a text file in UTF-8: give one with a class on each line.") from None
    for number, name in enumerate(names, start=1):
        if not name or name in names[: number - 1]:
            problem = f"names {name!r} again" if name else "is empty"
            raise RLRRError(f"{path}, line {number} {problem}: give each class one line.")
    return names
