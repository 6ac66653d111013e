"""Messages in programs that have configured logging, and in others."""

import logging
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from rlrr.inference.progress import show_messages


@contextmanager
def unconfigured() -> Iterator[logging.Logger]:
    """Give the package's logger, in a program that has configured nothing; pytest has, before each test."""
    package, root = logging.getLogger("rlrr"), logging.getLogger()
    kept, level = (package.handlers, root.handlers), package.level
    package.handlers, root.handlers = [], []
    package.setLevel(logging.NOTSET)
    try:
        yield package
    finally:
        package.handlers, root.handlers = kept
        package.setLevel(level)


def test_messages_are_shown_once_where_nothing_is_configured(capsys):
    with unconfigured():
        show_messages()
        show_messages()
        logging.getLogger("rlrr.training.run").info("epoch %d", 1)
    assert capsys.readouterr().err == "rlrr: epoch 1\n"


def test_a_program_that_configures_logging_later_has_the_messages_to_itself(capsys):
    with unconfigured() as package:
        show_messages()
        heard = logging.Handler()
        heard.emit = lambda record: print(f"mine: {record.getMessage()}")
        logging.getLogger().addHandler(heard)
        package.info("epoch 1")
    assert capsys.readouterr() == ("mine: epoch 1\n", "")


def test_a_level_that_was_set_is_kept(capsys):
    with unconfigured() as package:
        package.setLevel(logging.WARNING)
        show_messages()
        package.info("epoch 1")
        package.warning("skipped")
    assert capsys.readouterr().err == "rlrr: skipped\n"


def test_a_program_that_has_configured_logging_is_left_alone():
    with unconfigured() as package:
        logging.getLogger().addHandler(logging.NullHandler())
        show_messages()
        assert package.handlers == []
        assert package.level == logging.NOTSET


@pytest.mark.slow
def test_a_program_that_trains_evaluates_and_analyses_says_so_in_a_pipe(tiny_backbone, images, tmp_path):
    program = f"""
import rlrr
rlrr.train(rlrr.Recipe({str(images)!r}, model={tiny_backbone!r}, epochs=3, batch_size=8, device="cpu"), "run")
print("evaluating")
rlrr.evaluate("run", {str(images)!r}, split="val")
rlrr.analyze("run", "out")
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True)
    lines = done.stderr.splitlines()
    assert "on CPU" in lines[0]
    assert [line.split(":")[1] for line in lines[1:4]] == [f" epoch {epoch} of 3" for epoch in (1, 2, 3)]
    assert sum("measuring" in line for line in lines) == 3  # the test of the run, the evaluation, the analysis
    assert all(line.startswith("rlrr: ") for line in lines)  # also no word of transformers on times of files
    assert done.stdout == "evaluating\n"
