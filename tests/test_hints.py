"""Type hints as the words of a message."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Optional

import pytest

from rlrr.errors import UsageError
from rlrr.hints import checked, expected, fits, is_plain


@pytest.mark.parametrize(
    ("value", "hint", "right"),
    [
        (1, int, True),
        (True, int, False),
        (1.0, int, False),
        (1, float, True),
        (True, float, False),
        (True, bool, True),
        (1, bool, False),
        ("a", Literal["a", "b"], True),
        (1, Literal[True], False),
        (None, int | None, True),
        (None, Optional[int], True),  # noqa: UP045 - as PEFT writes it
        (None, int, False),
        ([1, 2], list[int], True),
        ([1, "a"], list[int], False),
        ("ab", list[str], False),
        (["a"], list[str] | str, True),
        ({"a": 1}, dict[str, int], True),
        ({"a": "b"}, dict[str, int], False),
        ({"a": 1}, dict, True),
        ([["a", 1]], dict, False),
        (object(), Any, True),
        (True, bool | Literal["paper"], True),
        ("papr", bool | Literal["paper"], False),
    ],
)
def test_a_value_fits_a_hint(value, hint, right):
    assert fits(value, hint) is right


@pytest.mark.parametrize(
    ("hint", "words", "choices"),
    [
        (int | None, "a whole number", ()),
        (Literal["a", "b"] | None, "one of a, b", ("a", "b")),
        (list[str] | str | None, "a list, or text", ()),
        (bool | Literal["a"], "true or false, or one of a", ("a",)),
    ],
)
def test_a_hint_is_said_in_words(hint, words, choices):
    assert expected(hint) == (words, choices)


def test_only_what_yaml_can_hold_is_plain():
    assert is_plain(list[str] | None)
    assert is_plain(dict | Recorder)
    assert not is_plain(Recorder | None)


class Recorder:
    pass


@checked
def example(
    run: str | Path, runs: Sequence[str | Path] = (), *, split: Literal["a", "b"] | None = None, **options: Any
) -> tuple:
    """Do nothing."""
    return run, runs, split, options


def test_arguments_of_the_right_types_go_through():
    assert example("a", ["b", Path("c")], split="b", more=1) == ("a", ["b", Path("c")], "b", {"more": 1})
    assert example(run=Path("a")) == (Path("a"), (), None, {})
    assert (example.__name__, example.__doc__) == ("example", "Do nothing.")


@pytest.mark.parametrize(
    ("arguments", "options", "words"),
    [
        ((None,), {}, r"`run` must be str | Path, not None (NoneType)."),
        ((), {"run": 5}, r"`run` must be str | Path, not 5 (int)."),
        (("a", "b"), {}, r"`runs` must be Sequence[str | Path], not 'b' (str)."),
        (("a", [1]), {}, r"`runs` must be Sequence[str | Path], not [1] (list)."),
        (("a",), {"split": "c"}, r"`split` must be one of a, b, not 'c' (str)."),
        (("a" * 5, "b" * 500), {}, f"`runs` must be Sequence[str | Path], not '{'b' * 79} (str)."),
    ],
)
def test_arguments_of_other_types_are_one_sentence(arguments, options, words):
    with pytest.raises(UsageError) as caught:
        example(*arguments, **options)
    assert str(caught.value) == words


def test_arguments_that_are_missing_are_pythons_error():
    with pytest.raises(TypeError, match="run"):
        example()
