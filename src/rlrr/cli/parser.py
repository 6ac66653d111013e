"""argparse with options described by type hints, errors of one sentence, and hyphens or underscores alike."""

from __future__ import annotations

import re
from argparse import (
    SUPPRESS,
    ArgumentError,
    ArgumentParser,
    ArgumentTypeError,
    Namespace,
    RawDescriptionHelpFormatter,
)
from functools import partial
from typing import Any, Literal, NoReturn, get_args, get_origin

import yaml

from rlrr.errors import RLRRError, UsageError, did_you_mean
from rlrr.hints import expected, members
from rlrr.recipes.files import parse_yaml

_METAVARS = {int: "N", float: "X"}


class Parser(ArgumentParser):
    """A parser whose `type` may be a type hint and whose errors name the nearest options."""

    def __init__(self, **options: Any) -> None:
        self.hints: dict[str, Any] = {}
        super().__init__(
            allow_abbrev=False,
            exit_on_error=False,
            formatter_class=RawDescriptionHelpFormatter,
            **{"usage": "%(prog)s [options]"} | options,
        )

    def add_argument(self, *names: str, type: Any = None, group: Any = None, **options: Any) -> Any:
        """Take an argument as argparse does, with a type hint for `type`.

        Args:
            names: One name; an option's may have underscores, and is shown with hyphens.
            type: A type, a Literal, or one of them or None; a bool is a switch, a list is written A,B and a dict is
                written NAME=VALUE ….
            group: An `add_argument_group` that the help lists it in.
            options: More for argparse; the default is added to the help.
        """
        names = tuple(name.replace("_", "-") if name.startswith("--") else name for name in names)
        self.hints |= dict.fromkeys(names, type)
        if type is not None:
            options = _described(type, options)
        return group.add_argument(*names, **options) if group else super().add_argument(*names, **options)

    def add_run(self) -> None:
        """Take the finished run a command works on, and where its backbone's weights are."""
        self.add_argument("run", metavar="RUN", type=str, help="Folder of a finished run.")
        self.add_weights()

    def add_weights(self) -> None:
        """Take where the weights of the backbone are that a run was trained on."""
        self.add_argument(
            "--weights",
            metavar="PATH",
            type=str | None,
            default=None,
            help="Where the backbone's weights are now, if not where they were in training.",
        )

    def add_images_to_compare(self) -> None:
        """Take the images on which what is written is compared with the run."""
        self.add_argument(
            "--images",
            metavar="IMAGE",
            type=str,
            nargs="+",
            default=[],
            help="Images to compare on; by default the run's own validation images.",
        )

    def parse(self, arguments: list[str]) -> Namespace:
        """Parse a command line.

        Raises:
            UsageError: an option or value is wrong.
        """
        try:
            options, unexpected = self.parse_known_args(self._normalised(arguments))
        except ArgumentError as error:
            self.error(f"{error.argument_name} {error.message.rstrip('.')}")
        if unexpected:
            self.error(f"Unexpected: {unexpected[0]}. A path with spaces needs quotes")
        for name, hint in self.hints.items():
            if _is(dict, hint) and (pairs := getattr(options, _destination(name), None)) is not None:
                setattr(options, _destination(name), dict(pairs))
        return options

    def _normalised(self, arguments: list[str]) -> list[str]:
        """Put hyphens into the names of options, and `=true` behind a switch that stands alone."""
        result: list[str] = []
        for position, argument in enumerate(arguments):
            if argument == "--":
                return result + arguments[position:]
            name, equals, value = argument.partition("=")
            if not re.match(r"--[A-Za-z]", name):
                result.append(argument)
                continue
            if (name := name.replace("_", "-")) not in self.hints:
                self.error(f"There is no option {argument}.{did_you_mean(name, self.hints)}".rstrip("."))
            following = arguments[position + 1].lower() if position + 1 < len(arguments) else ""
            if self.hints[name] is bool and not equals and following not in ("true", "false"):
                equals, value = "=", "true"
            result.append(name + equals + value)
        return result

    def in_options(self, error: RLRRError) -> str:
        """Give the sentence of an error with options in the place of Python arguments.

        The library writes an argument as `name`, or begins with the name of a recipe's option (`RLRRError.option`).
        """
        text = str(error)
        if error.option and text.startswith(f"{error.option} "):
            text = f"`{error.option}`{text.removeprefix(error.option)}"
        options = {_destination(name): name for name in self.hints if name.startswith("--")}
        return re.sub(r"`(\w+)`", lambda match: options.get(match[1], match[0]), text)

    def error(self, message: str) -> NoReturn:
        """Raise one sentence in place of the usage and the message."""
        message = message.replace("the following arguments are required:", "missing:")
        end = "" if message.endswith("?") else "."
        raise UsageError(f"{message[0].upper()}{message[1:]}{end} See `{self.prog} --help`.")


def _described(hint: Any, options: dict[str, Any]) -> dict[str, Any]:
    """Say to argparse how a value of a type is read, and how it is shown in the help."""
    default, choices = options.get("default"), expected(hint)[1]
    metavar = "{" + ",".join(choices) + "}" if choices else _METAVARS.get(members(hint)[0])
    shown = default
    if hint is bool:
        metavar = "{true,false}" if default is True else ""
    elif _is(list, hint):
        metavar = "A,B"
    elif _is(dict, hint):
        metavar = "NAME=VALUE"
        options |= {"nargs": "+", "action": "extend"}
    elif isinstance(default, list):
        shown = " ".join(map(str, default))
    if metavar is not None:
        options.setdefault("metavar", metavar)
    text = options.get("help", "").replace("%", "%%")
    silent = default in (None, SUPPRESS, []) or default is False
    return options | {
        "type": partial(_read_pair if _is(dict, hint) else _read, hint),
        "help": text if silent else f"{text} (default: {str(shown).lower() if hint is bool else shown})",
    }


def _read(hint: Any, text: str) -> Any:
    """Read a value of a type from the command line.

    Raises:
        ArgumentTypeError: it is not of that type.
    """
    if text == "null" and members(hint) != (hint,):
        return None
    for kind in members(hint):
        try:
            if get_origin(kind) is list:
                return [_read(get_args(kind)[0], part.strip()) for part in text.strip("[]").split(",")]
            if get_origin(kind) is Literal:
                return {str(choice): choice for choice in get_args(kind)}[text]
            return {"true": True, "false": False}[text.lower()] if kind is bool else kind(text)
        except (ValueError, KeyError, ArgumentTypeError):
            continue
    words, choices = expected(hint)
    raise ArgumentTypeError(f"must be {words}, not {text!r}.{did_you_mean(text, choices)}")


def _read_pair(hint: Any, text: str) -> tuple[str, Any]:
    """Read `name=value`, with the value in YAML.

    Raises:
        ArgumentTypeError: it is not written so.
    """
    name, equals, value = text.partition("=")
    if not (name and equals):
        raise ArgumentTypeError(f"takes name=value, not {text!r}")
    try:
        return name, parse_yaml(value)
    except yaml.YAMLError:
        raise ArgumentTypeError(f"takes values in YAML, which {value!r} is not") from None


def _is(kind: type, hint: Any) -> bool:
    return any((get_origin(member) or member) is kind for member in members(hint))


def _destination(name: str) -> str:
    return name.lstrip("-").replace("-", "_")
