"""docs/design.md, "Add a method": the page alone makes a method that every command knows."""

import os
import re
import shutil
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import rlrr
from rlrr.training.objective import Batch, CrossEntropy, Objective

PAGE = Path(__file__).parents[2] / "docs" / "design.md"


BLOCKS = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)


@pytest.fixture(scope="module")
def sources(tmp_path_factory) -> Path:
    """A copy of the package in which the page's method has been added, as the page says."""
    package = tmp_path_factory.mktemp("sources") / "rlrr"
    shutil.copytree(Path(rlrr.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__"))
    folder = package / "tuners" / "nudge"
    folder.mkdir()
    files = {match[1]: block for block in BLOCKS if (match := re.match(r"# (\w+\.py)\n", block))}
    assert set(files) == {"__init__.py", "config.py", "layer.py", "model.py"}
    for name, content in files.items():
        (folder / name).write_text(content, encoding="utf-8")
    (row,) = (block for block in BLOCKS if block.startswith("Method("))
    table = package / "methods" / "table.py"
    head, end, rest = table.read_text(encoding="utf-8").partition("    )\n}")
    table.write_text(head + textwrap.indent(row, " " * 8) + end + rest, encoding="utf-8")
    return package.parent


@pytest.mark.slow
def test_it_is_listed_trained_evaluated_analysed_and_merged(sources, tiny_backbone, images, tmp_path):
    run, merged = str(tmp_path / "run"), str(tmp_path / "merged")
    options = ("--set", "start=0.1", "--epochs", "1", "--batch-size", "8", "--precision", "fp32", "--output", run)
    commands = [
        ["methods", "nudge"],
        ["train", str(images), "--model", tiny_backbone, "--method", "nudge", *options],
        ["evaluate", run, str(images)],
        ["analyze", run],
        ["merge", run, "--output", merged],
    ]
    program = f"from rlrr.cli.main import main\nfor command in {commands}:\n    assert main(command) == 0, command"
    environment = {**os.environ, "PYTHONPATH": str(sources)}
    process = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    assert f"{12 * 9 * 768:,}" in process.stdout  # qkv, proj, fc1 and fc2 have 3, 1, 4 and 1 times 768 outputs
    assert (tmp_path / "run" / "analysis" / "report.html").exists()
    assert (tmp_path / "merged" / "config.json").exists()


def test_the_pages_objective_adds_to_the_cross_entropy():
    (code,) = (block for block in BLOCKS if block.startswith("class Pull("))
    names = {"Objective": Objective, "replace": replace}
    exec(code, names)
    model = torch.nn.Linear(3, 2)
    batch = Batch(torch.ones(4, 3), torch.tensor([0, 1, 0, 1]), torch.arange(4))
    plain = CrossEntropy()(model, batch, 0.0)
    outcome = names["Pull"](CrossEntropy(), classes=2, samples=4, strength=0.5)(model, batch, 0.0)
    squares = sum(parameter.square().sum() for parameter in model.parameters())
    torch.testing.assert_close(outcome.loss, plain.loss + 0.5 * squares)
    torch.testing.assert_close(outcome.logs["pull"], squares.detach())
