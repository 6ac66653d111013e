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
from collections.abc import Mapping
from functools import partial
from typing import Any, Literal, NoReturn, get_args, get_origin

import yaml

from rlrr.cli.guesses import guess
from rlrr.errors import RLRRError, UsageError, did_you_mean
from rlrr.hints import expected, members
from rlrr.recipes.files import parse_yaml

_METAVARS = {int: "N", float: "X"}
_TRUTHS = ("true", "false", "yes", "no", "on", "off")  # words after a switch that are its value, though not all will do
_PAIR = re.compile(r"[A-Za-z]\w*=")
_NEGATIVE = re.compile(r"-(?:inf|nan|(?:\d+\.?\d*|\.\d+)e[+-]?\d+)", re.IGNORECASE)


class Parser(ArgumentParser):
    """A parser whose `type` may be a type hint and whose errors name the nearest options."""

    def __init__(self, **options: Any) -> None:
        self.hints: dict[str, Any] = {}
        self.arguments: dict[str, str] = {}  # the option of each Python argument
        super().__init__(
            add_help=False,
            allow_abbrev=False,
            exit_on_error=False,
            formatter_class=RawDescriptionHelpFormatter,
            **{"usage": "%(prog)s [options]"} | options,
        )
        self.add_argument("-h", "--help", action="help", default=SUPPRESS, help="Show this help and exit.")

    def add_argument(self, *names: str, type: Any = None, group: Any = None, **options: Any) -> Any:
        """Add an argument as argparse does, with a type hint for `type`.

        Args:
            names: One name. The name of an option may have underscores, and is shown with hyphens.
            type: A type or a Literal, each with or without None. A bool is a switch, a list is written A,B, and a dict
                NAME=VALUE, once or several times.
            group: The `add_argument_group` under which the help lists the argument.
            options: Further keywords of argparse; the default is added to the help.
        """
        names = tuple(name.replace("_", "-") if name.startswith("--") else name for name in names)
        self.hints |= dict.fromkeys(names, type)
        self.arguments |= {_destination(name): name for name in names if name.startswith("--")}
        if type is not None:
            options = _described(type, options)
        return group.add_argument(*names, **options) if group else super().add_argument(*names, **options)

    def add_run(self) -> None:
        """Add the finished run that a command works on, and the path of the backbone's weights."""
        self.add_argument("run", metavar="RUN", type=str, help="Folder of a finished run.")
        self.add_weights()

    def add_weights(self) -> None:
        """Add the path of the weights of the backbone that a run was trained on."""
        self.add_argument(
            "--weights",
            metavar="PATH",
            type=str | None,
            default=None,
            help="File or folder with the backbone's weights, if they have moved since training.",
        )

    def add_images_to_compare(self) -> None:
        """Add the images on which the written model is compared with the run."""
        self.add_argument(
            "--images",
            metavar="IMAGE",
            type=str,
            nargs="+",
            default=[],
            help="Images on which the written model is compared with the run; by default the run's own validation "
            "images.",
        )

    def add_json(self) -> None:
        """Add the switch for a result that machines read."""
        self.add_argument("--json", type=bool, default=False, help="Print the result as JSON.")

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
            self._refuse_unexpected(unexpected[0], arguments)
        for name, hint in self.hints.items():
            if _is(dict, hint) and (pairs := getattr(options, _destination(name), None)) is not None:
                setattr(options, _destination(name), dict(pairs))
        return options

    def _normalised(self, arguments: list[str]) -> list[str]:
        """Write options with hyphens, add `=true` to a lone switch, and give each of several pairs its option."""
        result: list[str] = []
        pairs_of = ""  # the option whose pairs of NAME=VALUE are read
        for position, argument in enumerate(arguments):
            if argument == "--":
                return result + arguments[position:]
            if _NEGATIVE.fullmatch(argument):
                argument = f" {argument}"  # argparse takes it for an option otherwise
            name, equals, value = argument.partition("=")
            if not re.match(r"--[A-Za-z]", name):
                pairs_of = pairs_of if _PAIR.match(argument) else ""
                result.append(f"{pairs_of}={argument}" if pairs_of else argument)
                continue
            if (name := name.replace("_", "-")) not in self.hints:
                self.error(f"There is no option {argument}.{guess(name, self.hints)}".rstrip("."))
            following = arguments[position + 1] if position + 1 < len(arguments) else ""
            pairs_of = name if _is(dict, self.hints[name]) else ""
            if pairs_of and not equals and _PAIR.match(following):
                continue
            if self.hints[name] is bool and not equals and following.lower() not in _TRUTHS:
                equals, value = "=", "true"
            result.append(name + equals + value)
        return result

    def _refuse_unexpected(self, word: str, arguments: list[str]) -> NoReturn:
        before = arguments[max(arguments.index(word) - 1, 0)].replace("_", "-") if word in arguments else ""
        if self.hints.get(before) is bool:
            self.error(f"{before} must be true or false, not {word!r}")
        self.error(f"Unexpected: {word}. A path with spaces needs quotes")

    def in_options(self, error: RLRRError) -> str:
        """Return the sentence of an error with options in the place of Python arguments.

        The library writes an argument as `name`, or begins with the name of a recipe's option (`RLRRError.option`).
        Where it begins with a line of a recipe's file instead, names stay as they are written in that file.
        """
        text = str(error)
        if error.option is None:
            return as_options(text, self.arguments)
        if not text.startswith(f"{error.option} "):
            return _backticked_as_options(text, self.arguments)
        return as_options(f"`{error.option}`{text.removeprefix(error.option)}", self.arguments)

    def error(self, message: str) -> NoReturn:
        """Raise one sentence, in place of argparse's usage and message."""
        message = message.replace("the following arguments are required:", "missing:")
        end = "" if message.endswith("?") else "."
        raise UsageError(f"{message[0].upper()}{message[1:]}{end} See `{self.prog} --help`.")


