"""Relative paths in a run's recipe, seen from another folder."""

from __future__ import annotations

import pytest

from rlrr.recipes.files import RECIPE, read_options, read_recipe, write_recipe
from rlrr.recipes.places import PLACES
from rlrr.recipes.recipe import Recipe


@pytest.fixture
def started(tmp_path, monkeypatch):
    """A folder with data, weights and a model, where a recipe was written, and another, where one is now."""
    home = tmp_path / "wo rk é"
    for name in ("flowers", "merged", "run"):
        (home / name).mkdir(parents=True)
    (home / "merged" / "config.json").touch()
    (home / "w.npz").touch()
    monkeypatch.chdir(home)

    def write(**options):
        write_recipe(Recipe(**{"data": "flowers/"} | options), home / "run")
        (tmp_path / "elsewhere").mkdir(exist_ok=True)
        monkeypatch.chdir(tmp_path / "elsewhere")
        return home

    return write


def test_places_are_found_from_another_folder(started):
    home = started(weights="w.npz", model="merged")
    options = read_options(home / "run" / RECIPE)
    assert {name: options[name] for name in PLACES} == {
        "data": str(home / "flowers"),
        "weights": str(home / "w.npz"),
        "model": str(home / "merged"),
    }


def test_what_is_here_comes_first(started, tmp_path):
    home = started()
    (tmp_path / "elsewhere" / "flowers").mkdir()
    assert read_recipe(home / "run" / RECIPE).data == "flowers/"


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("data", "sample:mnist"),
        ("data", "hub:owner/name"),
        ("data", "/nowhere"),
        ("data", "gone/"),
        ("model", "vit_base_patch16_224.orig_in21k"),
        ("model", "run"),  # which is there, and no model
    ],
)
def test_other_words_stay_as_they_are(started, option, value):
    home = started(**{option: value})
    assert read_options(home / "run" / RECIPE)[option] == value


def test_a_folder_with_the_name_of_a_model_is_not_taken_for_it(started, tmp_path, monkeypatch):
    home = started(model="vit_tiny_patch16_224")
    (home / "vit_tiny_patch16_224").mkdir()
    (home / "vit_tiny_patch16_224" / "config.json").touch()
    assert read_options(home / "run" / RECIPE)["model"] == "vit_tiny_patch16_224"


def test_a_data_set_of_the_hub_in_a_folder_is_found_too(started):
    home = started(data="hub:flowers")
    assert read_options(home / "run" / RECIPE)["data"] == f"hub:{home / 'flowers'}"


@pytest.mark.parametrize(
    "first", ["# mine", "# Relative paths here are seen from nowhere", "# Relative paths here are seen from 3"]
)
def test_a_recipe_without_the_heading_is_read_as_it_stands(started, first):
    home = started()
    path = home / "run" / RECIPE
    path.write_text("\n".join([first, *path.read_text().splitlines()[2:]]))
    assert read_options(path)["data"] == "flowers/"


@pytest.mark.parametrize("data", ["caf\udce9", "a\nb", "tab\there", "犬", "#x", "'", '"', "1e-3", "null", "- x"])
def test_any_name_of_a_folder_comes_back(tmp_path, data):
    write_recipe(Recipe(data), tmp_path)
    assert read_recipe(tmp_path / RECIPE).data == data
