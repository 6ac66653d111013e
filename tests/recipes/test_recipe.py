"""The options of a run: wrong values, named by the option, and the parts of a digest."""

import inspect
import math
from dataclasses import fields

import pytest

from rlrr.errors import UsageError
from rlrr.methods.table import METHODS
from rlrr.recipes.recipe import GROUPS, Recipe, differences

SHARE = "above 0 and at most 1"


@pytest.mark.parametrize(
    ("option", "value", "expected"),
    [
        ("method", "rlr", "not 'rlr'. Did you mean rlrr"),
        *((name, 0, "1 or more") for name in ("epochs", "batch_size", "accumulate", "image_size", "threads")),
        ("early_stop", 0, "1 or more"),
        *((name, -1, "0 or more") for name in ("weight_decay", "mixup", "cutmix", "workers", "seed")),
        *((name, 1.0, "from 0 to below 1") for name in ("warmup", "drop_path", "label_smoothing")),
        *((name, -0.1, "from 0 to below 1") for name in ("warmup", "drop_path", "label_smoothing")),
        *(("learning_rate", value, "above 0") for value in (0.0, -1.0, math.inf, math.nan)),
        *(("val_fraction", value, "between 0 and 1") for value in (0.0, 1.0, math.nan)),
        ("ema", 1.0, "between 0 and 1"),
        *(("crop_pct", value, "from 0.05 to 1") for value in (0.0, 1e-9, 1.1, math.nan)),
        *((name, 10**20, "at most 1,000,000") for name in ("epochs", "cooldown", "batch_size", "accumulate")),
        *((name, math.inf, "at most 1,000,000") for name in ("weight_decay", "mixup", "cutmix")),
        ("seed", 99999999999, "at most 4,294,967,295, not 99999999999"),
        ("threads", 10**6, "at most 1,024"),
        ("workers", 10**6, "at most 256"),
        ("image_size", 10**6, "at most 10,000"),
        ("model", "a\0b", "text without a null character"),
        *(("random_crop", value, SHARE) for value in ([0.0, 1.0], [0.5, 1.1], [0.8, 0.5], [0.5], [0.1, 0.2, 0.3])),
        ("random_crop", 0.5, "a list"),
        ("precision", "fp8", "one of auto, fp32, bf16, fp16"),
        ("select", "first", "one of best, last"),
        ("bad_images", "ignore", "one of error, skip"),
        ("protocol", "fair", "one of honest, paper"),
        ("crop_mode", "round", "one of center, squash, border"),
        ("weight_decay", math.nan, "0 or more"),
        ("epochs", "3", "a whole number, not '3'"),
        ("epochs", True, "a whole number, not True"),
        ("learning_rate", "fast", "a number, not 'fast'"),
        ("flip", 1, "true or false, not 1"),
        ("settings", ["rank"], "names with values"),
    ],
)
def test_a_value_that_cannot_be_trained_with_is_refused(option, value, expected):
    with pytest.raises(UsageError) as caught:
        Recipe("data", **{option: value})
    assert caught.value.option == option
    assert str(caught.value).startswith(f"{option} must be ")
    assert expected in str(caught.value)


SILLY = (-1, 0, 10**400, -(10**400), math.nan, math.inf, -math.inf, 1e308, 5e-324, "", "x", "\0", "\udce9", "犬" * 999)
SILLY += (True, None, [], {}, [math.nan, 1.0], {"rank": []}, [[]], b"x", object())


def refusal(option, value) -> str:
    """The sentence that refuses a value, or one of the option with the digest of the recipe that takes it."""
    try:
        return f"{option} gives {Recipe(**{'data': 'data'} | {option: value}).digest()}"
    except UsageError as error:
        return str(error)


@pytest.mark.parametrize("value", SILLY, ids=repr)
@pytest.mark.parametrize("option", [field.name for field in fields(Recipe)])
def test_every_value_of_every_option_is_taken_or_refused_in_a_sentence(option, value):
    said = refusal(option, value)
    assert option in said
    assert "\n" not in said


