"""The ways to fine-tune: what each makes trainable."""

import pytest
import torch
from peft import PeftModel

from rlrr.backbones import load_backbone
from rlrr.errors import RLRRError, UsageError
from rlrr.methods.apply import apply_method, methods
from rlrr.methods.trainable import check_adapted, parameter_counts
from rlrr.recipes.recipe import METHODS, OF_RLRR


@pytest.fixture
def backbone(tiny_backbone):
    return load_backbone(tiny_backbone, num_classes=3).model


def trained(model: torch.nn.Module) -> list[str]:
    return [name for name, parameter in model.named_parameters() if parameter.requires_grad]


def test_the_methods_are_those_of_the_recipe():
    assert tuple(methods()) == METHODS
    methods().clear()
    assert methods(), "the table cannot be changed from outside"


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
    for method in METHODS:
        model = load_backbone(name, num_classes=3).model
        assert parameter_counts(apply_method(model, method)) == expected[method], method


@pytest.mark.parametrize("method", ["rlrr", "lora"])
def test_a_rank_can_be_asked_for(tiny_backbone, method):
    counts = [
        parameter_counts(apply_method(load_backbone(tiny_backbone, num_classes=3).model, method, rank))["adapter"]
        for rank in (None, methods()[method].rank, 2)
    ]
    assert counts[0] == counts[1] != counts[2]


def test_an_unknown_method_is_refused_with_the_nearest(backbone):
    with pytest.raises(RLRRError, match=r"'rlr'.*Did you mean rlrr"):
        apply_method(backbone, "rlr")


@pytest.mark.parametrize("method", ["rlrr", "lora"])
def test_modules_can_be_named(backbone, method):
    names = trained(apply_method(backbone, method, target_modules=r"blocks\.1\.mlp\.fc1"))
    assert {name.split(".")[2] + name.split(".")[3] for name in names if "head" not in name} == {"blocks1"}
    assert any("head" in name for name in names)
    assert not any("fc2" in name or "qkv" in name for name in names)


@pytest.mark.parametrize("method", ["rlrr", "lora"])
def test_modules_that_are_not_there_are_refused_in_one_sentence(backbone, method):
    with pytest.raises(RLRRError, match="finds nothing to adapt in this VisionTransformer"):
        apply_method(backbone, method, target_modules="nothing")


def rlrr_config(model):
    return model.peft_config["default"]


def test_rlrr_has_settings_and_none_is_the_default(backbone):
    model = apply_method(backbone, "rlrr", sides="in", shift=False, parts=["mlp"], layers_to_transform=[1], rank=None)
    names = {name.split("model.")[-1] for name in trained(model) if "rlrr_" in name}
    assert names == {f"blocks.1.mlp.{part}.rlrr_scale_in.default" for part in ("fc1", "fc2")}


def test_every_setting_of_rlrr_is_passed_on(tiny_backbone):
    settings = {
        "sides": "out",
        "residual": False,
        "multiply_weight": True,
        "shift": False,
        "init_weights": "uniform",
        "parts": None,
        "layers_to_transform": None,
        "gradient_tokens": 0.5,
    }
    assert settings.keys() == set(methods()["rlrr"].settings) == set(OF_RLRR)
    config = rlrr_config(apply_method(load_backbone(tiny_backbone, num_classes=3).model, "rlrr", **settings))
    given = {name: value for name, value in settings.items() if value is not None}
    assert {name: getattr(config, name) for name in given} == given
    plain = rlrr_config(apply_method(load_backbone(tiny_backbone, num_classes=3).model, "rlrr"))
    nones = dict.fromkeys(settings)
    same = rlrr_config(apply_method(load_backbone(tiny_backbone, num_classes=3).model, "rlrr", **nones))
    assert same.to_dict() == plain.to_dict()


@pytest.mark.parametrize("method", ["linear", "full", "lora"])
def test_a_setting_of_another_method_is_refused_by_its_name(backbone, method):
    with pytest.raises(RLRRError, match=f"{method} has no setting shift: only rlrr has it") as error:
        apply_method(backbone, method, sides=None, shift=False)
    assert isinstance(error.value, UsageError)
    apply_method(backbone, method, sides=None, shift=None)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"side": "in"}, "rlrr has no setting side. Did you mean sides"),
        ({"sides": "on"}, "sides must be one of both, in, out"),
        ({"sides": "in", "rank": 2}, "rank > 1 and multiply_weight=False need"),
        ({"parts": ["attn"], "target_modules": ".*qkv"}, "leave out target_modules, or parts"),
        ({"parts": ["downsample"]}, "it has attn, mlp, norm, patch_embed"),
        ({"layers_to_transform": [5]}, "names block 5: this VisionTransformer has no such block"),
    ],
)
def test_settings_that_cannot_be_are_wrong_usage(backbone, settings, sentence):
    with pytest.raises(RLRRError) as error:
        apply_method(backbone, "rlrr", **settings)
    assert sentence in str(error.value)
    assert isinstance(error.value, UsageError)
