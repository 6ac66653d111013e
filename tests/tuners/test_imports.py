"""A method's folder stands on the bases beside it and on nothing else of this package."""

import ast
from pathlib import Path

import pytest

import rlrr.tuners
from rlrr.tuners.registration import METHODS

TUNERS = Path(rlrr.tuners.__file__).parent
BASES = {f"rlrr.tuners.{path.stem}" for path in TUNERS.glob("*.py")}


def imported(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            names |= {f"{node.module}.{alias.name}" if node.module in BASES_OF else node.module for alias in node.names}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    return {name for name in names if name.split(".")[0] == "rlrr"}


BASES_OF = {"rlrr", "rlrr.tuners"}


@pytest.mark.parametrize("method", METHODS)
def test_a_method_imports_the_bases_and_its_own_files_alone(method):
    for path in (TUNERS / method).glob("*.py"):
        strange = {
            name for name in imported(path) if name not in BASES and not f"{name}.".startswith(f"rlrr.tuners.{method}.")
        }
        assert not strange, path.name


def test_every_folder_is_registered_with_peft():
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING, PEFT_TYPE_TO_PREFIX_MAPPING, PEFT_TYPE_TO_TUNER_MAPPING

    assert METHODS
    for method in METHODS:
        assert PEFT_TYPE_TO_CONFIG_MAPPING[method.upper()].method == method
        assert PEFT_TYPE_TO_PREFIX_MAPPING[method.upper()] == f"{method}_"
        assert PEFT_TYPE_TO_TUNER_MAPPING[method.upper()].prefix == f"{method}_"
