"""Picking the command: help, exit codes, and nothing heavy before it is needed."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from rlrr.cli import methods
from rlrr.cli.main import COMMANDS, command_module, main
from rlrr.cli.parser import Parser
from rlrr.errors import RLRRError, Stopped, UsageError


def parse(command: str) -> None:
    program, name, *rest = shlex.split(command, comments=True)
    assert program == "rlrr"
    if rest and f"{name} {rest[0]}" in COMMANDS:
        name, rest = f"{name} {rest[0]}", rest[1:]
    parser = Parser(prog=f"rlrr {name}")
    command_module(name).add_arguments(parser)
    parser.parse(rest)


WANT = "rlrr: There is too little memory for this: use smaller images, batches or models.\n"


def test_without_arguments_it_says_how_it_is_called_and_fails(rlrr):
    result = rlrr()
    assert result.code == 2
    assert result.out == ""
    assert "usage: rlrr COMMAND" in result.err


@pytest.mark.parametrize("flag", ["--help", "-h", "help"])
def test_help_lists_every_command(rlrr, flag):
    result = rlrr(flag)
    assert result.code == 0
    assert result.err == ""
    for name, text in COMMANDS.items():
        assert f"{name} " in result.out
        assert text in result.out


@pytest.mark.parametrize("arguments", [["help", "train"], ["-h", "train"], ["--help", "train"], ["train", "-h"]])
def test_help_is_of_the_command_that_is_named_before_or_after_it(arguments, capsys):
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == 0
    assert capsys.readouterr().out.startswith("usage: rlrr train DATA")


def test_help_of_two_words_and_of_no_command(rlrr, refused, capsys):
    with pytest.raises(SystemExit):
        main(["help", "data", "check"])
    assert capsys.readouterr().out.startswith("usage: rlrr data check")
    assert rlrr("help", "data").out.startswith("rlrr data check")
    assert "Did you mean train?" in refused("help", "trian", code=2)


def test_the_help_names_the_exit_codes(rlrr):
    assert "130 stopped by Ctrl-C, 143" in rlrr("--help").out


def test_the_examples_of_the_help_can_be_parsed(rlrr):
    examples = rlrr("--help").out.partition("example:\n")[2].splitlines()
    assert len(examples) == 4
    for line in examples:
        parse(line)


def test_the_commands_of_the_readme_can_be_parsed(tmp_path, monkeypatch):
    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    commands = re.findall(r"^\s*(rlrr [a-z].*)$|`(rlrr [a-z][^`]*)`", readme, re.MULTILINE)
    assert len(commands) > 4
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "recipe.yaml").write_text("data: flowers")
    for line, inline in commands:
        parse(line or inline)


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_of_a_command_lists_its_options_and_ends_with_an_example_that_works(name, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    with pytest.raises(SystemExit) as end:
        main([*name.split(), "--help"])
    text = capsys.readouterr().out
    assert end.value.code == 0
    assert text.startswith(f"usage: rlrr {name} ")
    assert len(text.partition("\n\n")[0].splitlines()) == 1
    assert "type:" not in text
    assert "null" not in text
    parser = Parser(prog="rlrr")
    command_module(name).add_arguments(parser)
    for option in parser.hints:
        assert option in text or not option.startswith("-")
        assert "_" not in option
    parse(text.rstrip().splitlines()[-1].strip())


def test_help_shows_defaults_and_short_values(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    text = capsys.readouterr().out
    assert "usage: rlrr train DATA [options]\n" in text
    assert "--epochs N " in text
    assert "(default: 30)" in text
    assert "--seed N " in text
    assert "(default: 0)" in text
    assert "--flip  " in text
    assert "--precision {auto,fp32,bf16,fp16}" in text


def test_help_needs_neither_torch_nor_timm():
    program = f"""
