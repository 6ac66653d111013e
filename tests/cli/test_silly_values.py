"""Values that make no sense, of every option: each is taken, or refused in a sentence."""

from __future__ import annotations

import pytest

from rlrr.cli.main import command_module
from rlrr.cli.parser import Parser
from rlrr.errors import RLRRError

SILLY = ("-1", "99999999999999999999", "nan", "inf", "", "犬", "\udce9", "(", "x" * 5000, "/dev/null", "[]")
_LEFT_OUT = ("--help", "--compile", "--workers")  # which start a compiler, or hundreds of processes


def options_of(command: str) -> list[str]:
    parser = Parser(prog="rlrr")
    command_module(command).add_arguments(parser)
    return [name for name in parser.hints if name.startswith("--") and name not in _LEFT_OUT]


def values() -> list:
    cases = []
    for command in ("train", "evaluate", "merge", "combine"):
        for option in options_of(command):
            for value in SILLY:
                cases.append(pytest.param(command, option, value, id=f"{command} {option} {value[:20]!r}"))
    return cases


@pytest.fixture(scope="module")
def run(make_adapter, tmp_path_factory):
    return make_adapter(tmp_path_factory.mktemp("runs") / "run")


@pytest.mark.soak
@pytest.mark.parametrize(("command", "option", "value"), values())
def test_a_silly_value_is_taken_or_refused_in_a_sentence(
    rlrr, images, tiny_backbone, run, tmp_path, monkeypatch, command, option, value
):
    def trained(*arguments, **options):
        raise RLRRError("It would train.")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("rlrr.training.trainer.ClassificationTrainer.train", trained)
    usual = {
        "train": [images, "--model", tiny_backbone, "--output", "new", "--epochs", 1, "--batch-size", 8],
        "evaluate": [run, images, "--output", "new"],
        "merge": [run, "--output", "new"],
        "combine": [run, run, "--output", "new"],
    }
    result = rlrr(command, *usual[command], option, value)
    assert result.code in (0, 1, 2)
    assert "Traceback" not in result.err
    assert result.code == 0 or result.err.splitlines()[-1]


SETTINGS = ("rank", "target_modules", "sides", "layers_to_transform", "fused_blocks", "gradient_tokens", "parts")


@pytest.mark.soak
@pytest.mark.parametrize(
    "value", ["-1", "1e30", ".nan", ".inf", "", "x", "(", "true", "[]", "{}", "[[1]]", "2020-99-99"]
)
@pytest.mark.parametrize("setting", SETTINGS)
def test_a_silly_setting_is_taken_or_refused_in_a_sentence(
    rlrr, images, tiny_backbone, tmp_path, monkeypatch, setting, value
):
    def trained(*arguments, **options):
        raise RLRRError("It would train.")

    monkeypatch.setattr("rlrr.training.trainer.ClassificationTrainer.train", trained)
    result = rlrr(
        "train", images, "--model", tiny_backbone, "--output", tmp_path / "new", "--set", f"{setting}={value}"
    )
    assert result.code in (1, 2)
    assert "Traceback" not in result.err
