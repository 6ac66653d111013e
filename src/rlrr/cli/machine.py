"""The options by which a run is loaded and computed, the same in all commands."""

from __future__ import annotations

from argparse import Namespace
from typing import Any, Literal

from rlrr.cli.parser import Parser

_OPTIONS: dict[str, tuple[Any, Any, str]] = {  # type, default and help of each
    "device": (str, "auto", "Device: auto (a GPU if there is one), cpu, cuda, a GPU by number such as cuda:1, or mps."),
    "precision": (
        Literal["auto", "fp32", "bf16", "fp16"],
        "fp32",
        "Arithmetic: auto is bf16 where the device has it in hardware, else fp32.",
    ),
    "batch_size": (int | None, None, "Images in a batch; by default a number by device and image size."),
    "workers": (int, 0, "Processes that load images; 0 loads them in the main process."),
    "threads": (int | None, None, "Threads for computing on the CPU; by default all that this process may use."),
}


def add_machine(parser: Parser, *names: str) -> None:
    """Add the options of these names, or all, in a group of their own."""
    group = parser.add_argument_group("machine")
    for name in names or _OPTIONS:
        kind, default, text = _OPTIONS[name]
        parser.add_argument(f"--{name}", type=kind, default=default, group=group, help=text)


def machine_of(options: Namespace) -> dict[str, Any]:
    """Collect the machine's options that a command has, and `weights`, as Python's functions take them."""
    return {name: getattr(options, name) for name in ("weights", *_OPTIONS) if hasattr(options, name)}
