"""The ways to fine-tune: what each makes trainable."""

import pytest
import torch
from peft import PeftModel

from rlrr.backbones import load_backbone
from rlrr.errors import RLRRError, UsageError
from rlrr.methods.apply import apply_method, config_type, method_config, setting_hints
from rlrr.methods.table import METHODS, Method
from rlrr.methods.trainable import check_adapted, parameter_counts


@pytest.fixture
def backbone(tiny_backbone):
    return load_backbone(tiny_backbone, num_classes=3).model


def trained(model: torch.nn.Module) -> list[str]:
    return [name for name, parameter in model.named_parameters() if parameter.requires_grad]


def test_a_probe_trains_the_classifier_alone(backbone):
    assert trained(apply_method(backbone, "linear")) == ["head.weight", "head.bias"]


def test_full_trains_everything(backbone):
    backbone.requires_grad_(False)
    assert len(trained(apply_method(backbone, "full"))) == len(list(backbone.parameters()))


@pytest.mark.parametrize("method", ["rlrr", "lora"])
def test_an_adapter_is_trained_with_the_classifier_and_nothing_else(backbone, method):
    model = apply_method(backbone, method)
    assert isinstance(model, PeftModel)
    others = [name for name in trained(model) if f".{method}_" not in name and ".head.modules_to_save." not in name]
    assert others == []
    check_adapted(model, torch.zeros(1, 3, 32, 32))


def test_counts_are_of_the_adapter_and_of_the_classifier(backbone):
    count = sum(parameter.numel() for parameter in backbone.parameters())
    head = 32 * 3 + 3
    # rank 1: (out + in + out) a linear with qkv's three inputs, scale and shift of five norms and the patch embedding
    linears = (96 + 3 * 32 + 96) + (32 + 32 + 32) + (128 + 32 + 128) + (32 + 128 + 32)
    expected = {
        "linear": {"adapter": 0, "head": head},
        "full": {"adapter": count - head, "head": head},
        "rlrr": {"adapter": 2 * linears + 6 * 2 * 32, "head": head},
        "lora": {"adapter": 2 * 8 * (96 + 32 + 32 + 32 + 128 + 32 + 32 + 128), "head": head},
    }
    name = backbone.name_or_path
    for method in expected:
        model = load_backbone(name, num_classes=3).model
        assert parameter_counts(apply_method(model, method)) == expected[method], method


@pytest.mark.parametrize(
    ("method", "settings"),
    [
        ("rlrr", {"target_modules": "("}),
        ("rlrr", {"target_modules": []}),
        ("rlrr", {"layers_to_transform": [99]}),
        ("lora", {"target_modules": "("}),
        ("lora", {"target_modules": "*"}),
        ("lora", {"target_modules": ["nope"]}),
        ("lora", {"r": 0}),
        ("lora", {"r": -1}),
        ("lora", {"lora_dropout": 2.0}),
        ("lora", {"lora_dropout": float("nan")}),
        ("lora", {"bias": "odd"}),
        ("lora", {"init_lora_weights": "odd"}),
        ("lora", {"layers_to_transform": [99], "layers_pattern": "blocks"}),
        ("lora", {"layers_to_transform": 99}),
        ("lora", {"rank_pattern": {"(": 3}}),
        ("ssf", {"target_modules": "("}),
        ("adaptformer", {"parts": ["nope"]}),
    ],
    ids=str,
)
def test_no_setting_ends_in_an_error_of_a_library(tiny_backbone, method, settings):
    with pytest.raises(UsageError) as caught:
        apply_method(load_backbone(tiny_backbone, num_classes=3).model, method, settings)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("layers", [1, [1]])
@pytest.mark.parametrize("method", ["lora", "rlrr", "ssf", "adaptformer"])
def test_the_blocks_to_adapt_can_be_chosen_with_every_method(backbone, method, layers):
    names = trained(apply_method(backbone, method, {"layers_to_transform": layers}))
    assert any(".blocks.1." in name for name in names)
    assert not any(".blocks.0." in name for name in names)


@pytest.mark.parametrize(("method", "rank"), [("rlrr", "rank"), ("lora", "r")])
def test_a_rank_can_be_asked_for(tiny_backbone, method, rank):
    own = getattr(method_config(method), rank)
    counts = [
        parameter_counts(apply_method(load_backbone(tiny_backbone, num_classes=3).model, method, settings))["adapter"]
        for settings in (None, {rank: own}, {rank: 2})
    ]
    assert counts[0] == counts[1] != counts[2]


