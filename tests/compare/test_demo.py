"""The demo, on a tiny backbone and few images."""

from __future__ import annotations

import json
import re

import pytest

from rlrr.compare.demo import COLUMNS, COMPARED, demo_recipe, run_demo
from rlrr.errors import RLRRError
from rlrr.recipes.recipe import Recipe

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def recipe(tiny_backbone, images) -> Recipe:
    return Recipe(data=str(images), model=tiny_backbone, epochs=1, batch_size=8, precision="fp32")


@pytest.fixture(scope="module")
def demo(recipe, tmp_path_factory):
    folder = tmp_path_factory.mktemp("demos") / "my demo"
    said: list[str] = []
    return folder, run_demo(recipe, folder, say=said.append), said


def test_its_own_recipe_is_read():
    recipe = demo_recipe()
    assert (recipe.data, recipe.model) == ("sample:mnist", "vit_small_focus")


def test_every_file_is_there(demo):
    folder, outcomes, said = demo
    assert tuple(outcomes) == COMPARED
    assert len(said) == len(COMPARED)
    assert {path.name for path in folder.iterdir()} == {"linear", "rlrr", "curves.png", "report.html", "results.json"}
    for method in COMPARED:
        files = {path.name for path in (folder / method).iterdir()}
        assert {"rlrr.json", "recipe.yaml", "confusion.png", "predictions.png", "evaluation.json"} <= files


def test_the_results_are_those_of_the_table(demo):
    folder, outcomes, _ = demo
    results = json.loads((folder / "results.json").read_text())
    for method, outcome in outcomes.items():
        row, found = dict(zip(COLUMNS, outcome.row, strict=True)), results[method]
        assert row["test accuracy"] == f"{found['test_accuracy']:.1%}"
        assert row["trained parameters"] == f"{found['trained_parameters']:,}"
        assert row["file"] == f"{found['file_bytes'] / 1e6:.2f} MB"
        assert found["test_accuracy"] == outcome.record.metrics["test_accuracy"]
        assert found["file_bytes"] == (folder / method / "adapter_model.safetensors").stat().st_size


def test_the_report_shows_the_table_and_all_pictures_and_needs_no_network(demo):
    folder, outcomes, _ = demo
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert page.count("<svg ") == 1 + 2 * len(COMPARED)
    assert not re.search(r'(?:src|href)="(?!data:|#)', page)
    for outcome in outcomes.values():
        for cell in outcome.row:
            assert f">{cell}<" in page
    assert f"&#39;{folder}/rlrr&#39;" in page  # quoted, for its name has a space


def test_an_earlier_demo_is_refused_resumed_or_overwritten(demo, recipe):
    folder, _, _ = demo
    before = (folder / "results.json").read_bytes()
    with pytest.raises(RLRRError, match=r"resume.*overwrite"):
        run_demo(recipe, folder)
    (folder / "results.json").unlink()
    run_demo(recipe, folder, resume=True)
    assert (folder / "results.json").read_bytes() == before


def test_a_folder_with_other_files_is_refused_and_left_alone(recipe, tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(RLRRError, match=r"holds something else \(thesis\.txt\)"):
        run_demo(recipe, tmp_path, overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]
