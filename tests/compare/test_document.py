"""What is written of a comparison: nobody can take one protocol's number for the other's."""

import json
from dataclasses import replace

import pytest
from PIL import Image

from rlrr.compare.ablation import ablation_tables
from rlrr.compare.benchmarks import BENCHMARKS
from rlrr.compare.document import ablation_document, benchmark_document, paper_recipe, recipe_options
from rlrr.compare.plan import Plan
from rlrr.compare.published import published
from rlrr.recipes.recipe import Recipe

MODEL = "vit_base_patch16_224.orig_in21k"
HALF = {"mean": (0.5,) * 3, "std": (0.5,) * 3}
IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
HONEST, PAPER = Plan(Recipe(data="x")), Plan(Recipe(data="x"), "paper", (42,), (1.0,))


@pytest.fixture
def document(make_result):
    def make(plan=HONEST, changes=None, model=MODEL, method="rlrr", own=HALF):
        fgvc = BENCHMARKS["fgvc"]
        percent = [80.0 + seed for seed in plan.seeds[:3]]
        results = {name: make_result(*percent, name=name, plan=plan) for name in fgvc.tasks}
        printed = published("fgvc", model, method)
        return benchmark_document(fgvc, None, plan, results, printed, paper_recipe(changes or {}), own)

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
    made = document()
    assert "The printed numbers are best test epochs of one seed" in made.text
    assert "an equally good method looks worse here" in made.text
    assert "So are ours here" in document(PAPER).text
    assert "printed (best test epoch, one seed), %" in made.text
    assert "printed: best test epoch, one seed" in texts(made.picture)


def test_numbers_that_others_printed_are_not_said_to_be_best_test_epochs(document):
    made = document(method="linear")
    assert "best test epoch" not in made.text + texts(made.picture)
    assert "printed (protocol not known), %" in made.text
    assert "V-PETL Bench); protocol not known" in made.text
    assert "How the printed numbers came about is not known" in made.text
    assert "printed: protocol not known" in texts(made.picture)


def test_it_is_said_what_a_backbone_was_trained_with_if_the_recipe_normalizes_otherwise(document):
    half = replace(HONEST, recipe=replace(HONEST.recipe, normalization="half"))
    said = f"- normalization: half, by the recipe; {MODEL} was trained with mean 0.485 0.456 0.406, deviation 0.229"
    assert said in document(half, own=IMAGENET).text
    assert "normalization" not in document(half).text
    assert "normalization" not in document(own=IMAGENET).text


def test_a_copy_that_is_not_whole_is_said_so(make_result):
    fgvc = BENCHMARKS["fgvc"]
    whole = {"train": 5394 + 600, "val": 600, "test": 5794}
    for images, said in ((whole, False), (whole | {"test": 10}, True)):
        results = {"cub": replace(make_result(80.0), images=images)}
        text = benchmark_document(fgvc, None, HONEST, results, None, "", HALF).text
        assert ("as in the original: cub 5,994 and 10 of 5,994 and 5,794" in text) is said


@pytest.mark.parametrize(("device", "whose"), [("CPU, 2 threads", "process"), ("NVIDIA H200", "GPU")])
def test_peak_memory_is_said_to_be_that_of_the_device(make_result, device, whose):
    results = {"cub": replace(make_result(80.0), device=device)}
    made = benchmark_document(BENCHMARKS["fgvc"], None, HONEST, results, None, "", HALF)
    assert f"- peak memory: 100 MiB, of the {whose}" in made.text


def test_the_recipe_is_the_papers_or_is_said_not_to_be(document):
    assert "- recipe: the paper's, one a task" in document().text
    changed = document(changes={"epochs": 2, "image_size": 32}).text
    assert "- recipe: not the paper's recipe: epochs=2, image_size=32" in changed


def test_the_facts_name_backbone_time_and_memory(document):
    text = document().text
    assert f"- backbone: {MODEL}, weights abababababab" in text
    assert "- training: 8 min in all, on CPU" in text  # five times 90 s
    assert "- peak memory: 100 MiB" in text


def test_nothing_printed_is_said_so(document):
    made = document(model="another")
    assert "- printed: nothing for rlrr" in made.text
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
    plans, recipes = dict.fromkeys(results, HONEST), dict.fromkeys(results, recipe_options(HONEST.recipe))
    made = ablation_document(tables, plans, results, recipes, HALF)
    made.write(tmp_path)
    assert made.text.count("\n## ") == 3
    assert "printed (best test epoch, one seed): FGVC mean, %" in made.text
    assert "VTAB-1k natural / specialized / structured, %" in made.text
    assert "± is the sample deviation over 3 seeds" in made.text
    assert [axes.get_title("left") for axes in made.picture.axes] == [table.title for table in tables]
    assert set(made.content["tables"]) == {"table6", "fig2", "table10"}


def test_an_ablation_of_which_nothing_is_there_yet_can_be_written(tmp_path):
    tables = ablation_tables(["table6", "table11"], depth=12)
    ablation_document(tables, {"mnist": HONEST}, {"mnist": {}}, {"mnist": "x"}, HALF).write(tmp_path)
    assert (tmp_path / "results.png").exists()


def test_each_recipe_of_an_ablation_is_said_once_with_its_data():
    tables, plans = ablation_tables(["table11"], depth=12), dict.fromkeys(("cub", "cars", "lfw"), HONEST)
    recipes = {"cub": paper_recipe({}), "cars": paper_recipe({}), "lfw": recipe_options(HONEST.recipe)}
    text = ablation_document(tables, plans, {name: {} for name in plans}, recipes, HALF).text
    assert "- recipe: cub, cars: the paper's, one a task; lfw: learning_rate 0.005, epochs 30" in text


def test_an_ablation_by_the_papers_protocol_is_labelled(make_result):
    tables, results = ablation_tables(["table11"], depth=12), {"lfw": {"full": make_result(80.0, plan=PAPER)}}
    text = ablation_document(tables, {"lfw": PAPER}, results, {"lfw": ""}, HALF).text
    assert text.startswith("# Ablations of rlrr on lfw: best test epoch\n")
    assert "## With and without W (Table 11): best test epoch\n" in text
    assert "So are ours here" in text