def as_options(text: str, options: Mapping[str, str]) -> str:
    """Write the Python arguments that a text names as options.

    An argument is recognised in backticks, or by an underscore in its name. Paths, values in quotes and `name=value`
    stay as they are.

    Args:
        text: A message or a help text.
        options: The option of each Python argument, such as "--image-size" of "image_size".
    """
    bare = re.compile(r"(?<![\w./'\"`=-])[a-z]+(?:_[a-z]+)+(?![\w/'\"`=-]|\.\w)")
    return bare.sub(lambda match: options.get(match[0], match[0]), _backticked_as_options(text, options))


def _backticked_as_options(text: str, options: Mapping[str, str]) -> str:
    return re.sub(r"`(\w+)`", lambda match: options.get(match[1], match[0]), text)


def _described(hint: Any, options: dict[str, Any]) -> dict[str, Any]:
    """Tell argparse how a value of a type is read, and how it is shown in the help."""
    default, choices = options.get("default"), expected(hint)[1]
    metavar = "{" + ",".join(choices) + "}" if choices else _METAVARS.get(members(hint)[0])
    shown = default
    if hint is bool:
        metavar = "{true,false}" if default is True else ""
    elif _is(list, hint):
        metavar = "A,B"
    elif _is(dict, hint):
        metavar = "NAME=VALUE"
        options |= {"action": "append"}
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
        ArgumentTypeError: the text is no value of that type.
    """
    if text == "null" and members(hint) != (hint,):
        return None
    if str in members(hint) and re.match(r"[A-Za-z][\w+.-]*://", text):
        raise ArgumentTypeError(f"must be on this machine, not {text!r}: download it first")
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
    raise ArgumentTypeError(f"must be {words}, not {text.lstrip()!r}.{did_you_mean(text, choices)}")


def _read_pair(hint: Any, text: str) -> tuple[str, Any]:
    """Read one `name=value`, with the value in YAML.

    Raises:
        ArgumentTypeError: the text is no `name=value`, or the value is not YAML.
    """
    name, equals, value = text.partition("=")
    if not (name and equals):
        raise ArgumentTypeError(f"takes name=value, not {text!r}")
    try:
        return name, parse_yaml(value)
    except yaml.YAMLError:
        raise ArgumentTypeError(f"takes values in YAML, not {value!r}") from None


def _is(kind: type, hint: Any) -> bool:
    return any((get_origin(member) or member) is kind for member in members(hint))


def _destination(name: str) -> str:
    return name.lstrip("-").replace("-", "_")
