"""What the methods refuse, each in a sentence that names it: a backbone, a size, another method's setting."""

import re

import pytest
import timm
import torch
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from transformers import CLIPVisionConfig, CLIPVisionModel

from rlrr.adapters.folder import load_adapter
from rlrr.errors import RLRRError, UsageError
from rlrr.methods.apply import apply_method
from rlrr.methods.table import METHODS
from rlrr.tuners.vpt import VPTConfig

OURS = sorted(name for name, method in METHODS.items() if (method.config or "").startswith("rlrr."))
NOT_ON = {
    "fact": ("swin_tiny_patch4_window7_224", "resnet18", "eva02_tiny_patch14_224", "vit_small_plus_patch16_dinov3"),
    "arc": ("swin_tiny_patch4_window7_224", "resnet18"),
    "lora_qv": ("resnet18", "convnext_atto"),
    "repadapter": ("resnet18",),
    "adapter": ("resnet18", "cait_xxs24_224"),
    "adapter_plus": (),
    "vpt_deep": ("swin_tiny_patch4_window7_224", "beit_base_patch16_224", "resnet18"),
    "vpt_shallow": ("swin_tiny_patch4_window7_224",),
    "convpass": ("swin_tiny_patch4_window7_224", "resnet18"),
}


def make(name):
    with torch.device("meta"):
        return timm.create_model(name)


@pytest.mark.parametrize(("method", "model"), [(method, model) for method in NOT_ON for model in NOT_ON[method]])
def test_a_backbone_that_a_method_is_not_defined_on_is_named(method, model):
    backbone = make(model)
    before = list(backbone.state_dict())
    with pytest.raises(UsageError) as caught, torch.device("meta"):
        apply_method(backbone, method)
    sentence = str(caught.value)
    # the model by its class, or the module that does not fit by its name
    assert type(backbone).__name__ in sentence or any(name in sentence for name, _ in backbone.named_modules() if name)
    assert "\n" not in sentence
    assert list(backbone.state_dict()) == before


BAD = [
    *(
        (method, {"bottleneck": 0})
        for method in ("adapter", "adapter_plus", "arc", "convpass", "repadapter", "adaptformer")
    ),
    *((method, {"rank": 0}) for method in ("fact", "lora_qv", "rlrr")),
    *((method, {"dropout": 1.5}) for method in ("arc", "convpass", "fact", "lora_qv", "repadapter", "vpt_deep")),
    *((method, {"dropout": float("nan")}) for method in ("arc", "convpass", "fact", "vpt_deep")),
    *((method, {"scale": 0.0}) for method in ("adaptformer", "convpass", "fact", "lora_qv", "repadapter")),
    ("adapter", {"variant": "houlsby_osu", "scale": float("inf")}),
    ("vpt_deep", {"tokens": 0}),
    ("vpt_shallow", {"tokens": -3}),
    ("repadapter", {"groups": 3}),
    ("repadapter", {"groups": 0}),
    ("adapter", {"variant": "houlsbee"}),
    ("adapter", {"scale": 2.0}),
    ("fact", {"decomposition": "svd"}),
    ("convpass", {"convolution": "ones"}),
    ("adapter_plus", {"drop_path": 2.0}),
    ("last_blocks", {"last_blocks": 0}),
    ("last_blocks", {"last_blocks": 99}),
    ("last_blocks", {"parts": ["attn"]}),
    ("bitfit", {"tensors": "weights"}),
    ("rlrr", {"form": "product", "rank": 2}),
]


@pytest.mark.parametrize(("method", "settings"), BAD, ids=str)
def test_a_setting_that_does_not_fit_is_named(method, settings):
    with pytest.raises(UsageError) as caught, torch.device("meta"):
        apply_method(make("vit_tiny_patch16_224"), method, settings)
    assert any(name in str(caught.value) for name in settings)
    assert "\n" not in str(caught.value)


def test_parts_that_a_model_lacks_are_named():
    with pytest.raises(UsageError, match=r"Cait has no attn\.module"), torch.device("meta"):
        apply_method(make("cait_xxs24_224"), "adapter", {"parts": ["attn.module", "mlp.module"]})


def test_a_fused_linear_of_another_order_is_refused():
    with pytest.raises(UsageError, match="one below the other"), torch.device("meta"):
        apply_method(make("tiny_vit_5m_224"), "lora_qv", {"target_modules": ["qkv"]})


@pytest.mark.parametrize("method", ["bitfit", "attention"])
def test_own_weights_that_a_selection_means_and_does_not_reach_are_warned_of(method, caplog):
    with torch.device("meta"):
        apply_method(make("beit_base_patch16_224"), method)
    assert re.search(r"stay frozen, such as blocks\.0\.attn\.q_bias", caplog.text)


@pytest.mark.parametrize("method", ["bitfit", "attention", "last_blocks"])
def test_a_vit_has_no_such_weights(method, caplog):
    with torch.device("meta"):
        apply_method(make("vit_tiny_patch16_224"), method)
    assert "frozen" not in caplog.text


@pytest.mark.parametrize("method", OURS)
def test_a_setting_of_another_method_is_refused_by_name(method):
    strange = "lora_alpha"
    with pytest.raises(UsageError, match=f"{method} has no setting {strange}"):
        apply_method(make("vit_tiny_patch16_224"), method, {strange: 2})


def test_an_adapter_whose_method_is_not_known_is_refused_by_name(make_adapter, tmp_path, monkeypatch):
    folder = make_adapter(tmp_path / "run", method="vpt_deep")
    load_adapter(folder)
    monkeypatch.delitem(PEFT_TYPE_TO_CONFIG_MAPPING, VPTConfig.tuner_type())  # as in a version from before it
    with pytest.raises(RLRRError, match=r"of a method VPT, which neither this rlrr nor PEFT .* knows"):
        load_adapter(folder)


@pytest.mark.parametrize("model", ["maxvit_pico_rw_256", "crossvit_tiny_240", "davit_tiny", "pit_ti_224"])
def test_a_bottleneck_behind_blocks_that_give_no_tokens_is_refused(model):
    with pytest.raises(UsageError, match="no default target modules"):
        apply_method(make(model), "adapter_plus")


def test_a_bottleneck_behind_a_block_that_is_named_and_gives_no_tokens_is_refused_when_it_runs():
    model = apply_method(
        timm.create_model("davit_tiny"), "adapter_plus", {"target_modules": r"stages\.0\.blocks\.0\.0"}
    )
    with pytest.raises(RLRRError, match="leave it out of target_modules"), torch.no_grad():
        model.eval()(torch.zeros(1, 3, 224, 224))


def test_a_stream_that_no_norm_stands_before_is_refused_and_one_of_any_order_of_modules_is_not():
    with pytest.raises(UsageError, match=r"blocks\.0 has its norms behind"), torch.device("meta"):
        apply_method(timm.create_model("eva02_enormous_patch14_clip_224", depth=1), "adaptformer")
    sizes = {"hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 48}
    clip = CLIPVisionModel(CLIPVisionConfig(image_size=32, patch_size=16, **sizes))
    assert any("adaptformer" in name for name, _ in apply_method(clip, "adaptformer").named_parameters())
