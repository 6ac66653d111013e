"""The command line, called in this process."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from rlrr.cli.main import main


@dataclass(frozen=True)
class Result:
    """What a call gave: exit code, stdout, stderr."""

    code: int
    out: str
    err: str


@pytest.fixture
def rlrr(capsys):
    """Call `rlrr` with arguments of any type."""

    def call(*arguments: object) -> Result:
        capsys.readouterr()
        code = main([str(argument) for argument in arguments])
        return Result(code, *capsys.readouterr())

    return call


@pytest.fixture
def refused(rlrr):
    """Call `rlrr` wrongly: it has to end with `code`, nothing on stdout and a message without a traceback."""

    def call(*arguments: object, code: int) -> str:
        result = rlrr(*arguments)
        assert result.code == code, result
        assert result.out == ""
        assert result.err.startswith("rlrr: ")
        assert "Traceback" not in result.err
        return result.err.removeprefix("rlrr: ").rstrip("\n")

    return call


@pytest.fixture
def trained(monkeypatch):
    """The recipes of all trainings of a comparison, in order."""
    from rlrr.compare import protocol

    seen, train = [], protocol.train
    monkeypatch.setattr(protocol, "train", lambda *args, **options: seen.append(args[0]) or train(*args, **options))
    return seen
