"""Where each method's tensors start, by statistics, against the rules of its authors' code (see docs/methods)."""

import copy
import math
import re

import pytest
import timm
import torch
from peft import get_peft_model, get_peft_model_state_dict

from rlrr.tuners.adapter import AdapterConfig
from rlrr.tuners.adapter_plus import AdapterPlusConfig
from rlrr.tuners.adaptformer import AdaptFormerConfig
from rlrr.tuners.arc import ARCConfig
from rlrr.tuners.fact import FacTConfig
from rlrr.tuners.lora_qv import LoRAQVConfig
from rlrr.tuners.repadapter import RepAdapterConfig
from rlrr.tuners.ssf import SSFConfig

WIDTH, RANK = 192, 48
CUT = 0.87962566  # deviation of a normal of 1 that is cut at two deviations


def zero(tensor):
    return not tensor.any()


def one(tensor):
    return bool((tensor == 1).all())


def uniform(bound):
    def holds(tensor):
        near_bound = 0.97 * bound < tensor.abs().max() <= bound
        return near_bound and tensor.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.1)

    return holds


def normal(deviation, mean=0.0, cut=None):
    def holds(tensor):
        within = cut is None or (tensor - mean).abs().max() <= cut
        expected = deviation * (1 if cut is None else CUT)
        spread = tensor.std().item() == pytest.approx(expected, rel=4 / math.sqrt(2 * tensor.numel()))
        return within and spread and abs(tensor.mean().item() - mean) < 4 * expected / math.sqrt(tensor.numel())

    return holds


def xavier(*shape):
    return uniform(math.sqrt(6 / sum(shape)))


def linear(fan_in):
    return uniform(1 / math.sqrt(fan_in))


_BY_HAND = {"branch.down.bias": zero, "branch.up.bias": zero}
_TINY = {"branch.down.bias": normal(1e-6), "branch.up.bias": normal(1e-6)}
_XAVIER = {"branch.down.weight": xavier(WIDTH, RANK), "branch.up.weight": xavier(WIDTH, RANK)}
_SHORT = {"branch.down.weight": normal(0.01, cut=0.02), "branch.up.weight": normal(0.01, cut=0.02)}
STARTS = {
    "ssf": (SSFConfig(), {"ssf_scale": normal(0.02, 1), "ssf_shift": normal(0.02)}),
    "adaptformer": (
        AdaptFormerConfig(bottleneck=RANK),
        {"branch.down.weight": linear(WIDTH), "branch.up.weight": zero, **_BY_HAND},
    ),
    "adapter, houlsby": (AdapterConfig(bottleneck=RANK), _SHORT | _BY_HAND),
    "adapter, houlsby_osu": (AdapterConfig(variant="houlsby_osu", bottleneck=RANK), _XAVIER | _TINY),
    "adapter, noah": (AdapterConfig(variant="noah", bottleneck=RANK), _XAVIER | _TINY),
    "adapter, pfeiffer": (AdapterConfig(variant="pfeiffer", bottleneck=RANK), {r"branch\..*": zero}),
    "adapter, pfeiffer_norm": (
        AdapterConfig(variant="pfeiffer_norm", bottleneck=RANK),
        {
            r"branch.(down|up).weight": normal(0.02),
            r"branch.norm.weight": one,
            r"branch.norm.bias": zero,
            **_BY_HAND,
        },
    ),
    "adapter_plus": (AdapterPlusConfig(bottleneck=RANK), _SHORT | _BY_HAND | {"branch.scale": one}),
    "repadapter": (
        RepAdapterConfig(bottleneck=RANK),
        {"repadapter_down": xavier(WIDTH, RANK), "repadapter_down_bias": zero, "repadapter_up(_bias)?": zero},
    ),
    "arc": (
        ARCConfig(bottleneck=RANK),
        {
            "arc_(attn|mlp)": xavier(WIDTH, RANK),
            r"attn\.qkv\.arc_rescale": zero,
            r"mlp\.fc1\.arc_rescale": xavier(1, RANK),
            "arc_shift": zero,
        },
    ),
    "lora_qv": (LoRAQVConfig(rank=RANK), {"lora_qv_[qv]_down": linear(WIDTH), "lora_qv_[qv]_up": zero}),
    "fact, tt": (
        FacTConfig(rank=RANK),
        {
            "fact_down": linear(WIDTH),
            "fact_up": zero,
            "fact_(q|k|v|proj|fc1)": linear(RANK),
            "fact_fc2": linear(4 * RANK),
        },
    ),
    "fact, tk": (
        FacTConfig(decomposition="tk", rank=RANK),
        {
            "fact_down": linear(WIDTH),
            "fact_up": zero,
            "fact_core": uniform(math.sqrt(3) / RANK),
            "fact_mix": xavier(RANK, 24),
        },
    ),
}


@pytest.mark.parametrize("name", STARTS)
def test_tensors_start_as_in_the_authors_code(name):
    config, rules = STARTS[name]
    torch.manual_seed(0)
    model = timm.create_model("vit_tiny_patch16_224", depth=2, num_classes=0, embed_dim=WIDTH)
    saved = get_peft_model_state_dict(get_peft_model(model, copy.deepcopy(config)))
    used = set()
    for tensor_name, tensor in saved.items():
        (rule,) = (pattern for pattern in rules if re.search(rf"(?:^|[._]){pattern}$", tensor_name))
        used.add(rule)
        assert rules[rule](tensor), tensor_name
    assert used == rules.keys()
