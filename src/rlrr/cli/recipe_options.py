"""The options of a recipe on the command line, made from the fields of `Recipe` and their docstrings."""

from __future__ import annotations

import re
from argparse import SUPPRESS, Namespace
from collections.abc import Collection
from dataclasses import MISSING, fields
from typing import Any, get_type_hints

from docstring_parser import parse_from_object

from rlrr.cli.parser import Parser
from rlrr.methods.table import METHODS
from rlrr.recipes.recipe import GROUPS, Recipe

_NAMES = {"settings": "set"}  # options that are called otherwise on the command line


def add_recipe_options(parser: Parser, names: Collection[str] | None = None) -> None:
    """Take the options of a recipe, grouped, each with its docstring as help.

    Args:
        names: The options to take, shown without defaults and in one group; None for all but `data`, in their groups.
    """
    hints = get_type_hints(Recipe)
    texts = {option.arg_name: option.description or "" for option in parse_from_object(Recipe).params}
    group = parser.add_argument_group("in the place of the recipe's own") if names is not None else None
    for option in fields(Recipe):
        if names is None and option.name in GROUPS:
            group = parser.add_argument_group(GROUPS[option.name])
        if option.name == "data" or (names is not None and option.name not in names):
            continue
        text = re.sub(r"`(\w+)`", _as_option, texts[option.name].replace("\n", " "))
        if option.name == "learning_rate":
            text = (
                f"{text.removesuffix('.')} ({', '.join(f'{m.learning_rate:g} {name}' for name, m in METHODS.items())})."
            )
        if names is None and not any(option.default is silent for silent in (None, False, MISSING)):
            text += f" (default: {str(option.default).lower() if option.default is True else option.default})"
        name = f"--{_NAMES.get(option.name, option.name)}"
        more = {"metavar": "{true,false}"} if option.default is True else {}
        parser.add_argument(name, type=hints[option.name], group=group, default=SUPPRESS, help=text, **more)


def _as_option(argument: re.Match[str]) -> str:
    """Write a Python argument as the option that it is on the command line."""
    return "--" + _NAMES.get(argument[1], argument[1]).replace("_", "-")


def given_options(options: Namespace, names: Collection[str]) -> dict[str, Any]:
    """Give those of these options of a recipe that were given on the command line."""
    written = {name: _NAMES.get(name, name) for name in names}
    return {name: getattr(options, short) for name, short in written.items() if hasattr(options, short)}
