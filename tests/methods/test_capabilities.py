"""Capabilities are told of the tuners of PEFT and ours by the adapted model, and hold when they are used."""

from __future__ import annotations

from copy import deepcopy

import peft
import pytest
import timm
import torch
from peft import PeftModel, get_peft_model
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from rlrr.methods.apply import apply_method
from rlrr.methods.capabilities import (
    can_combine,
    can_merge,
    can_mix,
    can_split,
    learned,
    neutral_values,
    weight_change,
)
from rlrr.methods.trainable import check_adapted
from rlrr.tuners import RLRRConfig

IMAGES = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
LINEARS = r"blocks\.\d+\.(attn\.(qkv|proj)|mlp\.fc[12])"
COMMON = {"target_modules": LINEARS, "modules_to_save": ["head"]}
TUNERS = {
    "rlrr": RLRRConfig(),
    "lora": peft.LoraConfig(r=2, **COMMON),
    "dora": peft.LoraConfig(r=2, use_dora=True, **COMMON),
    "adalora": peft.AdaLoraConfig(init_r=2, target_r=2, total_step=10, **COMMON),
    "ia3": peft.IA3Config(feedforward_modules=[], **COMMON),
    "oft": peft.OFTConfig(oft_block_size=8, **COMMON),
    "hra": peft.HRAConfig(r=2, **COMMON),
    "loha": peft.LoHaConfig(r=2, **COMMON),
    "vera": peft.VeraConfig(r=4, **COMMON),
    "vblora": peft.VBLoRAConfig(vector_length=8, num_vectors=8, topk=1, **COMMON),
    "fourierft": peft.FourierFTConfig(n_frequency=8, **COMMON),
    "lily": peft.LilyConfig(r=2, num_B=2, **COMMON),
    "glora": peft.GloraConfig(**COMMON),
    "ln_tuning": peft.LNTuningConfig(target_modules=r".*\.norm\d|norm", modules_to_save=["head"]),
}
UNMERGEABLE = {"lily"}
MIXABLE = {"rlrr", "lora"}  # GLoRA's mixed batches leave all samples the classifier of the active adapter
WITHOUT_WEIGHT = {"lily"}


def vit() -> nn.Module:
    torch.manual_seed(0)
    sizes = {"img_size": 32, "patch_size": 8, "depth": 2, "embed_dim": 32, "num_heads": 2, "num_classes": 3}
    return timm.create_model("vit_tiny_patch16_224", **sizes)


def randomize(model: nn.Module) -> None:
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += 0.1 * torch.randn(parameter.shape)


def adapted(name: str) -> PeftModel:
    model = get_peft_model(vit(), deepcopy(TUNERS[name]))
    randomize(model)
    return model.eval()


@torch.no_grad()
def logits(model: nn.Module, **options) -> Tensor:
    return model(IMAGES, **options)


def layers_of(model: nn.Module) -> list:
    return [module for module in model.modules() if isinstance(module, BaseTunerLayer)]


@pytest.mark.parametrize("name", TUNERS)
def test_a_model_that_can_merge_gives_the_same_logits_merged(name):
    model = adapted(name)
    state = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    assert can_merge(model) == (name not in UNMERGEABLE)
    assert all(torch.equal(tensor, state[key]) for key, tensor in model.state_dict().items())  # asking changes nothing
    expected = logits(model)
    if can_merge(model):
        torch.testing.assert_close(logits(model.merge_and_unload()), expected, rtol=1e-4, atol=1e-5)
    else:
        with pytest.raises(NotImplementedError):
            model.merge_and_unload()


@pytest.mark.parametrize("name", TUNERS)
def test_a_model_that_can_mix_gives_each_sample_its_own_adapter_and_classifier(name):
    model = adapted(name)
    assert can_mix(model.train()) == can_mix(model.eval()) == (name in MIXABLE)
    if can_mix(model):
        one = logits(model)
        model.add_adapter("two", deepcopy(TUNERS[name]))
        model.set_adapter("two")
        randomize(model)
        two = logits(model.eval())
        mixed = logits(model, adapter_names=["default", "two", "default", "two"])
        torch.testing.assert_close(mixed, torch.stack([one[0], two[1], one[2], two[3]]), rtol=1e-4, atol=1e-5)
        assert not torch.allclose(one, two, atol=0.01)


