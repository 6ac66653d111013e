"""Relative paths in the recipe of a run: seen from where one works, or else from where the run was started."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

PLACES = ("data", "weights", "model")  # the options that may be paths
_FROM = "# Relative paths here are seen from "
_HUB = "hub:"  # a data set of the Hub may be a folder too


def heading() -> str:
    """Write the comment that begins a recipe, which names the folder that one works in; "" if it is gone."""
    with suppress(OSError):
        return f"{_FROM}{json.dumps(os.getcwd())}\n"
    return ""


def found(options: Mapping[str, Any], text: str) -> dict[str, Any]:
    """Return options in which a path that leads nowhere from here is the path seen from the recipe's own folder.

    Args:
        options: The options in the text.
        text: The text of a recipe, which may have a `heading` below its checksum.
    """
    heads = [line for line in text.splitlines()[:2] if line.startswith(_FROM)]
    try:
        folder = Path(json.loads(heads[0].removeprefix(_FROM))) if heads else Path()
    except (ValueError, TypeError):  # someone has edited it
        return dict(options)
    return {name: _found(name, value, folder) if name in PLACES else value for name, value in options.items()}


def place(value: Any) -> Any:
    """Return a path in the form in which two of them are the same place; another value as it is."""
    if not isinstance(value, str):
        return value
    hub = _HUB if value.startswith(_HUB) else ""
    path = Path(value.removeprefix(_HUB)).expanduser()
    with suppress(OSError):
        if path.exists():
            return f"{hub}{path.resolve()}"
    return value.rstrip("/")


def _found(name: str, value: Any, folder: Path) -> Any:
    if not isinstance(value, str):
        return value
    hub = _HUB if value.startswith(_HUB) else ""
    path = Path(value.removeprefix(_HUB))
    there = folder / path
    with suppress(OSError):
        if not path.expanduser().exists() and (_is_model(there, value) if name == "model" else there.exists()):
            return f"{hub}{there}"
    return value


def _is_model(folder: Path, name: str) -> bool:
    """Tell whether a folder holds a model, and is what its name stands for: timm's own names come first."""
    if not (folder / "config.json").exists():
        return False
    from timm import is_model  # which takes seconds, so only here

    return not is_model(name)
