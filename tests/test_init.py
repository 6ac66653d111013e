"""The package itself: ten names at most, found when they are used."""

from __future__ import annotations

import subprocess
import sys

import pytest

import rlrr


def test_importing_it_loads_nothing_heavy():
    heavy = ["torch", "timm", "peft", "transformers", "argparse", "yaml", "numpy", "PIL"]
    program = f"import sys, rlrr; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_all_names_are_there():
    assert len(rlrr.__all__) <= 10
    for name in rlrr.__all__:
        assert getattr(rlrr, name).__name__ == name


def test_names_are_listed_before_they_are_used():
    program = "import rlrr; print(set(rlrr.__all__) <= set(dir(rlrr)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "True"


def test_other_names_are_not_there():
    with pytest.raises(AttributeError, match="trian"):
        rlrr.trian  # noqa: B018
