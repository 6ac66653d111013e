"""Type hints: the check of a value against a hint, and the words for a hint in a message."""

from __future__ import annotations

import types
from collections.abc import Callable, Collection, Mapping
from functools import wraps
from inspect import Parameter, signature
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from rlrr.errors import UsageError, did_you_mean

F = TypeVar("F", bound=Callable[..., Any])

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
    """Tell whether a value from YAML is of a type. A whole number is a number too, and true is not 1."""
    kind, arguments = get_origin(hint) or hint, get_args(hint)
    if hint is Any:
        return True
    if kind in (Union, types.UnionType):
        return any(fits(value, member) for member in arguments)
    if kind is Literal:
        return any(value == choice and type(value) is type(choice) for choice in arguments)
    if hint is None or value is None:
        return value is None and hint in (None, types.NoneType)
    if kind is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if isinstance(value, bool) or kind is bool:
        return isinstance(value, bool) and kind is bool
    if not isinstance(kind, type):
        return True  # a hint that says more than a class
    if issubclass(kind, Mapping):
        if not isinstance(value, Mapping) or not arguments:
            return isinstance(value, Mapping)
        return all(fits(key, arguments[0]) and fits(member, arguments[1]) for key, member in value.items())
    if issubclass(kind, Collection) and not issubclass(kind, str):
        if not isinstance(value, (list, set, tuple)) or not arguments:
            return isinstance(value, (list, set, tuple))
        return all(fits(member, arguments[0]) for member in value)
    return isinstance(value, kind)


def expected(hint: Any) -> tuple[str, tuple[str, ...]]:
    """Describe the values of a type in words, without None, and list the choices if they are fixed."""
    words, choices = [], []
    for kind in members(hint):
        if get_origin(kind) is Literal:
            choices += [str(choice) for choice in get_args(kind)]
            words.append(f"one of {', '.join(choices)}")
        else:
            words.append(_WORDS.get(get_origin(kind) or kind, _WORDS[str]))
    return ", or ".join(dict.fromkeys(words)), tuple(choices)


def is_plain(hint: Any) -> bool:
    """Tell whether YAML can hold some value of a type other than None."""
    return any(kind is Any or (get_origin(kind) or kind) in (*_WORDS, Literal) for kind in members(hint))


def members(hint: Any) -> tuple[Any, ...]:
    """Return the types that a hint allows other than None: the hint itself, or the members of a union."""
    if (get_origin(hint) or hint) in (Union, types.UnionType):
        return tuple(kind for kind in get_args(hint) if kind is not types.NoneType)
    return (hint,)


def checked(function: F) -> F:
    """Let a public function refuse arguments of a wrong type in one sentence.

    Hints that say more than a class, and further keywords (`**options`), are not checked.
    """
    parameters = signature(function).parameters
    places = [name for name, parameter in parameters.items() if parameter.kind is not Parameter.VAR_KEYWORD]

    @wraps(function)
    def call(*arguments: Any, **keywords: Any) -> Any:
        hints = get_type_hints(function)
        for name, value in (dict(zip(places, arguments, strict=False)) | keywords).items():
            if name in places and name in hints and not fits(value, hints[name]):
                words, choices = expected(hints[name])
                if choices:
                    wanted, end = words, did_you_mean(str(value), choices)
                else:
                    wanted, end = str(parameters[name].annotation), ""
                raise UsageError(f"`{name}` must be {wanted}, not {value!r:.80} ({type(value).__name__}).{end}")
        return function(*arguments, **keywords)

    return call  # type: ignore[return-value]
