"""The paper's ablations as options of a recipe."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import timm
import torch

from rlrr.compare.ablation import TABLES, ablation_jobs, ablation_tables, data_names, depth_of
from rlrr.compare.plan import Plan
from rlrr.data import load_data
from rlrr.errors import RLRRError
from rlrr.recipes.recipe import Recipe
from rlrr.training.schedule import step_rates

PLAN = Plan(Recipe(data="sample:digits"), rates=(1.0,))


def of_data(data: str) -> Plan:
    return replace(PLAN, recipe=replace(PLAN.recipe, data=data))


def test_each_printed_row_of_the_papers_tables_is_a_variation():
    for table in ablation_tables(["table6", "table10", "table11"], depth=12):
        assert [table.printed(one) for one in table.variations] == [row.accuracy for row in table.paper.variants]


def test_no_numbers_are_known_of_the_papers_plot():
    (table,) = ablation_tables(["fig2"], depth=12)
    assert [table.printed(one) for one in table.variations] == [{}] * len(table.variations)


@pytest.mark.parametrize(("depth", "firsts"), [(12, [3, 6, 9]), (24, [6, 12, 18]), (2, [1]), (3, [1, 2])])
def test_the_first_quarter_half_and_three_quarters_of_the_blocks_are_adapted(depth, firsts):
    (table,) = ablation_tables(["fig2"], depth)
    layers = [one.settings.get("layers_to_transform") for one in table.variations]
    assert [one for one in layers if one] == [list(range(first)) for first in firsts]


def test_every_variation_is_a_recipe_of_its_own():
    tables = ablation_tables(list(TABLES), depth=12)
    jobs = ablation_jobs(tables, {"digits": PLAN}, Path("out"))["digits"]
    digests = {job.plan.recipe.digest() for job in jobs.values()}
    assert len(digests) == len(jobs)
    assert jobs["full"].plan.recipe == PLAN.recipe


def test_tables_share_the_full_method():
    tables = ablation_tables(["table6", "table11", "table6"], depth=12)
    jobs = ablation_jobs(tables, {"digits": PLAN, "lfw": of_data("sample:lfw")}, Path("out"))
    assert list(jobs) == ["digits", "lfw"]
    assert len(jobs["lfw"]) == 7
    assert jobs["lfw"]["full"].folder == Path("out/lfw/full")
    assert jobs["lfw"]["full"].plan.recipe.data == "sample:lfw"


@pytest.mark.parametrize("schedule", ["cosine", "paper", "restarts"])
def test_the_pull_of_decay_is_the_sum_of_rate_times_decay_over_all_steps(schedule):
    plan = replace(PLAN, recipe=replace(PLAN.recipe, epochs=4, batch_size=50, warmup=0.1, schedule=schedule))
    jobs = ablation_jobs(ablation_tables(["decay"], 2), {"digits": plan}, Path("out"))["digits"]
    data = load_data("sample:digits", val_fraction=plan.recipe.val_fraction, seed=0)
    steps = math.ceil((len(data.train) + len(data.val)) / 50)
    decays = {name: job.plan.recipe.weight_decay for name, job in jobs.items()}
    total = sum(step_rates(plan.recipe, steps, plan.recipe.peak_rate))
    assert decays["decay-product-0"] == 0
    assert decays["decay-product-0.5"] == decays["decay-no-residual-0.5"] == pytest.approx(0.5 / total, rel=1e-4)
    assert decays["full"] == plan.recipe.weight_decay
    with pytest.raises(RLRRError, match="one of `rates`"):
        ablation_jobs(ablation_tables(["decay"], 2), {"digits": replace(plan, rates=(0.3, 1.0))}, Path("out"))


def test_an_unknown_table_is_refused():
    with pytest.raises(RLRRError, match=r"no table 'tabel6'.*Did you mean table6"):
        ablation_tables(["tabel6"], depth=12)


def test_settings_that_no_ablation_varies_are_those_of_all_its_rows():
    plan = replace(PLAN, recipe=replace(PLAN.recipe, settings={"rank": 2}))
    jobs = ablation_jobs(ablation_tables(["fig2"], 2), {"digits": plan}, Path("out"))["digits"]
    assert jobs["full"].plan.recipe.settings == {"rank": 2}
    assert jobs["attn"].plan.recipe.settings == {"rank": 2, "parts": ["attn"]}


@pytest.mark.parametrize(
    ("options", "named"), [({"settings": {"sides": "in"}}, "sets sides"), ({"method": "lora"}, "is of lora")]
)
def test_a_recipe_that_is_an_ablation_itself_is_refused(options, named):
    plan = replace(PLAN, recipe=replace(PLAN.recipe, **options))
    with pytest.raises(RLRRError, match=f"The recipe {named}"):
        ablation_jobs(ablation_tables(["table6"], 12), {"digits": plan}, Path("out"))


def test_two_data_sets_of_one_name_are_refused(tmp_path):
    with pytest.raises(RLRRError, match="have no name of their own"):
        data_names(["sample:digits", str(tmp_path / "digits")])


def test_data_without_test_images_are_refused_before_anything_runs(flat_images):
    with pytest.raises(RLRRError, match="has no test images"):
        ablation_jobs(ablation_tables(["table6"], 12), {"flat": of_data(str(flat_images))}, Path("out"))


@pytest.mark.parametrize(
    ("name", "options", "depth"),
    [
        ("vit_tiny_patch16_224", {"depth": 3, "embed_dim": 48, "num_heads": 3}, 3),
        ("swin_tiny_patch4_window7_224", {"depths": (1, 2), "embed_dim": 24, "num_heads": (1, 2)}, 2),
    ],
)
def test_the_depth_is_read_off_the_model(name, options, depth):
    assert depth_of(timm.create_model(name, **options)) == depth


def test_a_model_whose_blocks_are_not_known_is_refused():
    with torch.device("meta"):
        model = timm.create_model("vgg11")
    with pytest.raises(RLRRError, match="blocks of this VGG are not known"):
        depth_of(model)
