"""Pick the command of `rlrr`. Nothing heavy is imported before the command is known."""

from __future__ import annotations

import logging
import os
import signal
import sys
import warnings
from importlib import import_module
from importlib.metadata import version
from types import FrameType
from typing import Any, NoReturn

from rlrr.cli.parser import Parser
from rlrr.errors import RLRRError, Stopped, UsageError, did_you_mean
from rlrr.threads import spin_briefly

COMMANDS = {
    "demo": "See it work in minutes, offline: a linear probe and RLRR side by side on MNIST digits.",
    "train": "Fine-tune a backbone on a folder of images.",
    "evaluate": "Measure a finished run: accuracy, per-class table, confusion matrix.",
    "predict": "Classify images with a finished run.",
    "analyze": "Look at what tuning did to the weights: spectra, rotations, a report of runs side by side.",
    "merge": "Turn a finished run into a plain timm model, with no cost at inference.",
    "combine": "Combine runs on one backbone and the same classes into one, by weights.",
    "export": "Write a finished run as ONNX, compared with PyTorch.",
    "import": "Turn a checkpoint of the paper's own code into a run.",
    "data check": "Check a copy of VTAB-1k or FGVC: counts, labels, and every image.",
    "data convert": "Turn another copy of VTAB-1k into the layout that everyone reads.",
    "reproduce": "Run VTAB-1k or FGVC by the paper's recipes; one table beside the paper's numbers.",
    "ablate": "Run the paper's ablations on any data; one table beside the paper's numbers.",
    "backbones": "List backbones and what weights their names mean.",
    "methods": "List the ways to fine-tune, or explain one with its settings.",
}
_HELP_FLAGS = ("-h", "--help", "help")
_MODULES = {"import": "import_checkpoint"}  # a command whose name no module can have
_HELP = """usage: rlrr COMMAND ...

Fine-tune any Vision Transformer with 0.3 % of its parameters.

commands:
{commands}

`rlrr COMMAND --help` explains each; options may be written with - or _. `rlrr --version` prints the version.
Exit codes: 0 done, 1 failed, 2 wrong use, 130 stopped by Ctrl-C, 143 by a scheduler (SIGTERM).

example:
  rlrr train flowers/ --model vit_small_focus --output run
  rlrr evaluate run flowers/
  rlrr predict run photo.jpg
  rlrr merge run --output merged
"""


def main(arguments: list[str] | None = None) -> int:
    """Run one command.

    Returns:
        The exit code: 0 done, 1 failed, 2 wrong use, 130 and 143 stopped by SIGINT and SIGTERM.
    """
    spin_briefly()
    arguments = sys.argv[1:] if arguments is None else arguments
    if len(arguments) > 1 and arguments[0] in _HELP_FLAGS:  # `rlrr help train`
        arguments = [*arguments[1:], "--help"]
    if not arguments or arguments[0] in _HELP_FLAGS:
        commands = "\n".join(f"  {name:<12} {text}" for name, text in COMMANDS.items())
        print(_HELP.format(commands=commands), end="", file=sys.stdout if arguments else sys.stderr)
        return 0 if arguments else 2
    name, *rest = arguments
    if name == "--version":
        print(version("rlrr"))
        return 0
    if rest and f"{name} {rest[0]}" in COMMANDS:
        name, rest = f"{name} {rest[0]}", rest[1:]
    if longer := {command: text for command, text in COMMANDS.items() if command.startswith(f"{name} ")}:
        if rest and rest[0] in ("-h", "--help"):
            print("\n".join(f"rlrr {command:<12} {text}" for command, text in longer.items()))
            return 0
        return _fail(f"It is {' or '.join(f'`rlrr {command}`' for command in longer)}. See `rlrr --help`.", 2)
    if name not in COMMANDS:
        return _fail(f"There is no command {name!r}.{did_you_mean(name, COMMANDS)} See `rlrr --help`.", 2)
    signal.signal(signal.SIGTERM, _interrupt)  # a scheduler's stop is treated as Ctrl-C
    parser = Parser(prog=f"rlrr {name}", description=COMMANDS[name])
    try:
        command = command_module(name)
        parser.usage, parser.epilog = f"rlrr {name} {command.USAGE}", f"example:\n  {command.EXAMPLE}"
        command.add_arguments(parser)
        options = parser.parse(rest)
        _quieten()
        command.run(options)
    except KeyboardInterrupt as interrupt:
        return _fail("Stopped.", 128 + Stopped.by(interrupt, "").signal)
    except Stopped as stopped:
        return _fail(parser.in_options(stopped), 128 + stopped.signal)
    except RLRRError as error:
        return _fail(parser.in_options(error), 2 if isinstance(error, UsageError) else 1)
    except BrokenPipeError:  # the reader of our output, such as `head`, has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:  # of a path that nothing can be done with, such as one that is too long
        where = "" if error.filename is None else f"{str(error.filename)[:100]}: "
        return _fail(f"{where}{error.strerror or error}.", 1)
    except (MemoryError, RuntimeError) as error:
        if not _is_want_of_memory(error):
            raise
        return _fail("There is too little memory for this: use smaller images, batches or models.", 1)
    return 0


def command_module(name: str) -> Any:
    """Import the module of a command."""
    return import_module(f"rlrr.cli.{_MODULES.get(name, name.replace(' ', '_'))}")


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt(number)


def _fail(message: str, code: int) -> int:
    text = message.encode("utf-8", "backslashreplace").decode()  # the name of a file may be no text
    print(f"rlrr: {text}", file=sys.stderr)
    return code


def _is_want_of_memory(error: Exception) -> bool:
    """Tell an error for want of memory, for which torch has no class of its own on the CPU."""
    words = ("out of memory", "not enough memory", "can't allocate memory")
    return isinstance(error, MemoryError) or any(word in str(error) for word in words)


def _quieten() -> None:
    """Let our own warnings through to stderr and keep the libraries' remarks to themselves."""
    logging.basicConfig(level=logging.WARNING, format="rlrr: %(message)s", stream=sys.stderr)
    logging.getLogger("rlrr").setLevel(logging.INFO)
    for library in ("accelerate", "timm"):
        logging.getLogger(library).setLevel(logging.ERROR)
    for library in ("TRANSFORMERS", "HF_HUB", "DATASETS"):  # which set their loggers' levels on import
        os.environ.setdefault(f"{library}_VERBOSITY", "error")
    warnings.simplefilter("ignore")
    sys.stdout.reconfigure(errors="replace")  # type: ignore[union-attr]  # the name of a file may be no text


if __name__ == "__main__":
    sys.exit(main())
