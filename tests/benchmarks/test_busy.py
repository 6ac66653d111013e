"""What spinning threads cost: the environment of each setting, and ratios within a turn."""

import pytest

from rlrr.files import read_json

pytestmark = pytest.mark.slow


@pytest.fixture
def busy(script):
    return script("busy")


def test_every_setting_runs_quiet_and_busy_in_each_turn(busy, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(busy, "seconds_of_training", lambda command, variables, state: 3.0 if state else 2.0)
    busy.main(turns=2, spin_counts=[50], output=tmp_path)
    rows = [line.split("|") for line in capsys.readouterr().out.splitlines()[2:]]
    assert [row[1].strip() for row in rows] == ["torch", "rlrr", "spin count 50", "passive", "one thread"]
    assert all("1.50" in row[5] for row in rows)
    assert len(read_json(tmp_path / "busy.json")["runs"]) == 2 * 2 * len(rows)
    assert (tmp_path / "busy.md").exists()


@pytest.mark.soak
def test_a_training_beside_a_busy_process_is_timed(busy, tiny_backbone, images):
    command = f"train {images} --model {tiny_backbone} --epochs 1 --method linear"
    assert busy.seconds_of_training(command, {"OMP_NUM_THREADS": "1"}, True) > 0


def test_a_command_sees_the_setting_and_nothing_else_of_openmp(busy, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    seen = []

    def run(words, env, **options):
        seen.append({name: env[name] for name in busy.OPENMP if name in env})
        raise KeyboardInterrupt

    monkeypatch.setattr(busy.subprocess, "run", run)
    settings = busy.settings([50])
    for variables in settings.values():
        with pytest.raises(KeyboardInterrupt):
            busy.seconds_of_training("train", variables, False)
    assert seen == list(settings.values())
    assert {} in seen
    assert {"GOMP_SPINCOUNT": "50"} in seen


def test_ratios_are_between_runs_of_one_turn(busy):
    runs = [
        {"turn": turn, "setting": name, "busy": state, "seconds": seconds * (turn + 1)}
        for turn in (0, 1)
        for name, quiet, loaded in (("torch", 5.0, 50.0), ("rlrr", 5.5, 11.0))
        for state, seconds in ((False, quiet), (True, loaded))
    ]
    torch_row, rlrr_row = busy.summary(runs).splitlines()[2:]
    assert "10.0 (10.0–10.0)" in torch_row  # noqa: RUF001
    assert "1.10 (1.10–1.10)" in rlrr_row  # noqa: RUF001
    assert "2.00 (2.00–2.00)" in rlrr_row  # noqa: RUF001
