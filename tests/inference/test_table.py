"""Predictions as files."""

import csv
import json

import pytest

from rlrr.errors import UsageError
from rlrr.inference.predict import Prediction
from rlrr.inference.table import expect_table, write_table

PREDICTIONS = [
    Prediction('a, "b"\n.png', ("犬", "cat"), (0.75, 0.25)),
    Prediction("c\udcff.png", ("cat", "犬"), (0.5, 0.5)),
]


def test_csv_has_a_line_for_each_image(tmp_path):
    write_table(path := tmp_path / "out.CSV", PREDICTIONS)
    with path.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
        lines = list(csv.reader(file))
    assert lines == [
        ["image", "class", "probability", "class_2", "probability_2"],
        ['a, "b"\n.png', "犬", "0.75", "cat", "0.25"],
        ["c\udcff.png", "cat", "0.5", "犬", "0.5"],
    ]


def test_json_keeps_every_letter(tmp_path):
    write_table(tmp_path / "out.json", PREDICTIONS)
    write_table(tmp_path / "out.jsonl", PREDICTIONS)
    whole = json.loads((tmp_path / "out.json").read_text(encoding="ascii"))
    assert whole[0] == {
        "image": 'a, "b"\n.png',
        "top": [{"class": "犬", "probability": 0.75}, {"class": "cat", "probability": 0.25}],
    }
    assert whole[1]["image"] == "c\udcff.png"
    assert [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()] == whole


def test_other_endings_and_files_that_exist_are_refused(tmp_path):
    with pytest.raises(UsageError, match=r"`output` must end in one of \.csv, \.json, \.jsonl, not 'out\.xlsx'"):
        expect_table(tmp_path / "out.xlsx")
    (tmp_path / "out.csv").touch()
    with pytest.raises(UsageError, match="exists"):
        expect_table(tmp_path / "out.csv")
