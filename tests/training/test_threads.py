"""How OpenMP's threads wait: set by the command line before torch is loaded, and never over the user's own setting."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from joblib import Parallel, delayed

from rlrr.training import threads

WAITING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
REPORT = f"""
import json, os, sys
print(json.dumps([{{name: os.environ.get(name) for name in {WAITING}}}, "torch" in sys.modules]))
"""


@pytest.fixture
def environment(monkeypatch):
    """Let the user have set only these variables."""

    def user_sets(**variables: str) -> None:
        for name in (*WAITING, "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
            monkeypatch.setenv(name, "to be restored")
            monkeypatch.delenv(name)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)

    return user_sets


def run(program: str) -> tuple[dict[str, str | None], bool]:
    done = subprocess.run([sys.executable, "-c", program + REPORT], capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def of_worker() -> dict[str, str | None]:
    import os

    return {name: os.environ.get(name) for name in (*WAITING, "OMP_NUM_THREADS")}


def test_a_command_lets_threads_spin_briefly_before_torch_is_loaded(environment):
    environment()
    program = "from rlrr.cli.main import main; main(['--version'])"
    (policy, *briefly), torch_loaded = list((found := run(program))[0].values()), found[1]
    assert policy is None
    assert all(0 < int(value) < 100_000 for value in briefly)
    assert not torch_loaded


@pytest.mark.parametrize("name", WAITING)
def test_the_setting_of_the_user_stands_alone(environment, name):
    environment(**{name: "7"})
    threads.spin_briefly()
    threads.never_spin()
    assert [value for value in of_worker().values() if value] == ["7"]


def test_importing_the_library_changes_no_environment(environment):
    environment()
    assert run("import rlrr, rlrr.cli.main, rlrr.errors")[0] == dict.fromkeys(WAITING)


def test_processes_of_jobs_have_one_thread_each_that_never_spins(environment):
    environment()
    threads.spin_briefly()
    (found,) = set(map(tuple, (one.items() for one in in_workers())))
    assert dict(found) == {
        "OMP_WAIT_POLICY": "PASSIVE",
        "GOMP_SPINCOUNT": "0",
        "KMP_BLOCKTIME": "0",
        "OMP_NUM_THREADS": "1",
    }


def test_processes_of_jobs_keep_the_settings_of_the_user(environment):
    environment(OMP_NUM_THREADS="3", GOMP_SPINCOUNT="50")
    threads.spin_briefly()
    assert in_workers()[0] == {
        "OMP_WAIT_POLICY": None,
        "GOMP_SPINCOUNT": "50",
        "KMP_BLOCKTIME": None,
        "OMP_NUM_THREADS": "3",
    }


def in_workers() -> list[dict[str, str | None]]:
    return Parallel(n_jobs=2, **threads.worker_settings())(delayed(of_worker)() for _ in range(2))
