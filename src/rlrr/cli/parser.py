"""jsonargparse with errors of one sentence, and options that may be written as people write them."""

from __future__ import annotations

import re
from typing import Any, NoReturn

from jsonargparse import ArgumentParser, set_parsing_settings

from rlrr.errors import RLRRError, did_you_mean

set_parsing_settings(docstring_parse_attribute_docstrings=True)


class Parser(ArgumentParser):
    """A parser whose options take hyphens or underscores and whose errors name the nearest options."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(allow_abbrev=False, print_config=None, **kwargs)

    def normalised(self, arguments: list[str]) -> list[str]:
        """Put underscores into option names, and `true` behind a switch that stands alone.

        Raises:
            RLRRError: there is no such option.
        """
        known = {option: action for action in self._actions for option in action.option_strings}
        result: list[str] = []
        for position, argument in enumerate(arguments):
            if argument == "--":
                return result + arguments[position:]
            name, equals, value = argument.partition("=")
            if not re.match(r"--[a-z]", name):
                result.append(argument)
                continue
            name = "--" + name[2:].replace("-", "_")
            if name not in known:
                raise RLRRError(
                    f"There is no option {argument}.{did_you_mean(name, known)} See `{self.prog} --help`.",
                    usage=True,
                )
            result.append(name + equals + value)
            follows = arguments[position + 1 : position + 2]
            if getattr(known[name], "_typehint", None) is bool and not equals and follows not in (["true"], ["false"]):
                result[-1] += "=true"
        return result

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raise one sentence in place of the usage and the message."""
        message = re.sub(r'Parser key "(\w+)":\s*', r"--\1: ", message.strip())
        message = re.sub(r"<class '(\w+)'>", r"\1", message).replace("typing.Literal", "one of ")
        message = re.sub(r"\s+", " ", message).rstrip(".")
        raise RLRRError(f"{message}. See `{self.prog} --help`.", usage=True)
