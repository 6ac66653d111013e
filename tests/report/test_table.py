"""Tables are aligned, with numbers flush right."""

from __future__ import annotations

import pytest

from rlrr.report.table import markdown_table, numeric_columns, text_table

COLUMNS = ["method", "accuracy", "protocol", "change"]
ROWS = [["1st", "97.2 %", "paper", "-0.4 ± 0.1"], ["linear probe", "-", "honest", "≈ 12"]]


def test_columns_of_numbers_and_dashes_are_numeric_and_names_are_not() -> None:
    assert numeric_columns(ROWS) == [False, True, False, True]
    assert numeric_columns([["1", "97.2 %"]]) == [False, True]


def test_a_table_for_a_terminal() -> None:
    assert text_table(COLUMNS, ROWS).splitlines() == [
        "method        accuracy  protocol      change",
        "------------  --------  --------  ----------",
        "1st             97.2 %  paper     -0.4 ± 0.1",
        "linear probe         -  honest          ≈ 12",
    ]


def test_a_table_in_markdown() -> None:
    assert markdown_table(["task", "%"], [["a", "100.0"], ["long", "-"]]).splitlines() == [
        "| task |     % |",
        "| ---- | ----: |",
        "| a    | 100.0 |",
        "| long |     - |",
    ]


@pytest.mark.parametrize("form", [text_table, markdown_table])
def test_a_table_without_rows_has_its_heading(form) -> None:
    assert len(form(COLUMNS, []).splitlines()) == 2
