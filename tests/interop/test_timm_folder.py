"""Plain models in timm's folder format."""

from __future__ import annotations

import errno
import json

import pytest
import timm
import torch
from torch import nn

from rlrr.backbones import load_backbone
from rlrr.errors import RLRRError
from rlrr.interop import timm_folder
from rlrr.interop.timm_folder import write_timm_folder

SIZES = {"img_size": 32, "patch_size": 8, "depth": 1, "embed_dim": 32, "num_heads": 2}


def vit(**changes) -> nn.Module:
    torch.manual_seed(0)
    return timm.create_model("vit_tiny_patch16_224", num_classes=2, **{**SIZES, **changes}).eval()


def config_of(model: nn.Module) -> dict:
    return timm.data.resolve_model_data_config(model, {"img_size": 32})


def test_timm_reads_what_was_written_with_its_preprocessing(tmp_path):
    model = vit()
    config = {**config_of(model), "mean": (0.1, 0.2, 0.3), "crop_pct": 0.8, "interpolation": "bilinear"}
    write_timm_folder(model, tmp_path / "new" / "model", ["a", "b"], config)
    again = timm.create_model(f"local-dir:{tmp_path / 'new' / 'model'}", pretrained=True).eval()
    x = torch.randn(2, 3, 32, 32)
    assert torch.equal(again(x), model(x))
    found = timm.data.resolve_model_data_config(again)
    assert (tuple(found["mean"]), found["crop_pct"], found["interpolation"]) == ((0.1, 0.2, 0.3), 0.8, "bilinear")


def test_whoever_may_read_the_description_may_read_the_weights(tmp_path):
    write_timm_folder(vit(), tmp_path / "model", ["a", "b"], config_of(vit()))
    config, weights = ((tmp_path / "model" / name).stat() for name in ("config.json", "model.safetensors"))
    assert weights.st_mode == config.st_mode


def test_the_number_of_classes_stands_once_for_transformers_sake(tmp_path):
    write_timm_folder(vit(), tmp_path / "model", ["a", "b"], config_of(vit()))
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    assert config["num_classes"] == 2
    assert "num_classes" not in config["model_args"]
    assert "tag" not in config["pretrained_cfg"]


def test_a_bias_without_a_place_is_refused_and_nothing_is_left(tmp_path):
    model = vit(qkv_bias=False)
    model.blocks[0].attn.qkv.bias = nn.Parameter(torch.ones(96))
    with pytest.raises(RLRRError, match=r"vit_tiny_patch16_224 has no place for blocks\.0\.attn\.qkv\.bias"):
        write_timm_folder(model, tmp_path / "model", ["a", "b"], config_of(model))
    assert list(tmp_path.iterdir()) == []


class Merging(nn.Module):
    """Norm and reduction, as Swin's patch merging has them."""

    def __init__(self, rank: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(8)
        self.reduction = nn.Linear(8, 4)
        self.reduction.weight.data[rank:] = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.reduction(self.norm(x))


def test_the_bias_of_a_reduction_moves_into_the_norm_before_it():
    torch.manual_seed(0)
    model, x = Merging(rank=4), torch.randn(5, 8)
    before = model(x)
    timm_folder._move_extra_biases(model, {"reduction.bias"}, (5, 8))
    assert model.reduction.bias is None
    torch.testing.assert_close(model(x), before, rtol=0, atol=1e-6)


def test_a_bias_that_the_reduction_cannot_make_stays():
    torch.manual_seed(0)
    model, x = Merging(rank=2), torch.randn(5, 8)
    before = model(x)
    timm_folder._move_extra_biases(model, {"reduction.bias"}, (5, 8))
    assert model.reduction.bias is not None
    assert torch.equal(model(x), before)


@pytest.mark.parametrize("architecture", ["resnet18", "resnet26d", "test_efficientnet"])
def test_the_bias_of_a_convolution_moves_into_the_batch_norm_after_it(architecture, tmp_path):
    torch.manual_seed(0)
    model = timm.create_model(architecture, num_classes=3)
    keys = set(model.state_dict())
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 1)  # timm starts the last norm of a branch at zero
        elif isinstance(module, nn.Conv2d) and module.bias is None:
            module.bias = nn.Parameter(torch.randn(module.out_channels))
    x = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        before = model.eval()(x)
        write_timm_folder(model, tmp_path / "model", ["a", "b", "c"], config_of(model) | {"input_size": (3, 64, 64)})
        again = timm.create_model(f"local-dir:{tmp_path / 'model'}", pretrained=True).eval()
        assert set(again.state_dict()) == set(model.state_dict()) == keys
        torch.testing.assert_close(again(x), before, rtol=0, atol=1e-5 * before.abs().max().item())


class Branching(nn.Module):
    """A convolution whose output a norm takes, and a shortcut beside it."""

    def __init__(self, shortcut: float) -> None:
        super().__init__()
        self.conv, self.norm, self.shortcut = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), shortcut

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv(x)
        return self.norm(x) + self.shortcut * x


@pytest.mark.parametrize("shortcut", [0.0, 1.0])
def test_a_bias_moves_into_a_norm_only_where_the_function_stays(shortcut):
    torch.manual_seed(0)
    model, x = Branching(shortcut).eval(), torch.randn(2, 3, 4, 4)
    before = model(x)
    timm_folder._move_extra_biases(model, {"conv.bias"}, (3, 4, 4))
    assert (model.conv.bias is None) == (shortcut == 0)
    torch.testing.assert_close(model(x), before, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("name", "moves"), [("beit_base_patch16_224", True), ("swinv2_tiny_window8_256", False)])