import sys
heavy = dict.fromkeys(["torch", "timm", "peft", "transformers", "matplotlib", "sklearn", "numpy"])
sys.modules.update(heavy)  # from now on importing one of them fails
from rlrr.cli.main import main
for arguments in {[["--help"], *([*name.split(), "--help"] for name in COMMANDS)]}:
    try:
        main(arguments)
    except SystemExit as end:
        assert end.code == 0
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("usage: rlrr") == 1 + len(COMMANDS)


def test_a_command_of_two_words_needs_both(rlrr):
    for arguments in (["data"], ["data", "chekc"]):
        result = rlrr(*arguments)
        assert (result.code, result.out) == (2, "")
        assert result.err == "rlrr: It is `rlrr data check` or `rlrr data convert`. See `rlrr --help`.\n"
    result = rlrr("data", "--help")
    assert (result.code, result.err) == (0, "")
    assert result.out.startswith("rlrr data check   Check a copy")


def test_the_version_is_printed(rlrr):
    result = rlrr("--version")
    assert result.code == 0
    assert result.out[0].isdigit()


def test_an_unknown_command_is_met_with_the_nearest(refused):
    assert refused("trian", code=2) == "There is no command 'trian'. Did you mean train? See `rlrr --help`."


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (RLRRError("no"), 1, "rlrr: no\n"),
        (UsageError("no"), 2, "rlrr: no\n"),
        (Stopped("no"), 130, "rlrr: no\n"),
        (KeyboardInterrupt(), 130, "rlrr: Stopped.\n"),
        (KeyboardInterrupt(signal.SIGTERM), 143, "rlrr: Stopped.\n"),
        (OSError(36, "File name too long", "x" * 300), 1, f"rlrr: {'x' * 100}: File name too long.\n"),
        (OSError("odd"), 1, "rlrr: odd.\n"),
        (MemoryError(), 1, WANT),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"), 1, WANT),
        (RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB"), 1, WANT),
    ],
)
def test_exit_codes_tell_failure_from_wrong_use(rlrr, monkeypatch, error, code, message):
    def fail(options):
        raise error

    monkeypatch.setattr(methods, "run", fail)
    result = rlrr("methods")
    assert (result.code, result.out, result.err) == (code, "", message)


def test_an_error_of_our_own_keeps_its_traceback(rlrr, monkeypatch):
    monkeypatch.setattr(methods, "run", lambda options: [][0])
    with pytest.raises(IndexError):
        rlrr("methods")
    monkeypatch.setattr(methods, "run", _fail)
    with pytest.raises(RuntimeError, match="shapes"):
        rlrr("methods")


def _fail(options):
    raise RuntimeError("shapes do not match")


def test_ctrl_c_while_a_command_is_imported_is_a_stop_too(rlrr, monkeypatch):
    def interrupted(name):
        raise KeyboardInterrupt

    monkeypatch.setattr("rlrr.cli.main.command_module", interrupted)
    assert rlrr("methods").code == 130


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_its_result_as_json(command):
    parser = Parser(prog="rlrr")
    command_module(command).add_arguments(parser)
    assert parser.hints["--json"] is bool


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_command_stopped_by_a_signal_tells_which_by_its_exit_code(number, tmp_path):
    config = tmp_path / "recipe.yaml"
    os.mkfifo(config)
    process = subprocess.Popen(
        [sys.executable, "-m", "rlrr.cli.main", "train", "--config", config],
        stderr=subprocess.PIPE,
        text=True,
        # a shell's background job ignores Ctrl-C, and so would what the job starts
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    with config.open("w"):  # which waits until the command reads the file
        process.send_signal(number)
        assert process.wait(timeout=60) == 128 + number
    assert process.stderr.read() == "rlrr: Stopped.\n"


def test_libraries_that_are_imported_later_keep_their_remarks_to_themselves():
    program = """
import logging
from rlrr.cli.main import _quieten
_quieten()
import datasets, huggingface_hub.utils.logging
print([logging.getLogger(name).getEffectiveLevel() >= logging.ERROR for name in ("huggingface_hub", "datasets")])
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.strip() == "[True, True]", done.stderr
