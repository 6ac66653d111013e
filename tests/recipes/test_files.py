"""Recipes as YAML: the packaged ones against a table of the paper's settings, and what is said of a wrong file."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from rlrr.data.benchmarks.fgvc import set_of
from rlrr.errors import RLRRError, UsageError
from rlrr.methods.table import METHODS
from rlrr.recipes import files
from rlrr.recipes.files import (
    RECIPE,
    find_options,
    load_recipe,
    overlay,
    packaged_options,
    packaged_recipes,
    read_options,
    read_recipe,
    write_recipe,
)
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
FGVC = {
    "dogs": ("Stanford-dogs", 1e-4, 0.0),
    "flowers": ("OxfordFlower", 3e-3, 0.2),
    "cub": ("CUB_200_2011", 3e-3, 0.1),
    "cars": ("Stanford-cars", 3e-3, 0.2),
    "nabirds": ("nabirds", 5e-4, 0.3),
}

IMAGES = {
    "model": "vit_base_patch16_224.orig_in21k",
    "batch_size": 32,
    "crop_mode": "squash",
    "normalization": "half",
}
OF_RLRR = {"method": "rlrr", "cooldown": 10, "drop_path_kind": "paper"}
OF_VTAB1K = {**IMAGES, "epochs": 100, "crop_pct": 1.0}
OF_FGVC = {**IMAGES, "flip": True, "crop_pct": 0.875, "random_position": True}
PLAIN = {**OF_FGVC, **OF_RLRR, "weight_decay": 0.05, "schedule": "paper", "epochs": 50, "warmup": 0.2}
RESTARTED = {**OF_FGVC, **OF_RLRR, "weight_decay": 0.05, "epochs": 50, "schedule": "restarts", "restart_epochs": 5}
AUGMENTED = {
    **{**OF_FGVC, **OF_RLRR, "weight_decay": 0.05},
    **{"epochs": 100, "schedule": "restarts", "restart_epochs": 10, "restart_factor": 2},
    **{"label_smoothing": 0.1, "mixup": 0.8, "cutmix": 1.0, "ema": 0.9998},
}


def expected():
    for line in VTAB1K.strip().splitlines():
        name, flip, rate, drop, decay = line.split()
        own = {
            "data": f"vtab-1k/{name}",
            "flip": flip == "T",
            "learning_rate": float(rate),
            "drop_path": float(drop),
            "weight_decay": float(decay),
        }
        yield f"vtab1k/{name}", {**OF_VTAB1K, **OF_RLRR, "schedule": "paper", "warmup": 0.1, **own}
    for name, (folder, rate, drop) in FGVC.items():
        own = {"data": f"fgvc/{folder}", "learning_rate": rate, "drop_path": drop}
        yield f"fgvc/{name}", {**(RESTARTED if name in ("cub", "dogs") else PLAIN), **own}
        yield f"fgvc_aug/{name}", {**AUGMENTED, **own}


EXPECTED = dict(expected())


def test_every_recipe_of_rlrr_has_the_papers_settings_and_no_others():
    assert packaged_recipes() == sorted([*EXPECTED, "demo"])
    for name, options in EXPECTED.items():
        assert load_recipe(name) == Recipe(**options), name
        task = Path(options["data"]).name
        assert (task if name.startswith("vtab1k/") else set_of(Path(options["data"])).name) == Path(name).name


@pytest.mark.parametrize(
    ("name", "epochs", "warmup"), [("vtab1k/cifar", 110, 11), ("fgvc/cars", 60, 11), ("fgvc/cub", 60, 0)]
)
def test_the_run_is_as_long_as_the_papers_and_warms_up_for_ten_epochs_or_not_at_all(name, epochs, warmup):
    rates = epoch_rates(load_recipe(name), 1.0)
    assert (len(rates), rates.index(max(rates))) == (epochs, warmup)


@pytest.mark.parametrize("method", [name for name in METHODS if not files.has_recipe(name, "vtab1k")])
def test_a_method_without_a_recipe_takes_the_benchmarks_images_and_budget_and_its_own_defaults(method):
    cifar = {**OF_VTAB1K, "data": "vtab-1k/cifar", "flip": False, "method": method}
    assert load_recipe("vtab1k/cifar.yaml", method) == Recipe(**cifar)
    cub = {**OF_FGVC, "data": "fgvc/CUB_200_2011", "epochs": 50, "method": method}
    assert load_recipe("fgvc/cub", method) == Recipe(**cub)
    mixed = {**cub, "epochs": 100, "label_smoothing": 0.1, "mixup": 0.8, "cutmix": 1.0}
    assert load_recipe("fgvc_aug/cub", method) == Recipe(**mixed)


def test_the_rows_of_every_file_are_tasks_of_its_benchmark_and_its_folder_is_a_method():
    folder = Path(files.__file__).parent
    for path in folder.glob("*/*.yaml"):
        rows = yaml.safe_load(path.read_text(encoding="utf-8")).keys() - {"all"}
        benchmark = yaml.safe_load((folder / "benchmarks" / path.name).read_text(encoding="utf-8"))
        assert rows <= benchmark.keys() - {"all"}, path
        assert path.parent.name in ("benchmarks", *METHODS)


def test_a_row_may_hold_settings_which_join_those_of_all_tasks(tmp_path, monkeypatch):
    for name, content in {
        "benchmarks/two": "all: {epochs: 5}\na: {data: x/a}\nb: {data: x/b}",
        "rlrr/two": "all: {settings: {rank: 2, shift: false}}\na: {settings: {rank: 4}}\nb: {learning_rate: 1e-2}",
    }.items():
        (tmp_path / name).parent.mkdir()
        (tmp_path / f"{name}.yaml").write_text(content)
    monkeypatch.setattr(files, "_FOLDER", tmp_path)
    assert packaged_recipes() == ["two/a", "two/b"]
    assert load_recipe("two/a").settings == {"rank": 4, "shift": False}
    assert load_recipe("two/b").settings == {"rank": 2, "shift": False}
    assert load_recipe("two/b").learning_rate == 0.01
    assert load_recipe("two/a", "lora").settings == {}


@pytest.mark.parametrize("name", ["vtab1k/cifr", "vtab1k", "", "../recipes/demo", "/vtab1k/cifar", "rlrr/vtab1k"])
def test_an_unknown_recipe_is_refused(name):
    with pytest.raises(UsageError, match="no packaged recipe"):
        packaged_options(name)


def test_an_unknown_recipe_gets_the_nearest_names():
    with pytest.raises(RLRRError, match="Did you mean vtab1k/cifar"):
        load_recipe("vtab1k/cifr")


def test_a_recipe_comes_back_from_its_file(tmp_path):
    recipe = Recipe("data", method="lora", settings={"r": 4, "bias": "all"}, learning_rate=1e-3, random_crop=[0.5, 1.0])
    write_recipe(recipe, tmp_path)
    assert read_recipe(tmp_path / RECIPE) == recipe
    assert read_recipe(tmp_path / RECIPE).digest() == recipe.digest()


def test_numbers_may_be_written_as_people_write_them(tmp_path):
    (tmp_path / "a.yaml").write_text(
        "learning_rate: 1e-3\nema: 1E-2\nmixup: 1\nrandom_crop: [0.5, 1]\nsettings: {p: 2e-1}"
    )
    (tmp_path / "b.yaml").write_text(
        "learning_rate: 0.001\nema: 0.01\nmixup: 1.0\nrandom_crop: [0.5, 1.0]\nsettings: {p: 0.2}"
    )
    one, other = (read_recipe(tmp_path / name) for name in ("a.yaml", "b.yaml"))
    assert one == other
    assert one.digest() == other.digest()


@pytest.mark.parametrize(
    ("content", "fact"),
    [
        (b"seed: 3\nepohs: 3", ", line 2: there is no option 'epohs'. Did you mean epochs?"),
        (b"data: x\nrank: 2", ", line 2: there is no option 'rank'. The options of a method stand under settings"),
        (b"epochs: many", ", line 1: epochs must be a whole number, not 'many'."),
        (b"data: x\n# none\nepochs: -1", ", line 3: epochs must be 1 or more, not -1."),
        (b"# a comment\nselect: lst", ", line 2: select must be one of best, last, not 'lst'. Did you mean last?"),
        (b"data: x\nsettings: 3", ", line 2: settings must be "),
        (b"data: [a", " is not a recipe: "),
        (b"data: 2020-99-99", " is not a recipe: "),
        (b"learning_rate: 1" + b"0" * 400, ", line 1: learning_rate must be above 0, not inf"),
        (b"seed: 1" + b"0" * 5000, " is not a recipe: "),
        (b"seed: " + b"[" * 5000, " is not a recipe: "),
        (b"words", " is not a recipe: each line is an option"),
        (b"- a\n- b", " is not a recipe: each line is an option"),
        (b"", " is not a recipe: each line is an option"),
        (b"\xff\xfe\x00", " is not a recipe: "),
    ],
)
def test_a_wrong_file_is_named_with_the_line_and_what_is_wrong_in_it(tmp_path, content, fact):
    file = tmp_path / "recipe.yaml"
    file.write_bytes(content)
    with pytest.raises(UsageError) as caught:
        read_options(file)
    assert str(caught.value).startswith(f"{file}{fact}")
    assert "\n" not in str(caught.value)


def test_a_missing_recipe_is_named(tmp_path):
    with pytest.raises(RLRRError, match="There is no recipe"):
        read_recipe(tmp_path / RECIPE)


def test_a_file_is_found_before_a_packaged_recipe_and_a_missing_one_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert find_options("demo")["data"] == "sample:mnist"
    Path("demo").write_text("epochs: 3")
    assert find_options("demo") == {"epochs": 3}
    with pytest.raises(UsageError, match=r"no file vtab1k/cifra.*Did you mean vtab1k/cifar"):
        find_options("vtab1k/cifra")


def test_settings_of_another_method_stay_behind(tmp_path):
    (tmp_path / "run.yaml").write_text("method: rlrr\nsettings: {rank: 2}\nepochs: 3")
    path = str(tmp_path / "run.yaml")
    assert find_options(path, "lora") == {"method": "rlrr", "epochs": 3}
    assert find_options(path, "rlrr") == find_options(path) == {"method": "rlrr", "settings": {"rank": 2}, "epochs": 3}


def test_what_was_tuned_for_another_method_stays_behind_and_what_is_of_the_data_does_not(tmp_path):
    tuned = {"learning_rate": 0.1, "weight_decay": 0.2, "schedule": "paper", "drop_path": 0.3, "ema": 0.9}
    of_the_data = {"epochs": 3, "batch_size": 8, "crop_mode": "squash", "flip": True}
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump({"method": "rlrr"} | tuned | of_the_data))
    assert find_options(str(path), "lora") == {"method": "rlrr"} | of_the_data
    assert find_options(str(path), "rlrr") == {"method": "rlrr"} | tuned | of_the_data


def test_a_run_is_named_by_its_folder_too(tmp_path):
    write_recipe(Recipe("flowers", epochs=3), tmp_path)
    assert find_options(str(tmp_path)) == find_options(str(tmp_path / RECIPE))
    (tmp_path / "empty").mkdir()
    with pytest.raises(RLRRError, match="no recipe"):
        find_options(str(tmp_path / "empty"))


def test_settings_are_overlaid_one_by_one():
    both = overlay({"epochs": 3, "settings": {"rank": 2, "shift": False}}, {"seed": 1, "settings": {"rank": 4}})
    assert both == {"epochs": 3, "seed": 1, "settings": {"rank": 4, "shift": False}}


def test_finding_a_recipe_loads_nothing_heavy():
    code = "import sys, rlrr.recipes.files as r; r.load_recipe('vtab1k/cifar'); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
