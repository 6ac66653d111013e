"""What commands print keeps its letters where that matters."""

import io
import json
import os
import subprocess
import sys

import pytest

from rlrr.cli.show import print_json

NAMES = ["犬 と 猫", "naïve", "\N{GRINNING FACE}", "a\udcffb"]


@pytest.mark.parametrize("encoding", ["utf-8", "cp1252", "ascii", "cp437", "utf-16"])
def test_json_keeps_every_letter_whatever_stdout_can_hold(monkeypatch, encoding):
    stdout = io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors="replace")
    monkeypatch.setattr(sys, "stdout", stdout)
    print_json(NAMES)
    print_json({"class": "é"})
    stdout.flush()
    text = stdout.buffer.getvalue().decode(encoding)
    decoder = json.JSONDecoder()
    found, end = decoder.raw_decode(text)
    assert found == NAMES
    assert json.loads(text[end:]) == {"class": "é"}
    if encoding == "cp1252":
        assert "é" in text  # of which a person can read more than of an escape


def test_help_is_printed_where_stdout_has_few_letters():
    environment = os.environ | {"PYTHONIOENCODING": "ascii", "COLUMNS": "100"}
    for arguments in (["--help"], ["ablate", "--help"]):
        command = [sys.executable, "-m", "rlrr", *arguments]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert done.stdout
