"""Plain models in timm's folder format."""

from __future__ import annotations

import errno
import json

import pytest
import timm
import torch
from torch import nn

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
    timm_folder._move_extra_biases(model)
    assert model.reduction.bias is None
    torch.testing.assert_close(model(x), before, rtol=0, atol=1e-6)


def test_a_bias_that_the_reduction_cannot_make_stays():
    torch.manual_seed(0)
    model, x = Merging(rank=2), torch.randn(5, 8)
    before = model(x)
    timm_folder._move_extra_biases(model)
    assert model.reduction.bias is not None
    assert torch.equal(model(x), before)


def test_a_full_disk_is_one_sentence_and_leaves_nothing(tmp_path, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(timm_folder, "save_for_hf", full)
    with pytest.raises(RLRRError, match="No space left on the disk to write"):
        write_timm_folder(vit(), tmp_path / "model", ["a", "b"], config_of(vit()))
    assert list(tmp_path.iterdir()) == []
