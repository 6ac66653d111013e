"""PEFT's and transformers' own roads to an adapter: which of them work, and the warning of another backbone."""

from __future__ import annotations

import json
import shutil
import warnings
from importlib.metadata import version
from pathlib import Path

import pytest
import timm
import torch
from packaging.version import Version
from peft import AutoPeftModel, LoraConfig, PeftModel, get_peft_model
from transformers import ViTConfig, ViTForImageClassification
from transformers.integrations.peft import MIN_PEFT_VERSION

from rlrr import RLRRConfig
from rlrr.backbones import load_backbone
from rlrr.backbones.fingerprint import fingerprint
from rlrr.inference.predict import load


@pytest.fixture(scope="module")
def x():
    return torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def hf_vit(tmp_path_factory) -> Path:
    """A tiny ViT of transformers, with random weights, in a folder."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    model = ViTForImageClassification(ViTConfig(**sizes, image_size=32, patch_size=8, num_labels=3))
    folder = tmp_path_factory.mktemp("hf") / "vit"
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def run(make_adapter, tmp_path_factory) -> Path:
    return make_adapter(tmp_path_factory.mktemp("runs") / "run")


def backbone(path: str, classes: int = 3, size: int | None = None) -> torch.nn.Module:
    return timm.create_model(
        f"local-dir:{path}", pretrained=True, num_classes=classes, **({"img_size": size} if size else {})
    )


@pytest.mark.parametrize("size", [None, 48])
def test_on_its_own_backbone_an_adapter_loads_without_a_word(run, tiny_backbone, x, size):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = PeftModel.from_pretrained(backbone(tiny_backbone, size=size), str(run)).eval()
    if size is None:
        with torch.no_grad():
            torch.testing.assert_close(model(x), load(run).model.cpu()(x))


def test_on_another_backbone_it_warns(run, tiny_backbone):
    model = backbone(tiny_backbone)
    with torch.no_grad():
        model.blocks[1].mlp.fc1.weight += 1e-3
    with pytest.warns(
        UserWarning, match=r"was trained on a backbone with weights [0-9a-f]{12}, and this .* has [0-9a-f]{12}"
    ):
        PeftModel.from_pretrained(model, str(run))


def test_a_second_adapter_is_compared_with_the_frozen_weights_beneath_the_first(
    run, tiny_backbone, make_adapter, tmp_path
):
    second = make_adapter(tmp_path / "second", seed=1)
    model = PeftModel.from_pretrained(backbone(tiny_backbone), str(run))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.load_adapter(str(second), "second")
    plain = fingerprint(backbone(tiny_backbone))
    assert fingerprint(model.base_model.model, "rlrr_") == plain
    assert json.loads((run / "adapter_config.json").read_text())["backbone_sha256"] == plain


@pytest.mark.parametrize("method", ["rlrr", "ssf", "adaptformer"])
def test_every_method_of_ours_records_its_backbone(make_adapter, tmp_path, method, tiny_backbone):
    folder = make_adapter(tmp_path / method, method=method)
    expected = load_backbone(tiny_backbone, num_classes=0).fingerprint
    assert json.loads((folder / "adapter_config.json").read_text())["backbone_sha256"] == expected


def test_an_adapter_without_a_fingerprint_loads_as_before(run, tmp_path, tiny_backbone):
    old = Path(shutil.copytree(run, tmp_path / "old"))
    config = json.loads((old / "adapter_config.json").read_text())
    del config["backbone_sha256"]
    (old / "adapter_config.json").write_text(json.dumps(config))
    model = backbone(tiny_backbone)
    torch.nn.init.normal_(model.blocks[0].attn.qkv.weight)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        PeftModel.from_pretrained(model, str(old))


def test_the_fingerprint_is_no_setting():
    from rlrr.methods.apply import setting_hints

    assert "backbone_sha256" not in setting_hints(RLRRConfig)
    assert "rank" in setting_hints(RLRRConfig)


# The roads of docs/peft.md


def test_autopeft_takes_an_adapter_of_a_transformers_model(hf_vit, tmp_path, x):
    model = get_peft_model(ViTForImageClassification.from_pretrained(hf_vit), RLRRConfig(init_weights=False)).eval()
    model.save_pretrained(tmp_path / "adapter")
    again = AutoPeftModel.from_pretrained(tmp_path / "adapter", num_labels=3).eval()
    with torch.no_grad():
        torch.testing.assert_close(again(x).logits, model(x).logits)


def test_targets_of_an_older_transformers_are_met_with_the_names_of_today(hf_vit):
    model = ViTForImageClassification.from_pretrained(hf_vit)
    with pytest.raises(ValueError, match=r"query.* not found .* end in .*q_proj, .*v_proj"):
        get_peft_model(model, RLRRConfig(target_modules=["query", "value"]))


def test_autopeft_takes_no_timm_model(run, tiny_backbone, tmp_path):
    with pytest.raises(ValueError, match="Cannot infer the auto class"):
        AutoPeftModel.from_pretrained(run)
    get_peft_model(backbone(tiny_backbone), RLRRConfig()).save_pretrained(tmp_path / "adapter")
    with pytest.raises(ValueError, match="allowlist"):
        AutoPeftModel.from_pretrained(tmp_path / "adapter")


@pytest.mark.parametrize("config", [RLRRConfig, lambda: LoraConfig(target_modules=["q_proj"])])
def test_transformers_own_road_waits_for_a_release_of_peft(hf_vit, config):
    model = ViTForImageClassification.from_pretrained(hf_vit)
    if Version(version("peft")) < Version(MIN_PEFT_VERSION):
        with pytest.raises(ValueError, match="version of PEFT"):
            model.add_adapter(config())
    else:
        model.add_adapter(config())
