"""Type hints: whether a value fits one, and the words for it in a message."""

from __future__ import annotations

import types
from collections.abc import Collection, Mapping
from typing import Any, Literal, Union, get_args, get_origin

_WORDS = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "text",
    list: "a list",
    set: "a list",
    tuple: "a list",
    dict: "names with values",
}


def fits(value: Any, hint: Any) -> bool:
    """Tell whether a value, as YAML gives it, is of a type; a whole number is a number too, and true is not 1."""
    kind, of = get_origin(hint) or hint, get_args(hint)
    if hint is Any:
        return True
    if kind in (Union, types.UnionType):
        return any(fits(value, member) for member in of)
    if kind is Literal:
        return any(value == choice and type(value) is type(choice) for choice in of)
    if hint is None or value is None:
        return value is None and hint in (None, types.NoneType)
    if kind is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if isinstance(value, bool) or kind is bool:
        return isinstance(value, bool) and kind is bool
    if not isinstance(kind, type):
        return True  # a hint that says more than a class
    if issubclass(kind, Mapping):
        return isinstance(value, Mapping) and all(fits(k, of[0]) and fits(v, of[1]) for k, v in value.items() if of)
    if issubclass(kind, Collection) and not issubclass(kind, str):
        return isinstance(value, (list, set, tuple)) and all(fits(member, of[0]) for member in value if of)
    return isinstance(value, kind)


def expected(hint: Any) -> tuple[str, tuple[str, ...]]:
    """Say what a value of this type is, leaving None out, and give its choices if some are fixed."""
    words, choices = [], []
    for kind in members(hint):
        if get_origin(kind) is Literal:
            choices += [str(choice) for choice in get_args(kind)]
            words.append(f"one of {', '.join(choices)}")
        else:
            words.append(_WORDS.get(get_origin(kind) or kind, _WORDS[str]))
    return " or ".join(dict.fromkeys(words)), tuple(choices)


def is_plain(hint: Any) -> bool:
    """Tell whether YAML can hold some value of a type beside None."""
    return any(kind is Any or (get_origin(kind) or kind) in (*_WORDS, Literal) for kind in members(hint))


def members(hint: Any) -> tuple[Any, ...]:
    """Give the types that a hint allows beside None: itself, or the members of a union."""
    if (get_origin(hint) or hint) in (Union, types.UnionType):
        return tuple(kind for kind in get_args(hint) if kind is not types.NoneType)
    return (hint,)