def test_only_tuners_that_sum_classifiers_too_can_combine():
    assert {name for name in TUNERS if can_combine(adapted(name))} == {"rlrr"}
    bare = get_peft_model(vit(), peft.LoraConfig(r=2, target_modules=LINEARS))
    assert can_combine(bare)
    bare.add_adapter("two", peft.LoraConfig(r=2, target_modules=LINEARS))
    bare.base_model.add_weighted_adapter(["default", "two"], [0.5, 0.5], "both")


def test_only_our_layers_give_their_update_apart():
    assert {name for name in TUNERS if can_split(adapted(name))} == {"rlrr"}


@pytest.mark.parametrize("name", TUNERS)
def test_what_is_learned_is_all_that_is_trained_but_the_classifier(name):
    model = adapted(name)
    tensors = {tensor.data_ptr(): tensor.numel() for its in learned(model).values() for tensor in its.values()}
    trained = {
        parameter.data_ptr(): parameter.numel()
        for path, parameter in model.named_parameters()
        if parameter.requires_grad and ".head." not in path
    }
    assert tensors == trained
    plain = dict(model.get_base_model().named_modules())
    assert learned(model).keys() <= plain.keys()
    check_adapted(model, IMAGES[:1])


def test_what_is_learned_has_the_names_of_the_field():
    assert {name: tuple(t.shape) for name, t in learned(adapted("lora"))["blocks.0.attn.qkv"].items()} == {
        "A": (2, 32),
        "B": (96, 2),
    }
    names = learned(adapted("rlrr"))["blocks.0.attn.qkv"].keys()
    assert names == {"scale_out", "scale_in", "shift"}


def test_neutral_values_leave_a_model_as_it_was():
    model, plain = adapted("rlrr"), vit().eval()
    values = neutral_values(model)
    for module, tensors in learned(model).items():
        for name, tensor in tensors.items():
            tensor.fill_(values[module][name])
    model.base_model.model.head.modules_to_save["default"].load_state_dict(plain.head.state_dict())
    torch.testing.assert_close(logits(model), logits(plain), rtol=1e-5, atol=1e-6)
    assert neutral_values(adapted("lora")) == {}


@pytest.mark.parametrize("name", TUNERS)
def test_the_change_of_a_weight_is_that_of_merging(name):
    model = adapted(name)
    layer = next(layer for layer in layers_of(model) if isinstance(layer.get_base_layer(), (nn.Linear, nn.LayerNorm)))
    if name == "rlrr":
        layer = model.get_base_model().blocks[0].attn.qkv
    change, before = weight_change(layer), layer.get_base_layer().weight.detach().clone()
    if name in WITHOUT_WEIGHT:
        assert change is None
        return
    assert torch.equal(layer.get_base_layer().weight, before)
    layer.merge()
    assert change == pytest.approx((layer.get_base_layer().weight - before).norm().item(), rel=1e-4)
    assert change > 0


@pytest.mark.parametrize("method", ["linear", "full"])
def test_a_model_without_adapter_has_nothing_to_mix_combine_or_show(method):
    model = apply_method(vit(), method)
    assert can_merge(model)
    assert not any(can(model) for can in (can_mix, can_combine, can_split))
    assert learned(model) == neutral_values(model) == {}


class Other(nn.Module, BaseTunerLayer):
    """A layer of ours that denies everything."""

    adapter_layer_names = ("rlrr_other",)
    mergeable = mixable = combinable = splittable = False

    def __init__(self, base_layer: nn.Module) -> None:
        super().__init__()
        self.base_layer, self.rlrr_other = base_layer, nn.ParameterDict()

    def forward(self, x: Tensor, **options) -> Tensor:
        return self.base_layer(x)

    def weight_change(self) -> None:
        return None


def test_one_layer_that_denies_it_denies_it_for_the_model():
    model = adapted("rlrr")
    block = model.get_base_model().blocks[0]
    block.mlp = Other(block.mlp)
    assert not any(can(model) for can in (can_merge, can_mix, can_combine, can_split))
    assert weight_change(block.mlp) is None