def test_an_unknown_method_is_refused_with_the_nearest(backbone):
    with pytest.raises(RLRRError, match=r"'rlr'.*Did you mean rlrr"):
        apply_method(backbone, "rlr")


@pytest.mark.parametrize("method", ["rlrr", "lora"])
def test_modules_can_be_named(backbone, method):
    names = trained(apply_method(backbone, method, {"target_modules": r"blocks\.1\.mlp\.fc1"}))
    assert {name.split(".")[2] + name.split(".")[3] for name in names if "head" not in name} == {"blocks1"}
    assert any("head" in name for name in names)
    assert not any("fc2" in name or "qkv" in name for name in names)


@pytest.mark.parametrize("method", ["rlrr", "lora"])
def test_modules_that_are_not_there_are_refused_in_one_sentence(backbone, method):
    with pytest.raises(RLRRError, match="finds nothing to adapt in this VisionTransformer"):
        apply_method(backbone, method, {"target_modules": "nothing"})


def test_settings_reach_the_config_and_are_left_as_they_are(backbone):
    settings = {"sides": "in", "shift": False, "parts": ["mlp"], "layers_to_transform": [1]}
    given = {name: list(value) if isinstance(value, list) else value for name, value in settings.items()}
    names = {name.split("model.")[-1] for name in trained(apply_method(backbone, "rlrr", settings)) if "rlrr_" in name}
    assert names == {f"blocks.1.mlp.{part}.rlrr_scale_in.default" for part in ("fc1", "fc2")}
    assert settings == given


def test_lora_has_pefts_own_defaults_and_settings(tiny_backbone):
    config = apply_method(load_backbone(tiny_backbone, num_classes=3).model, "lora").peft_config["default"]
    assert (config.r, config.lora_alpha) == (8, 8)
    settings = {"r": 4, "use_dora": True, "bias": "lora_only"}
    config = apply_method(load_backbone(tiny_backbone, num_classes=3).model, "lora", settings).peft_config["default"]
    assert (config.r, config.use_dora, config.bias) == (4, True, "lora_only")


def test_a_method_of_peft_needs_a_row_alone(backbone, monkeypatch):
    row = Method("ia3", "IA3", ".", "", 1e-3, "peft:IA3Config", {"feedforward_modules": []}, parts=("attn",))
    monkeypatch.setitem(METHODS, "ia3", row)
    names = {name.split("model.")[-1] for name in trained(apply_method(backbone, "ia3")) if "head" not in name}
    assert names == {f"blocks.{i}.attn.{part}.ia3_l.default" for i in (0, 1) for part in ("qkv", "proj")}


@pytest.mark.parametrize("method", ["linear", "full"])
def test_settings_of_a_method_without_any_are_refused(backbone, method):
    with pytest.raises(UsageError, match=f"{method} has no settings: leave rank out"):
        apply_method(backbone, method, {"rank": 2})
    apply_method(backbone, method, {})


def test_the_settings_are_those_that_yaml_can_hold():
    assert {"rank", "sides", "gradient_tokens"} <= setting_hints(config_type("rlrr")).keys()
    settings = setting_hints(config_type("lora"))
    assert {"r", "lora_alpha", "target_modules"} <= settings.keys()
    assert not {"peft_type", "inference_mode", "eva_config", "runtime_config"} & settings.keys()


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"side": "in"}, "rlrr has no setting side. Did you mean sides"),
        ({"r": 2}, "rlrr has no setting r."),
        ({"sides": "on"}, "sides of rlrr must be one of both, in, out, not 'on'"),
        ({"rank": "two"}, "rank of rlrr must be a whole number, not 'two'"),
        ({"rank": True}, "rank of rlrr must be a whole number, not True"),
        ({"rank": 0}, "rank must be 1 or more"),
        ({"parts": "attn"}, "parts of rlrr must be a list, not 'attn'"),
        ({"sides": "in", "rank": 2}, "rank > 1 and multiply_weight=False need"),
        ({"parts": ["attn"], "target_modules": ".*qkv"}, "leave out target_modules, or parts"),
        ({"parts": ["downsample"]}, "it has attn, mlp, norm, patch_embed"),
        ({"layers_to_transform": [5]}, "names block 5: this VisionTransformer has no such block"),
    ],
)
def test_settings_that_cannot_be_are_wrong_usage(backbone, settings, sentence):
    with pytest.raises(RLRRError) as error:
        apply_method(backbone, "rlrr", settings)
    assert sentence in str(error.value)
    assert isinstance(error.value, UsageError)