@pytest.mark.parametrize("mix", ["mixup", "cutmix"])
def test_an_odd_batch_cannot_be_mixed(mix):
    with pytest.raises(UsageError, match="batch_size must be even"):
        Recipe("data", batch_size=3, **{mix: 0.1})
    assert Recipe("data", batch_size=3).batch_size == 3


@pytest.mark.parametrize(
    "options", [{"random_crop": [1.0, 1.0]}, {"warmup": 0.0}, {"weight_decay": 0.0}, {"seed": 0}], ids=str
)
def test_the_ends_of_the_ranges_are_allowed(options):
    assert Recipe("data", **options)


@pytest.mark.parametrize(
    ("options", "option", "other"),
    [
        ({"random_crop": [0.5, 1.0], "random_position": True}, "random_position", "random_crop"),
        ({"train_on": "trainval", "early_stop": 2}, "early_stop", "trainval"),
        ({"protocol": "paper", "early_stop": 2}, "early_stop", "protocol paper"),
        ({"protocol": "paper", "test": False}, "test", "protocol paper"),
        ({"protocol": "paper", "select": "last"}, "select", "protocol paper"),
        ({"restart_epochs": 3}, "restart_epochs", "schedule cosine"),
        ({"cooldown": 3}, "cooldown", "schedule cosine"),
        ({"objective": {"weight": 1.0}}, "objective", "method rlrr"),
    ],
)
def test_options_that_do_not_go_together_are_refused(options, option, other):
    with pytest.raises(UsageError, match=f"^{option} does not go with .*{other}") as caught:
        Recipe("data", **options)
    assert caught.value.option == option


@pytest.mark.parametrize("method", METHODS)
def test_a_recipe_comes_back_from_its_dictionary(method):
    recipe = Recipe("data", method=method, learning_rate=1e-3, early_stop=2)
    assert Recipe(**recipe.to_dict()) == recipe


@pytest.mark.parametrize("method", METHODS)
def test_the_learning_rate_is_the_methods_own_where_none_is_given(method):
    assert Recipe("data", method=method).peak_rate == METHODS[method].learning_rate
    assert Recipe("data", method=method, learning_rate=0.5).peak_rate == 0.5


def test_differences_are_listed_by_option():
    one, other = Recipe("data"), Recipe("data", epochs=3, method="full")
    assert differences(one, other) == ["method: rlrr -> full", "epochs: 30 -> 3"]
    assert differences(one, one) == []
    assert differences(Recipe("flowers"), Recipe("flowers/")) == []


def test_paths_to_one_place_do_not_differ(tmp_path, monkeypatch):
    (tmp_path / "flowers").mkdir()
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    one, other = Recipe("../flowers/"), Recipe(str(tmp_path / "flowers"))
    assert differences(one, other) == []
    assert differences(one, Recipe("../work")) == ["data: ../flowers/ -> ../work"]
    assert differences(Recipe("hub:../flowers"), other) == [f"data: hub:../flowers -> {tmp_path / 'flowers'}"]


def test_every_option_is_explained_and_the_groups_begin_with_options():
    source = inspect.getsource(Recipe)
    for field in fields(Recipe):
        assert source.split(f"    {field.name}: ")[1].split("\n")[1].startswith('    """'), field.name
    assert set(GROUPS) <= {field.name for field in fields(Recipe)}


def test_a_digest_is_of_all_that_the_result_depends_on():
    one = Recipe("data", epochs=3)
    same = Recipe("elsewhere", epochs=3, threads=2, workers=1, weights="w.npz", compile=True, log_deviation=True)
    assert one.digest() == same.digest()
    others = [{}, {"epochs": 3, "seed": 1}, {"epochs": 3, "settings": {"parts": ["attn"]}}, {"epochs": 3, "flip": True}]
    assert len({recipe.digest() for recipe in (one, *(Recipe("data", **options) for options in others))}) == 5
