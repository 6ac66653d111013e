"""What is written of a comparison: nobody can take one protocol's number for the other's."""

import json

import pytest
from PIL import Image

from rlrr.compare.ablation import ablation_tables
from rlrr.compare.benchmarks import BENCHMARKS
from rlrr.compare.document import ablation_document, benchmark_document
from rlrr.compare.protocol import Plan
from rlrr.compare.published import published
from rlrr.training.recipe import Recipe

MODEL = "vit_base_patch16_224.orig_in21k"
HONEST, PAPER = Plan(Recipe(data="x")), Plan(Recipe(data="x"), "paper", (42,), (1.0,))


@pytest.fixture
def document(make_result):
    def make(plan=HONEST, changes=None, model=MODEL):
        fgvc = BENCHMARKS["fgvc"]
        percent = [80.0 + seed for seed in plan.seeds[:3]]
        results = {name: make_result(*percent, name=name, plan=plan) for name in fgvc.tasks}
        return benchmark_document("FGVC", fgvc.groups, plan, results, published("fgvc", model, "rlrr"), changes or {})

    return make


def texts(figure) -> str:
    found = [text.get_text() for text in figure.findobj(match=lambda artist: hasattr(artist, "get_text"))]
    return "\n".join(found)


@pytest.mark.parametrize(("plan", "label"), [(HONEST, "last epoch, tested once"), (PAPER, "best test epoch")])
def test_the_label_stands_wherever_the_number_does(document, plan, label):
    made = document(plan)
    assert label in made.text.splitlines()[0]
    assert f"- protocol: {plan.protocol}: {label}" in made.text
    assert label.split(",")[0] in next(line for line in made.text.splitlines() if line.startswith("| task"))
    assert label in made.content["heading"]
    assert all(label in result["label"] for result in made.content["results"].values())
    assert f"ours ± deviation: {label}" in texts(made.picture)


def test_a_reader_is_told_that_the_papers_numbers_are_of_another_kind(document):
    assert "The paper's numbers are best test epochs of one seed" in document().text
    assert "equal methods differ in the paper's favour" in document().text
    assert "So are ours here" in document(PAPER).text
    assert "paper (best test epoch), %" in document().text


def test_the_recipe_is_the_papers_or_is_said_not_to_be(document):
    assert "- recipes: the paper's, one a task" in document().text
    changed = document(changes={"epochs": 2, "image_size": 32}).text
    assert "- recipes: not the paper's recipe: epochs=2, image_size=32" in changed


def test_the_facts_name_backbone_time_and_memory(document):
    text = document().text
    assert f"- backbone: {MODEL}, weights abababababab" in text
    assert "- training: 8 min in all, on CPU" in text  # five times 90 s
    assert "- peak memory: 100 MiB" in text


def test_nothing_printed_is_said_so(document):
    made = document(model="another")
    assert "- paper: nothing printed for rlrr" in made.text
    assert "best test epochs" not in made.text


def test_all_three_files_are_written(document, tmp_path):
    document().write(tmp_path)
    assert (tmp_path / "results.md").read_text().startswith("# FGVC, rlrr: last epoch")
    content = json.loads((tmp_path / "results.json").read_text())
    assert content["lines"][-1]["title"] == "mean of the 5"
    assert content["lines"][-1]["difference"] == pytest.approx(81 - 90.4)
    assert len(content["results"]["cub"]["accuracies"]) == 3
    with Image.open(tmp_path / "results.png") as picture:
        assert picture.width > 800


def test_an_ablation_has_a_table_for_each_of_the_papers_and_one_picture(make_result, tmp_path):
    tables = ablation_tables(["table6", "fig2", "table10"], depth=12)
    results = {
        data: {one.name: make_result(70.0, 72.0, 71.0) for table in tables for one in table.variations}
        for data in ("mnist", "lfw")
    }
    made = ablation_document(tables, HONEST, results)
    made.write(tmp_path)
    assert made.text.count("\n## ") == 3
    assert "paper: FGVC mean, %" in made.text
    assert "paper: VTAB-1k natural / specialized / structured, %" in made.text
    assert "± is the sample deviation over 3 seeds" in made.text
    assert [axes.get_title("left") for axes in made.picture.axes] == [table.title for table in tables]
    assert set(made.content["tables"]) == {"table6", "fig2", "table10"}


def test_an_ablation_of_which_nothing_is_there_yet_can_be_written(tmp_path):
    tables = ablation_tables(["table6", "table11"], depth=12)
    ablation_document(tables, HONEST, {"mnist": {}}).write(tmp_path)
    assert (tmp_path / "results.png").exists()
