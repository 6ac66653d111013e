"""The package's messages in a program that has not configured logging, such as a notebook."""

from __future__ import annotations

import logging
import sys

_PACKAGE = logging.getLogger("rlrr")


class _Stderr(logging.Handler):
    """Print messages on stderr until the program configures logging."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print a message, unless a handler of the program shows it."""
        if not logging.getLogger().handlers:
            print(f"rlrr: {record.getMessage()}", file=sys.stderr, flush=True)


def show_messages() -> None:
    """Show the package's messages on stderr, as its commands do, where the program has not configured logging.

    `logging.getLogger("rlrr").setLevel(logging.WARNING)` silences all but warnings.
    """
    if not _PACKAGE.hasHandlers():
        _PACKAGE.addHandler(_Stderr())
        if _PACKAGE.level == logging.NOTSET:
            _PACKAGE.setLevel(logging.INFO)
