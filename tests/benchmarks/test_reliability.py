"""Kills, full disks, damaged files and fuzzed inputs: a sample of benchmarks/reliability.py, and its own mechanisms."""

from __future__ import annotations

import json
import os
import signal
from types import SimpleNamespace

import pytest

from rlrr.errors import RLRRError
from rlrr.files import write_json

pytestmark = pytest.mark.slow

# of each kit a file that matters, with each damage
DAMAGED = [
    ("finished run", "rlrr.json", "predict"),
    ("finished run", "adapter_config.json", "predict"),
    ("finished run", "adapter_model.safetensors", "merge"),
    ("stopped run", "recipe.yaml", "resume"),
    pytest.param("stopped run", "checkpoints/checkpoint-12/optimizer.pt", "resume", marks=pytest.mark.soak),
    pytest.param("merged model", "model.safetensors", "train", marks=pytest.mark.soak),
    ("results", "kitti/result.json", "reproduce"),
]


@pytest.fixture(scope="module")
def modules():
    """The scripts, which are imported by name from their folder."""
    with pytest.MonkeyPatch.context() as patch:
        from importlib import import_module
        from pathlib import Path

        patch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
        names = ("stage", "disturb", "damage", "fuzz", "reliability")
        yield SimpleNamespace(**{name: import_module(name) for name in names})


@pytest.fixture(scope="module")
def stage(modules, tmp_path_factory):
    made = modules.stage.Stage(tmp_path_factory.mktemp("reliability") / "stage")
    made.prepare()
    with pytest.MonkeyPatch.context() as patch:  # the pictures of a report take seconds
        patch.setattr("rlrr.spectral.analyze.write_page", lambda path, *args: write_json(path, "no pictures"))
        yield made


KILLS = [pytest.param(n, marks=[] if n in (1, 3, 6) else pytest.mark.soak) for n in range(7)]


@pytest.mark.parametrize("number", KILLS)  # each command at a file operation, and two by the clock
def test_a_killed_command_ends_as_an_undisturbed_one_when_it_is_called_again(modules, stage, number):
    case = modules.disturb.kill(stage, number, seed=7)
    assert case["ok"], case


@pytest.mark.parametrize("number", range(3))
def test_a_command_on_a_disk_that_fills_says_so_and_goes_on_when_there_is_room(modules, stage, number):
    case = modules.disturb.fill(stage, number, seed=7)
    assert case["ok"], case


def test_without_a_disk_of_its_own_the_disk_is_told_to_be_full(modules, stage, monkeypatch):
    monkeypatch.setattr(modules.disturb, "can_mount", lambda folder: False)
    case = modules.disturb.fill(stage, 2, seed=7)
    assert case["ok"], case
    assert case["free bytes"] == "refused"


@pytest.mark.parametrize(("kit", "file", "command"), DAMAGED)
def test_a_damaged_file_is_named_or_the_answer_is_right(modules, stage, kit, file, command):
    kits = modules.damage.kits(stage)
    cases = [
        case
        for case in modules.damage.cases(kits, repeats=1)
        if (case.kit, str(case.file), case.command) == (kit, file, command)
    ]
    assert {case.damage for case in cases} == {"cut", "flip", "empty", "swap"}
    for case in cases:
        found = modules.damage.damage(stage, kits[kit], case)
        assert found["ok"], found


@pytest.mark.parametrize("kind", ["image", "recipe", "adapter"])
def test_what_hypothesis_makes_is_read_rightly_or_refused_in_a_sentence(modules, stage, kind):
    case = modules.fuzz.fuzz(stage, kind, 7)
    assert case["ok"], case
    assert case["examples"] == modules.fuzz.CHUNK
    assert 0 < case["sentences"] < case["examples"]


# The mechanisms themselves


def test_what_is_wrong_is_seen(modules, stage, tmp_path):
    (tmp_path / "half.json").write_text("{")
    (tmp_path / "half.safetensors").write_bytes(bytes(3))
    (tmp_path / ".x.0123abcd.tmp").mkdir()
    (tmp_path / ".x.0123abcd.tmp" / "half.json").write_text("{")
    assert sorted(modules.stage.half_written(tmp_path)) == ["half.json", "half.safetensors"]
    assert modules.stage.remains(tmp_path) == [".x.0123abcd.tmp"]
    (tmp_path / "result.json").write_text(json.dumps({"seconds": 1, "mean": 2}))
    before = modules.stage.content(tmp_path)
    (tmp_path / "result.json").write_text(json.dumps({"seconds": 2, "mean": 2}))
    assert modules.stage.content(tmp_path) == before
    (tmp_path / "result.json").write_text(json.dumps({"seconds": 2, "mean": 3}))
    assert modules.stage.content(tmp_path) != before


def test_a_command_is_ended_where_it_was_to_be(modules, stage):
    seen = []
    folder = stage.empty()

    def die(number: int) -> None:
        (stage.root / "seen").write_text(str(number))
        if number == 3:
            os.kill(os.getpid(), signal.SIGKILL)

    ended = stage.call(stage.commands["merge"], folder, die)
    assert ended.was_killed
    assert (stage.root / "seen").read_text() == "3"
    assert stage.call(["merge", "nowhere", "--output", "x"], folder).is_sentence
    assert stage.call(["merge", "nowhere"], folder, kill_after=0.0).was_killed
    assert not seen


def test_a_traceback_is_none_of_the_right_ends(modules, stage, monkeypatch):
    def fail(*args: object) -> int:
        raise RuntimeError("bug")

    monkeypatch.setattr(modules.stage, "main", fail)
    ended = stage.call(["merge"], stage.empty())
    assert ended.code == modules.stage.TRACEBACK
    assert not ended.is_sentence


def test_a_measurement_that_was_stopped_goes_on_and_tells_what_went_wrong(modules, tmp_path, monkeypatch):
    done = []

    def cases(part, stage, counts, seed):
        def one(number):
            done.append(number)
            if number == 2 and done.count(2) == 1:
                raise KeyboardInterrupt
            return {"command": "merge", "killed": True, "ok": number != 3}

        return [lambda number=number: one(number) for number in range(5)]

    monkeypatch.setattr(modules.reliability, "cases", cases)
    monkeypatch.setattr(modules.stage.Stage, "prepare", lambda stage: None)
    with pytest.raises(KeyboardInterrupt):
        modules.reliability.main(parts=["kills"], output=tmp_path)
    with pytest.raises(RLRRError, match="1 cases went wrong"):
        modules.reliability.main(parts=["kills"], output=tmp_path)
    assert done == [0, 1, 2, 2, 3, 4]
    assert "5 killed; 4 ended as undisturbed" in (tmp_path / "reliability.md").read_text()
