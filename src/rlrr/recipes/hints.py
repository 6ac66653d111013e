"""What a type hint takes, in the words of a message."""

from __future__ import annotations

from typing import Any, Literal, get_args, get_origin

_WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text", list: "a list"}


def expected(hint: Any) -> tuple[str, tuple[str, ...]]:
    """What a value of this type is, also of this type or None, and its choices if they are fixed."""
    for kind in (hint, *get_args(hint)):
        if get_origin(kind) is Literal:
            return f"one of {', '.join(get_args(kind))}", get_args(kind)
        if (plain := get_origin(kind) or kind) in _WORDS:
            return _WORDS[plain], ()
    return _WORDS[str], ()
