"""The options of a recipe on the command line, made from the fields of `Recipe` and their docstrings."""

from __future__ import annotations

import re
from argparse import SUPPRESS, Namespace
from collections.abc import Collection
from dataclasses import MISSING, fields
from typing import Any, get_type_hints

from docstring_parser import parse_from_object

from rlrr.cli.parser import Parser
from rlrr.recipes.recipe import GROUPS, Recipe

_NAMES = {"settings": "set"}  # options with another name on the command line
_METAVARS = {"model": "NAME", "method": "NAME", "weights": "PATH"}
_OPTIONS = {
    option.name: f"--{_NAMES.get(option.name, option.name).replace('_', '-')}"
    for option in fields(Recipe)
    if option.name != "data"
}


def add_recipe_options(parser: Parser, names: Collection[str] | None = None) -> None:
    """Add the options of a recipe, in groups, each with the docstring of the field as help.

    Args:
        parser: The parser of a command.
        names: The options to add, shown without defaults and in one group; None for all but `data`, in their groups.
    """
    hints = get_type_hints(Recipe)
    texts = {option.arg_name: option.description or "" for option in parse_from_object(Recipe).params}
    group = (
        parser.add_argument_group("recipe (each option in the place of the recipe's own)")
        if names is not None
        else None
    )
    for option in fields(Recipe):
        if names is None and option.name in GROUPS:
            group = parser.add_argument_group(GROUPS[option.name])
        if option.name == "data" or (names is not None and option.name not in names):
            continue
        text = re.sub(r"`(\w+)`", _as_option, texts[option.name].replace("\n", " "))
        if names is None and not any(option.default is silent for silent in (None, False, MISSING)):
            text += f" (default: {'true' if option.default is True else option.default})"
        form = {}
        if option.name in _METAVARS:
            form["metavar"] = _METAVARS[option.name]
        elif option.default is True:
            form["metavar"] = "{true,false}"
        name = _OPTIONS[option.name]
        parser.add_argument(name, type=hints[option.name], group=group, default=SUPPRESS, help=text, **form)
        parser.arguments[option.name] = name


def _as_option(argument: re.Match[str]) -> str:
    """Write a Python argument as the option that it is on the command line."""
    return "--" + _NAMES.get(argument[1], argument[1]).replace("_", "-")


def given_options(options: Namespace, names: Collection[str]) -> dict[str, Any]:
    """Collect the options of a recipe that were given on the command line, out of the options of these names."""
    destinations = {name: _NAMES.get(name, name) for name in names}
    return {name: getattr(options, key) for name, key in destinations.items() if hasattr(options, key)}
