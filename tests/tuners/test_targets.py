"""Entries of a config that match nothing are refused by name, or warned of; those of a loaded adapter are warned of."""

import warnings

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from tests.tuners.cases import METHODS, PEFT_SUITES, shows, vit
from torch import nn

from rlrr import RLRRConfig
from rlrr.errors import RLRRError, UsageError
from rlrr.methods import table
from rlrr.methods.apply import apply_method
from rlrr.tuners.targets import check_entries


def ours(method):
    def adapt(**settings):
        config = PEFT_SUITES[method].config(**settings)
        return get_peft_model(vit(), config)

    return adapt


def by_name(method):
    return lambda **settings: apply_method(vit(), method, settings)


WAYS = {method: ours(method) for method in METHODS}
WAYS |= {f"{method}, by name": by_name(method) for method in (*METHODS, "lora") if method in table.METHODS}
MISSPELT = {
    "target_modules": ({"target_modules": ["qkv", "fc_1"]}, "fc_1", "fc1"),
    "a longer name": ({"target_modules": ["attn.qkv", "mlp.fc_1"]}, "mlp.fc_1", "mlp.fc1"),
    "exclude_modules": ({"target_modules": ["qkv", "fc1"], "exclude_modules": ["fc11"]}, "fc11", "fc1"),
    "modules_to_save": ({"target_modules": ["qkv"], "modules_to_save": ["haed"]}, "haed", "head"),
    "modules_to_save by default targets": ({"modules_to_save": ["haed"]}, "haed", "head"),
    "layers_to_transform": (
        {"target_modules": ["qkv"], "layers_to_transform": [0, 7], "layers_pattern": "blocks"},
        "block 7",
        "",
    ),
    "one of layers_to_transform": (
        {"target_modules": ["qkv", "fc1"], "layers_to_transform": 7, "layers_pattern": "blocks"},
        "block 7",
        "",
    ),
    "layers_pattern": (
        {"target_modules": ["qkv"], "layers_to_transform": [0], "layers_pattern": ["blcoks"]},
        "blcoks",
        "blocks",
    ),
    "one of layers_pattern": (
        {"target_modules": ["qkv"], "layers_to_transform": [0], "layers_pattern": ["blocks", "stages"]},
        "stages",
        "",
    ),
}


def said_by(adapt, settings):
    """What the refusal says, or else all warnings."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            adapt(**settings)
        except (RLRRError, ValueError) as error:
            return str(error)
    return "\n".join(str(one.message) for one in caught)


@pytest.mark.parametrize("kind", MISSPELT)
@pytest.mark.parametrize("way", WAYS)
def test_an_entry_that_matches_nothing_is_named(way, kind):
    settings, entry, near = MISSPELT[kind]
    said = said_by(WAYS[way], settings)
    assert entry in said
    assert near in said


@pytest.mark.parametrize("way", [way for way in WAYS if "lora" not in way])
def test_a_part_that_there_is_not_is_named(way):
    assert "attention" in said_by(WAYS[way], {"parts": ["attention"]})


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("pattern", "dead"),
    [
        (r".*\.(qkv|porj)", "porj"),
        (r"blocks\.\d+\.(attn\.qkv|mlp\.fc_1)", "fc_1"),
        (r"blocks\.[01]\.(?:attn|mpl)\.(qkv|fc1)", "mpl"),
        (r".*(qkv|fc3|fc1)", "fc3"),
    ],
)
def test_an_alternative_of_a_regex_that_matches_nothing_is_warned_of(way, pattern, dead):
    with pytest.warns(UserWarning, match=dead):
        WAYS[way](target_modules=pattern)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"target_modules": ["qkv", "fc1"]},
        {"target_modules": ["qkv", "blocks.1.mlp.fc1"], "exclude_modules": ["blocks.0.attn.qkv"]},
        {"target_modules": r".*\.(qkv|fc[12])"},
        {"target_modules": ["qkv"], "layers_to_transform": [1], "layers_pattern": "blocks"},
        {"target_modules": ["qkv"], "modules_to_save": ["head"]},
    ],
    ids=str,
)
def test_entries_that_all_match_are_taken_without_a_word(way, settings):
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        WAYS[way](**settings)


@pytest.mark.parametrize("method", METHODS)
def test_nothing_at_all_is_peft_s_own_error_or_a_sentence(method):
    with pytest.raises((RLRRError, ValueError), match=r"(?i)not (found|have)|no|nothing"):
        get_peft_model(vit(), PEFT_SUITES[method].config(target_modules=["nothing_like_it"]))


@pytest.mark.parametrize("method", METHODS)
def test_a_refusal_leaves_the_model_as_it_was(method):
    model = vit()
    modules, settings = dict(model.named_modules()), MISSPELT["target_modules"][0]
    with pytest.raises(RLRRError, match="fc_1"):
        get_peft_model(model, PEFT_SUITES[method].config(**settings))
    assert dict(model.named_modules()) == modules
    assert all(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize("method", METHODS)
def test_a_second_adapter_is_looked_at_too(method):
    model = get_peft_model(vit(), shows(method, ["qkv", "fc1"]))
    with pytest.raises(RLRRError, match="fc_1"):
        model.add_adapter("two", shows(method, ["qkv", "fc_1"]))
    model.add_adapter("three", shows(method, ["fc1"], exclude_modules=["blocks.0.mlp.fc1"]))


@pytest.mark.parametrize("method", METHODS)
def test_a_loaded_adapter_is_warned_of_and_loaded(method, tmp_path):
    torch.manual_seed(0)
    wide = nn.ModuleDict({"qkv": nn.Linear(8, 8), "fc1": nn.Linear(8, 8)})
    get_peft_model(wide, shows(method, ["qkv", "fc1"])).save_pretrained(tmp_path)
    with pytest.warns(UserWarning, match="fc1"):
        PeftModel.from_pretrained(nn.ModuleDict({"qkv": nn.Linear(8, 8)}), tmp_path)


def test_peft_s_own_configs_are_looked_at_with_their_own_entries():
    check_entries(LoraConfig(target_modules=["qkv"]), vit())
    with pytest.raises(RLRRError, match="fc_1"):
        check_entries(LoraConfig(target_modules=["qkv", "fc_1"]), vit())
    check_entries(LoraConfig(target_modules="all-linear"), vit())


def test_patterns_of_fused_blocks_that_match_nothing_are_warned_of():
    with pytest.warns(UserWarning, match="qvk"):
        get_peft_model(vit(), RLRRConfig(fused_blocks={"qvk": 3}))


def test_the_command_line_is_told_which_setting_is_wrong():
    with pytest.raises(UsageError, match="fc_1"):
        apply_method(vit(), "rlrr", {"target_modules": ["qkv", "fc_1"]})
