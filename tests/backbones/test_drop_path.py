"""The two kinds of drop path."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from rlrr.backbones import load_backbone
from rlrr.backbones.drop_path import drop_elements
from rlrr.errors import RLRRError, UsageError
from rlrr.interop.timm_folder import write_timm_folder


@pytest.fixture
def weights(tiny: Path, tiny_model: nn.Module) -> Path:
    save_file(tiny_model.state_dict(), tiny / "model.safetensors")
    return tiny


def load(folder: Path, kind: str, drop_path: float = 0.2) -> nn.Module:
    torch.manual_seed(1)
    return load_backbone(str(folder), num_classes=2, drop_path=drop_path, drop_path_kind=kind).model


def test_the_papers_kind_drops_single_elements_at_rates_that_grow_with_depth(weights: Path) -> None:
    blocks = load(weights, "paper").train().blocks
    assert [getattr(block.drop_path2, "p", 0.0) for block in blocks] == pytest.approx([0, 0.1, 0.2])
    dropped = blocks[2].drop_path1(torch.ones(64, 17, 48)) == 0
    assert 0.18 < dropped.float().mean() < 0.22
    assert dropped.flatten(1).any(1).all()
    assert not dropped.flatten(1).all(1).any()


def test_stochastic_depth_drops_whole_images(weights: Path) -> None:
    dropped = load(weights, "stochastic_depth").train().blocks[2].drop_path1(torch.ones(64, 17, 48)) == 0
    assert torch.equal(dropped.flatten(1).any(1), dropped.flatten(1).all(1))
    assert dropped.any()


def test_in_evaluation_there_is_no_drop_path(weights: Path) -> None:
    images = torch.randn(2, 3, 32, 32)
    expected, model = load(weights, "paper", drop_path=0.0).eval(), load(weights, "paper").eval()
    assert torch.equal(model(images), expected(images))


def test_the_papers_kind_leaves_no_trace_in_a_written_model(weights: Path, tmp_path: Path) -> None:
    files = []
    for drop_path in (0.0, 0.2):
        folder = tmp_path / str(drop_path)
        model = load(weights, "paper", drop_path)
        write_timm_folder(model, folder, ["a", "b"], timm.data.resolve_model_data_config(model))
        files.append((json.loads((folder / "config.json").read_text()), load_file(folder / "model.safetensors")))
    (plain, tensors), (config, same) = files
    assert config == plain
    assert tensors.keys() == same.keys()
    assert all(torch.equal(tensor, same[name]) for name, tensor in tensors.items())


def test_a_swin_keeps_stochastic_depth(make_folder: Callable[..., Path]) -> None:
    sizes = {"img_size": 64, "embed_dim": 16, "depths": [1, 1], "num_heads": [1, 2], "window_size": 4}
    folder = make_folder("swin", "swin_tiny_patch4_window7_224", "head.fc", **sizes)
    save_file(timm.create_model("swin_tiny_patch4_window7_224", **sizes).state_dict(), folder / "model.safetensors")
    model = load(folder, "paper")
    assert model.layers[1].blocks[0].drop_path1.drop_prob == pytest.approx(0.2)


def test_a_model_without_drop_path_is_refused(tiny_model: nn.Module) -> None:
    with pytest.raises(RLRRError, match="tiny has no stochastic depth") as caught:
        drop_elements(tiny_model, "tiny")
    assert isinstance(caught.value, UsageError)
    with pytest.raises(RLRRError, match=r"timm cannot build vgg11 like this.*drop_path_rate"):
        load_backbone("vgg11", num_classes=2, weights="w.pth", drop_path=0.1, drop_path_kind="paper")
