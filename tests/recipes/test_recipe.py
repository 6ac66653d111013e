"""The options of a run: what is refused, naming the option, and what a recipe can be made of."""

import math
from dataclasses import fields

import pytest

from rlrr.errors import RLRRError, UsageError
from rlrr.recipes.recipe import METHODS, Recipe, differences


@pytest.mark.parametrize(
    ("option", "value", "expected"),
    [
        ("method", "rlr", "one of rlrr, linear, full, lora, not 'rlr'. Did you mean rlrr"),
        ("method", "zzz", "one of rlrr, linear, full, lora, not 'zzz'."),
        *((name, 0, "1 or more") for name in ("epochs", "batch_size", "accumulate", "image_size", "rank", "threads")),
        ("early_stop", 0, "1 or more"),
        *((name, -1, "0 or more") for name in ("weight_decay", "mixup", "cutmix", "workers", "seed")),
        *((name, 1.0, "from 0 to below 1") for name in ("warmup", "drop_path", "label_smoothing")),
        *((name, -0.1, "from 0 to below 1") for name in ("warmup", "drop_path", "label_smoothing")),
        *(("learning_rate", value, "above 0") for value in (0.0, -1.0, math.inf, math.nan)),
        *(("val_fraction", value, "between 0 and 1") for value in (0.0, 1.0, math.nan)),
        *(("random_crop", value, "two shares") for value in ([0.0, 1.0], [0.5, 1.1], [0.6, 0.5], [0.5], [])),
        *(("gradient_tokens", value, "above 0 and at most 1") for value in (0.0, 1.1)),
        ("precision", "fp8", "one of auto, fp32, bf16, fp16"),
        ("select", "first", "one of best, last"),
        ("bad_images", "ignore", "one of error, skip"),
        ("weight_decay", math.nan, "0 or more"),
    ],
)
def test_a_value_that_cannot_be_trained_with_is_refused(option, value, expected):
    with pytest.raises(RLRRError) as caught:
        Recipe("data", **{option: value})
    assert str(caught.value).startswith(f"--{option} must be ")
    assert expected in str(caught.value)
    assert isinstance(caught.value, UsageError)


@pytest.mark.parametrize("mix", ["mixup", "cutmix"])
def test_an_odd_batch_cannot_be_mixed(mix):
    with pytest.raises(RLRRError, match="--batch_size must be even"):
        Recipe("data", batch_size=3, **{mix: 0.1})
    assert Recipe("data", batch_size=3).batch_size == 3


@pytest.mark.parametrize(
    "options",
    [{}, {"random_crop": [1.0, 1.0]}, {"warmup": 0.0}, {"weight_decay": 0.0}, {"seed": 0}, {"rank": 4}],
    ids=str,
)
def test_the_ends_of_the_ranges_are_allowed(options):
    assert Recipe("data", **options)


@pytest.mark.parametrize("method", METHODS)
def test_a_recipe_comes_back_from_its_dictionary(method):
    recipe = Recipe("data", method=method, learning_rate=1e-3, early_stop=2)
    assert Recipe(**recipe.to_dict()) == recipe


def test_differences_are_listed_by_option():
    one, other = Recipe("data"), Recipe("data", epochs=3, method="full")
    assert differences(one, other) == ["method: rlrr -> full", "epochs: 30 -> 3"]
    assert differences(one, one) == []


def test_every_option_is_explained(tmp_path):
    source = __import__("inspect").getsource(Recipe)
    for field in fields(Recipe):
        assert f"    {field.name}: " in source
        assert source.split(f"    {field.name}: ")[1].split("\n")[1].startswith('    """'), field.name


@pytest.mark.parametrize("option", [{"rank": 2}, {"target_modules": "head"}])
@pytest.mark.parametrize("method", ["linear", "full"])
def test_what_a_method_does_not_have_is_refused(method, option):
    with pytest.raises(RLRRError, match=f"does not go with --method {method}"):
        Recipe("data", method=method, **option)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "lora", "sides": "in"}, "--sides does not go with --method lora, as it is an option of rlrr"),
        ({"method": "full", "residual": False}, "--residual does not go with --method full"),
        ({"random_crop": [0.5, 1.0], "random_position": True}, "--random_position does not go with --random_crop"),
        ({"train_on": "trainval", "early_stop": 2}, "--early_stop does not go with --train_on trainval"),
        ({"protocol": "paper", "early_stop": 2}, "--early_stop does not go with --protocol paper"),
        ({"protocol": "paper", "test": False}, "--test does not go with --protocol paper"),
        ({"protocol": "paper", "select": "last"}, "--select does not go with --protocol paper"),
        ({"epochs": "3"}, "--epochs must be a whole number, not '3'"),
        ({"epochs": True}, "--epochs must be a whole number, not True"),
        ({"learning_rate": "fast"}, "--learning_rate must be a number, not 'fast'"),
        ({"flip": 1}, "--flip must be true or false, not 1"),
        ({"parts": "attn"}, "--parts must be a list, not 'attn'"),
        ({"layers_to_transform": ["a"]}, "--layers_to_transform must be a list"),
        ({"restart_epochs": 3}, "--restart_epochs does not go with --schedule cosine"),
        ({"ema": 1.0}, "--ema must be between 0 and 1"),
        ({"protocol": "fair"}, "--protocol must be one of honest, paper"),
        ({"crop_mode": "round"}, "--crop_mode must be one of center, squash, border"),
    ],
)
def test_options_that_do_not_go_together_are_refused(options, message):
    with pytest.raises(RLRRError, match=f"^{message}"):
        Recipe("data", **options)


def test_a_digest_is_of_what_the_result_depends_on():
    one = Recipe("data", epochs=3)
    same = Recipe("elsewhere", epochs=3, threads=2, workers=1, weights="w.npz", compile=True)
    assert one.digest() == same.digest()
    assert one.digest() == Recipe("data", epochs=3, log_deviation=True).digest()
    others = [{}, {"epochs": 3, "seed": 1}, {"epochs": 3, "parts": ["attn"]}, {"epochs": 3, "frozen": "bf16"}]
    assert len({recipe.digest() for recipe in (one, *(Recipe("data", **options) for options in others))}) == 5


def test_a_last_slash_makes_no_difference():
    assert differences(Recipe("flowers"), Recipe("flowers/")) == []
