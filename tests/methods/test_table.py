"""The table of methods."""

import subprocess
import sys

import pytest

from rlrr.methods.table import METHODS


@pytest.mark.parametrize("name", METHODS)
def test_every_row_is_whole(name):
    method = METHODS[name]
    assert method.name == name
    assert method.title
    assert method.summary.endswith(".")
    assert method.learning_rate > 0
    assert (method.config is None) != (method.select is None)
    assert method.select in (None, "head", "everything")


def test_the_table_needs_the_standard_library_alone():
    code = "import sys; sys.modules.update(dict.fromkeys(['torch', 'peft', 'timm', 'yaml'])); import rlrr.methods.table"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
