"""The weight-decay groups, method by method."""

import pytest
import torch
from peft import get_peft_model

from rlrr.backbones import load_backbone
from rlrr.methods.apply import apply_method
from rlrr.training.optimizer import parameter_groups
from rlrr.tuners import RLRRConfig


def decaying(model: torch.nn.Module) -> tuple[set[str], set[str]]:
    """Names of the trained parameters that decay, and of those that do not."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    decays, rest = parameter_groups(model, 0.5)
    assert (decays["weight_decay"], rest["weight_decay"]) == (0.5, 0.0)
    return tuple({names[id(p)].removeprefix("base_model.model.") for p in group["params"]} for group in (decays, rest))


@pytest.fixture
def backbone(tiny_backbone):
    return load_backbone(tiny_backbone, num_classes=3).model


@pytest.mark.parametrize("method", ["rlrr", "linear", "full", "lora"])
def test_every_trained_parameter_is_in_one_group(backbone, method):
    model = apply_method(backbone, method)
    decays, rest = decaying(model)
    trained = {n.removeprefix("base_model.model.") for n, p in model.named_parameters() if p.requires_grad}
    assert decays | rest == trained
    assert not decays & rest


def test_rlrr_decays_as_the_papers_code_does(backbone):
    decays, rest = decaying(apply_method(backbone, "rlrr"))
    for linear in ("blocks.0.attn.qkv", "blocks.1.mlp.fc2"):
        assert {f"{linear}.rlrr_scale_out.default", f"{linear}.rlrr_scale_in.default"} <= decays
        assert f"{linear}.rlrr_shift.default" in rest
    assert {"patch_embed.proj.rlrr_scale.default", "patch_embed.proj.rlrr_shift.default"} <= decays
    assert {f"blocks.0.norm1.rlrr_{vector}.default" for vector in ("scale", "shift")} <= rest
    assert {f"norm.rlrr_{vector}.default" for vector in ("scale", "shift")} <= rest
    assert "head.modules_to_save.default.weight" in decays
    assert "head.modules_to_save.default.bias" in rest


def test_rlrr_decays_the_same_for_a_model_wrapped_by_hand(backbone):
    assert decaying(get_peft_model(backbone, RLRRConfig())) == decaying(backbone)


def test_a_layer_names_the_vectors_that_decay_all_the_same():
    class Gated(torch.nn.LayerNorm):
        decays = ("*gate*.weight",)

    model = torch.nn.ModuleDict({"gate": Gated(3), "norm": Gated(3)})
    decays, rest = decaying(model)
    assert decays == {"gate.weight"}
    assert rest == {"gate.bias", "norm.weight", "norm.bias"}


@pytest.mark.parametrize(
    ("method", "decay", "keep"),
    [
        ("linear", {"head.weight"}, {"head.bias"}),
        ("full", {"blocks.0.attn.qkv.weight", "patch_embed.proj.weight"}, {"norm.weight", "blocks.0.attn.qkv.bias"}),
        ("lora", {"blocks.0.attn.qkv.lora_A.default.weight"}, {"head.modules_to_save.default.bias"}),
    ],
)
def test_other_methods_decay_matrices_only(backbone, method, decay, keep):
    decays, rest = decaying(apply_method(backbone, method))
    assert decay <= decays
    assert keep <= rest