def test_a_bias_of_qkv_moves_into_those_that_an_attention_holds_apart_if_keys_may_be_shifted(name, moves):
    torch.manual_seed(0)
    sizes = {"depth": 1, "num_heads": 2} if moves else {"depths": (1,), "num_heads": (2,), "window_size": 4}
    model = timm.create_model(name, num_classes=3, embed_dim=32, img_size=32, **sizes).eval()
    attention = (model.blocks if moves else model.layers[0].blocks)[0].attn
    attention.qkv_bias_separate = True
    attention.qkv.bias = nn.Parameter(torch.randn(96))
    if moves:
        model.blocks[0].gamma_1 = nn.Parameter(torch.ones(32))
        nn.init.normal_(model.head.weight)
    else:
        nn.init.normal_(attention.qkv.weight, std=0.5)
        nn.init.normal_(model.layers[0].blocks[0].norm1.weight)
        nn.init.normal_(model.head.fc.weight)
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        before = model(x)
        extra = {key for key in model.state_dict() if key.endswith("qkv.bias")}
        timm_folder._move_extra_biases(model, extra, (3, 32, 32))
        assert (attention.qkv.bias is None) == moves
        torch.testing.assert_close(model(x), before, rtol=0, atol=1e-4)


def test_a_convolution_whose_output_no_batch_norm_takes_as_it_is_keeps_its_bias(tmp_path):
    model = timm.create_model("resnetv2_18", num_classes=2)  # norms come first here
    conv = model.stages[0].blocks[0].conv2
    conv.bias = nn.Parameter(torch.ones(conv.out_channels))
    with pytest.raises(RLRRError, match=r"resnetv2_18 has no place for stages\.0\.blocks\.0\.conv2\.bias"):
        write_timm_folder(model, tmp_path / "model", ["a", "b"], config_of(model))
    assert torch.equal(conv.bias, torch.ones(conv.out_channels))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_merged_packaged_backbone_carries_the_licence_of_its_package(tmp_path):
    pytest.importorskip("onnx")
    backbone = load_backbone("vit_small_focus", num_classes=2, image_size=28)
    write_timm_folder(backbone.model, tmp_path / "model", ["a", "b"], backbone.data_config)
    config = json.loads((tmp_path / "model" / "config.json").read_text())["pretrained_cfg"]
    assert config["license"] == "mit"
    wrong = {"tag", "url", "file", "hf_hub_id", "source", "state_dict", "description", "origin_url"}
    assert config.keys().isdisjoint(wrong | {"paper_name", "paper_ids", "notes"})


def test_what_was_said_of_the_weights_before_is_left_out_but_their_licence(tmp_path):
    model = vit()
    said = {"tag": "in1k", "paper_ids": "arXiv:1", "origin_url": "u", "notes": ("n",), "hf_hub_id": "a/b", "url": "u"}
    model.pretrained_cfg.update(said, license="cc-by-nc-4.0")
    write_timm_folder(model, tmp_path / "model", ["a", "b"], config_of(model))
    config = json.loads((tmp_path / "model" / "config.json").read_text())["pretrained_cfg"]
    assert config["license"] == "cc-by-nc-4.0"
    assert config.keys().isdisjoint(said)


def test_a_full_disk_is_one_sentence_and_leaves_nothing(tmp_path, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(timm_folder, "save_for_hf", full)
    with pytest.raises(RLRRError, match="No space left on the disk to write"):
        write_timm_folder(vit(), tmp_path / "model", ["a", "b"], config_of(vit()))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
@pytest.mark.parametrize("damage", ["bit", "other"])
def test_weights_or_a_config_that_were_changed_are_not_taken_for_a_backbone(tmp_path, name, damage):
    folder, other = tmp_path / "model", tmp_path / "other"
    write_timm_folder(vit(), folder, ["a", "b"], config_of(vit()))
    load_backbone(str(folder), num_classes=3)
    another = vit()
    another.blocks[0].attn.qkv.weight.data += 1
    write_timm_folder(another, other, ["a", "c"], config_of(another) | {"mean": (0.1, 0.2, 0.3)})
    content = (folder / name).read_bytes()
    changed = content.replace(b"0.5", b"0.4", 1) if name == "config.json" else content[:-9] + b"!" + content[-8:]
    (folder / name).write_bytes(changed if damage == "bit" else (other / name).read_bytes())
    for given in ({"name": str(folder)}, {"name": "vit_tiny_patch16_224", "weights": str(folder)}):
        with pytest.raises(RLRRError, match=r"is damaged, or"):
            load_backbone(**given, num_classes=3)


def test_a_module_that_stands_in_several_places_is_written_in_each(tmp_path):
    model = timm.create_model("coat_tiny", num_classes=2).eval()  # its blocks share their position encodings
    config = timm.data.resolve_model_data_config(model)
    write_timm_folder(model, tmp_path / "model", ["a", "b"], config)
    again = timm.create_model(f"local-dir:{tmp_path / 'model'}", pretrained=True).eval()
    x = torch.randn(1, *config["input_size"])
    assert torch.equal(again(x), model(x))
    assert not model._state_dict_hooks
