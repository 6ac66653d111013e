"""The packaged recipes, against a table of the paper's settings of its own."""

import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest
import yaml

from rlrr.data.benchmarks.fgvc import set_of
from rlrr.errors import RLRRError, UsageError
from rlrr.recipes.files import load_recipe, packaged_recipes, recipe_path
from rlrr.recipes.recipe import Recipe
from rlrr.training.schedule import epoch_rates

VTAB1K = """
cifar                 F  3e-3  0.1  5e-5
caltech101            F  1e-3  0.1  5e-5
dtd                   T  2e-3  0.1  5e-5
oxford_flowers102     F  3e-3  0.3  5e-2
oxford_iiit_pet       T  1e-3  0.1  5e-5
svhn                  F  5e-3  0.3  5e-5
sun397                F  1e-3  0.1  5e-5
patch_camelyon        T  3e-3  0.3  5e-2
eurosat               T  1e-3  0.1  5e-5
resisc45              F  3e-3  0.0  5e-5
diabetic_retinopathy  T  5e-3  0.1  5e-5
clevr_count           T  5e-3  0.5  5e-5
clevr_dist            T  1e-2  0.2  5e-5
dmlab                 T  5e-3  0.3  5e-5
kitti                 T  3e-3  0.3  5e-2
dsprites_loc          F  1e-2  0.1  5e-5
dsprites_ori          F  5e-3  0.1  5e-5
smallnorb_azi         F  5e-3  0.3  5e-2
smallnorb_ele         T  1e-3  0.3  5e-5
"""
FGVC = {"dogs": (1e-4, 0.0), "flowers": (3e-3, 0.2), "cub": (3e-3, 0.1), "cars": (3e-3, 0.2), "nabirds": (5e-4, 0.3)}

COMMON = {
    "model": "vit_base_patch16_224.orig_in21k",
    "cooldown": 10,
    "batch_size": 32,
    "drop_path_kind": "paper",
    "crop_mode": "squash",
    "normalization": "half",
}
OF_VTAB1K = {**COMMON, "schedule": "paper", "epochs": 100, "warmup": 0.1, "crop_pct": 1.0}
OF_FGVC = {**COMMON, "weight_decay": 0.05, "flip": True, "crop_pct": 0.875, "random_position": True}
PLAIN = {**OF_FGVC, "schedule": "paper", "epochs": 50, "warmup": 0.2}
RESTARTED = {**OF_FGVC, "epochs": 50, "schedule": "restarts", "restart_epochs": 5, "restart_factor": 1}
AUGMENTED = {
    **OF_FGVC,
    **{"epochs": 100, "schedule": "restarts", "restart_epochs": 10, "restart_factor": 2},
    **{"label_smoothing": 0.1, "mixup": 0.8, "cutmix": 1.0, "ema": 0.9998},
}


def expected():
    for line in VTAB1K.strip().splitlines():
        name, flip, rate, drop, decay = line.split()
        own = {
            "flip": flip == "T",
            "learning_rate": float(rate),
            "drop_path": float(drop),
            "weight_decay": float(decay),
        }
        yield f"vtab1k/{name}", {**OF_VTAB1K, **own}
    for name, (rate, drop) in FGVC.items():
        own = {"learning_rate": rate, "drop_path": drop}
        yield f"fgvc/{name}", {**(RESTARTED if name in ("cub", "dogs") else PLAIN), **own}
        yield f"fgvc_aug/{name}", {**AUGMENTED, **own}


EXPECTED = dict(expected())


def written(name):
    return yaml.safe_load(recipe_path(name).read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", EXPECTED)
def test_a_recipe_has_the_papers_settings_and_no_others(name):
    content = written(name)
    assert content.pop("data")
    assert content == EXPECTED[name]
    assert load_recipe(name) == Recipe(data=written(name)["data"], **EXPECTED[name])


@pytest.mark.parametrize("name", EXPECTED)
def test_the_data_is_in_the_folder_that_readers_know(name):
    folder = Path(written(name)["data"])
    found = folder.name if name.startswith("vtab1k/") else set_of(folder).name
    assert found == Path(name).name


@pytest.mark.parametrize("name", EXPECTED)
def test_the_options_stand_in_the_order_of_the_recipes_own(name):
    order = [field.name for field in fields(Recipe)]
    assert list(written(name)) == sorted(written(name), key=order.index)


def test_there_is_one_recipe_for_each_task_and_the_demos():
    assert packaged_recipes() == sorted([*EXPECTED, "demo"])
    assert sum(name.startswith("vtab1k/") for name in EXPECTED) == 19


@pytest.mark.parametrize("task", ["smallnorb_azi", "dsprites_ori", "dsprites_loc"])
def test_no_image_is_mirrored_whose_label_a_mirror_changes(task):
    assert load_recipe(f"vtab1k/{task}").flip is False


@pytest.mark.parametrize("name", EXPECTED)
def test_the_run_is_as_long_as_the_papers_and_warms_up_for_ten_epochs_or_not_at_all(name):
    rates = epoch_rates(load_recipe(name), 1.0)
    assert len(rates) == (60 if name.startswith("fgvc/") else 110)
    assert rates.index(max(rates)) == (11 if "schedule: paper" in recipe_path(name).read_text() else 0)


@pytest.mark.parametrize("name", EXPECTED)
def test_a_comment_says_what_the_recipe_follows_and_how_the_papers_number_is_got(name):
    text = recipe_path(name).read_text(encoding="utf-8")
    assert "zstarN70/RLRR at 287c772" in text
    assert "--protocol paper" in text
    assert max(map(len, text.splitlines())) <= 120


def test_the_grid_is_named_where_a_value_is_not_in_it():
    grids = {
        "learning_rate": {0.2, 0.1, 0.05, 0.01, 0.005, 0.001, 0.0001},
        "weight_decay": {0.05, 0.01, 0.005, 0.001, 0.0},
        "drop_path": {0.0, 0.1, 0.3, 0.5, 0.7},
    }
    for name in EXPECTED:
        for line in recipe_path(name).read_text(encoding="utf-8").splitlines():
            key, _, rest = line.partition(": ")
            if key in grids:
                assert ("not in the paper's search grid" in rest) == (EXPECTED[name][key] not in grids[key]), name


@pytest.mark.parametrize("name", ["vtab1k/cifar", "vtab1k/cifar.yaml"])
def test_the_ending_may_be_left_out(name):
    assert recipe_path(name).name == "cifar.yaml"


@pytest.mark.parametrize("name", ["vtab1k/cifr", "vtab1k", "", "../recipes/demo", "/vtab1k/cifar"])
def test_an_unknown_recipe_is_refused(name):
    with pytest.raises(RLRRError, match="There is no packaged recipe") as caught:
        recipe_path(name)
    assert isinstance(caught.value, UsageError)


def test_an_unknown_recipe_gets_the_nearest_names():
    with pytest.raises(RLRRError, match="Did you mean vtab1k/cifar"):
        load_recipe("vtab1k/cifr")


def test_finding_a_recipe_loads_nothing_heavy():
    code = "import sys, rlrr.recipes.files as r; r.recipe_path('demo'); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
