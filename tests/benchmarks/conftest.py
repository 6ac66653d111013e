"""The scripts of benchmarks/ as modules; they import each other, as Python puts a script's folder on its path."""

import importlib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture
def script(monkeypatch) -> Callable[[str], ModuleType]:
    """One of them, by its name."""
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
    return importlib.import_module
