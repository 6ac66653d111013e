"""Tables of text: for a page, for a terminal and in Markdown, all with numbers flush right."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

_NUMBER = re.compile(r"[-\N{MINUS SIGN}+±~≈<>≤≥]?\s?\d.*|[-\N{EN DASH}—]?")


@dataclass(frozen=True)
class Table:
    """Rows of text under `columns`; the first cell of a row is its name."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""

    @property
    def numeric(self) -> list[bool]:
        """Tell, by column, whether it is flush right."""
        return numeric_columns(self.rows)


def numeric_columns(rows: Sequence[Sequence[str]]) -> list[bool]:
    """Say for each column but the first, which has names, whether it holds only numbers and dashes."""
    columns = list(zip(*rows, strict=True))
    return [place > 0 and all(_NUMBER.fullmatch(cell) for cell in column) for place, column in enumerate(columns)]


def text_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Align a table for a terminal."""
    header, *lines = _aligned(columns, rows)
    return "\n".join("  ".join(line).rstrip() for line in (header, ["-" * len(cell) for cell in header], *lines))


def markdown_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Write a Markdown table that is aligned in its source too."""
    header, *lines = _aligned(columns, rows)
    numeric = numeric_columns(rows) or [False] * len(columns)
    flush_left, flush_right = ("-" * len(cell) for cell in header), ("-" * (len(cell) - 1) + ":" for cell in header)
    rule = [two if right else one for one, two, right in zip(flush_left, flush_right, numeric, strict=True)]
    return "\n".join(f"| {' | '.join(line)} |" for line in (header, rule, *lines))


def _aligned(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[list[str]]:
    """Pad the cells of each column to one width."""
    numeric = numeric_columns(rows) or [False] * len(columns)
    widths = [max(map(len, cells)) for cells in zip(columns, *rows, strict=True)]
    return [
        [
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(line, widths, numeric, strict=True)
        ]
        for line in (columns, *rows)
    ]
