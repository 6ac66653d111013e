"""jsonargparse with errors of one sentence, short help, and options that may be written as people write them."""

from __future__ import annotations

import re
from argparse import SUPPRESS, Action, RawDescriptionHelpFormatter
from pathlib import Path
from typing import Any, NoReturn, get_args, get_origin

from jsonargparse import ArgumentParser, DefaultHelpFormatter, Namespace, set_parsing_settings

from rlrr.errors import RLRRError, UsageError, did_you_mean
from rlrr.files import at_line
from rlrr.recipes.files import packaged_recipes, recipe_path
from rlrr.recipes.hints import expected

set_parsing_settings(docstring_parse_attribute_docstrings=True)

_WORDS = {  # from argparse's and jsonargparse's words to ours
    r"unrecognized arguments: (.*)": r"Unexpected: \1. A path with spaces needs quotes.",
    r"argument (--\w+): expected .*": r"\1 needs a value.",
    r"Problems parsing config: (.*)": r"this is not YAML: \1.",
    r"Unexpected config:.*": "it holds no options; each line is one, such as `epochs: 20`.",
}


class Parser(ArgumentParser):
    """A parser whose options take hyphens or underscores and whose errors name the nearest options."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(allow_abbrev=False, print_config=None, formatter_class=_Help, **kwargs)

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
        """Parse a command line. The file behind `--config`, if there is that option, gives the defaults.

        Raises:
            RLRRError: an option or value is wrong, there or in the file.
        """
        arguments = self._normalised(arguments)
        options = self.parse_args(arguments)
        if file := options.get("config"):
            path = Path(file).expanduser()
            if not path.is_file() and file.removesuffix(".yaml") in packaged_recipes():
                path = recipe_path(file)
            try:
                text = path.read_text(encoding="utf-8")
                self.set_defaults(self.parse_string(text, defaults=False).as_dict())
            except OSError as error:
                near = did_you_mean(file, packaged_recipes())
                raise UsageError(
                    f"Cannot read {file}: {error.strerror}. Give a YAML file, or a packaged recipe.{near}"
                ) from None
            except UnicodeDecodeError:
                raise UsageError(f"{file}: it is not a text file. Give a YAML file.") from None
            except RLRRError as error:
                named = re.search(r"option '(\w+)'|^--(\w+)", str(error))
                where = at_line(file, text, (named[1] or named[2]) if named else "")
                raise UsageError(f"{where}: {error}") from None
            options = self.parse_args(arguments)
        return options

    def _normalised(self, arguments: list[str]) -> list[str]:
        """Put underscores into option names, brackets around lists, and `true` behind a switch that stands alone."""
        known = {option: action for action in self._actions for option in action.option_strings}
        result: list[str] = []
        for position, argument in enumerate(arguments):
            if argument == "--":
                return result + arguments[position:]
            name, equals, value = argument.partition("=")
            if not re.match(r"--[A-Za-z]", name):
                of_list = result and _is_list(known.get(result[-1]))
                result.append(f"[{argument}]" if of_list and not argument.startswith("[") else argument)
                continue
            name = "--" + name[2:].replace("-", "_")
            if name not in known:
                raise UsageError(
                    f"There is no option {argument}.{did_you_mean(name, known)} See `{self.prog} --help`.",
                )
            if equals and _is_list(known[name]) and not value.startswith("["):
                value = f"[{value}]"
            result.append(name + equals + value)
            follows = arguments[position + 1].lower() if position + 1 < len(arguments) else ""
            if _is_switch(known[name]) and not equals and follows not in ("true", "false"):
                result[-1] += "=true"
        return result

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raise one sentence in place of the usage and the message."""
        message = " ".join(message.replace('in "<unicode string>", ', "at ").split()).rstrip(".")
        named = {action.dest: action for action in self._actions}
        if match := re.match(r'Parser key "(\w+)"(?: element \d+)?: .*?(?:Got|Given) value: (.*)', message):
            key, value = match.groups()
            words, choices = _expected(named[key])
            message = f"{_label(named[key])} must be {words}, not {value!r}.{did_you_mean(value, choices)}"
        elif match := re.match("the following arguments are required: (.*)", message):
            message = f"Missing: {', '.join(_label(named[name]) for name in match[1].split(', '))}."
        elif match := re.match(r"Option '([^']*)' is not accepted", message):
            message = f"There is no option {match[1]!r}.{did_you_mean(match[1], named)}"
        else:
            message = re.sub(r'Parser key "(\w+)":', r"--\1:", message)
            for theirs, ours in _WORDS.items():
                message, found = re.subn(theirs, ours, message)
                if found:
                    break
            else:
                message += "."
        raise UsageError(f"{message} See `{self.prog} --help`.")


class _Help(RawDescriptionHelpFormatter, DefaultHelpFormatter):
    """An option, what it does, and its default if it has one that says something."""

    def _get_help_string(self, action: Action) -> str:
        silent = action.default in (None, SUPPRESS, []) or action.default is False
        default = " ".join(action.default) if isinstance(action.default, list) else "%(default)s"
        return f"{action.help}" + ("" if silent else f" (default: {default})")

    def _format_action_invocation(self, action: Action) -> str:
        if _is_switch(action):
            return action.option_strings[0] + (" {true,false}" if action.default is True else "")
        if _is_list(action) and action.option_strings:
            return f"{action.option_strings[0]} A,B"
        return super()._format_action_invocation(action)

    def _get_default_metavar_for_optional(self, action: Action) -> str:
        words, choices = _expected(action)
        if choices:
            return "{" + ",".join(choices) + "}"
        return {"a whole number": "N", "a number": "X"}.get(words, action.dest.upper())


def _is_switch(action: Action) -> bool:
    return getattr(action, "_typehint", None) is bool


def _is_list(action: Action | None) -> bool:
    hint: Any = getattr(action, "_typehint", None)
    return any(get_origin(kind) is list for kind in (hint, *get_args(hint)))


def _label(action: Action) -> str:
    return action.option_strings[0] if action.option_strings else str(action.metavar)


def _expected(action: Action) -> tuple[str, tuple[str, ...]]:
    """What an option takes, in words, and its choices if they are fixed."""
    if _is_list(action):
        return "a list, as A,B", ()
    return expected(getattr(action, "_typehint", None) or action.type)
