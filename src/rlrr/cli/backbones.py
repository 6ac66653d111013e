"""`rlrr backbones`."""

from __future__ import annotations

from textwrap import fill
from typing import TYPE_CHECKING, Any

from rlrr.cli.parser import Parser

if TYPE_CHECKING:
    from rlrr.backbones import BackboneInfo

USAGE = "[options]"
EXAMPLE = "rlrr backbones"
WIDTH = 79


def add_arguments(parser: Parser) -> None:
    """Take the form of the output."""
    parser.add_argument("--json", type=bool, default=False, help="Print the list as JSON.")


def run(options: Any) -> None:
    """Print the backbones that the papers use, and the packaged one."""
    from rlrr.backbones import backbones
    from rlrr.cli.show import print_json

    infos = backbones()
    if options.json:
        print_json([info.__dict__ for info in infos])
        return
    for info in infos:
        _print_block(info)
    closing = (
        "Weights that are not on this machine are downloaded when first used, from the Hugging Face Hub or from their "
        "authors' server. --weights FILE reads a local file instead: the file named above (.npz, .pth, .pth.tar; only "
        "tensors are unpickled) or a .safetensors. Any other timm name with its tag works too, and so does a local "
        "timm folder."
    )
    print(fill(closing, WIDTH, break_on_hyphens=False))


def _print_block(info: BackboneInfo) -> None:
    where = "on this machine" if info.available else "to be downloaded"
    print(f"{info.name}  {info.parameters:.0f} M  {info.image_size} px  {where}")
    mean, std = (" ".join(f"{value:.3g}" for value in values) for values in (info.mean, info.std))
    lines = {
        "trained": info.weights,
        "file": info.file,
        "mean": f"{mean}, std {std}",
        "used by": ", ".join(info.used_by),
        "note": info.note,
    }
    for label, text in lines.items():
        if text:
            print(fill(text, WIDTH, initial_indent=f"  {label:<9}", subsequent_indent=" " * 11, break_on_hyphens=False))
    print()
