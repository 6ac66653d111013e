"""The package itself: its names, found when they are used."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path

import pytest

import rlrr

NAMES = {
    *("RLRRConfig", "RLRRError", "RLRRModel", "Recipe", "ablate", "analyze", "combine", "evaluate", "export", "load"),
    *("merge", "reproduce", "train"),
}


def python(program: str) -> str:
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_importing_it_loads_nothing_heavy():
    heavy = ["torch", "timm", "peft", "transformers", "argparse", "yaml", "numpy", "PIL"]
    assert python(f"import sys, rlrr; print([name for name in {heavy} if name in sys.modules])") == "[]"


def test_all_names_are_there():
    assert set(rlrr.__all__) == NAMES
    for name in rlrr.__all__:
        assert getattr(rlrr, name).__name__ == name


def test_the_names_are_listed_before_and_after_they_are_used_and_no_others():
    assert python("import rlrr; print(dir(rlrr) == sorted(rlrr.__all__))") == "True"
    assert python("import rlrr; rlrr.Recipe; rlrr.RLRRError; print(dir(rlrr) == sorted(rlrr.__all__))") == "True"


def test_other_names_are_not_there():
    with pytest.raises(AttributeError, match="trian"):
        rlrr.trian  # noqa: B018


def test_it_has_a_version_and_is_typed():
    assert rlrr.__version__ == version("rlrr")
    assert files("rlrr").joinpath("py.typed").is_file()


def test_it_is_a_program_too():
    done = subprocess.run([sys.executable, "-m", "rlrr", "--version"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, f"{rlrr.__version__}\n")
    assert subprocess.run([sys.executable, "-m", "rlrr", "trian"], capture_output=True).returncode == 2


def test_every_command_on_runs_has_a_name_in_python_too():
    from rlrr.cli.main import COMMANDS

    elsewhere = {"demo", "import", "data check", "data convert", "backbones", "methods"}
    assert {name for name in COMMANDS if name not in elsewhere} - NAMES == {"predict"}  # of what `load` gives


def test_the_names_of_the_readme_are_there():
    readme = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    assert {name for name in re.findall(r"\brlrr\.([A-Za-z]\w+)\(", readme)} <= NAMES
