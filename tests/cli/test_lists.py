"""`rlrr methods` and `rlrr backbones`."""

from __future__ import annotations

import json

from rlrr.recipes.recipe import METHODS


def test_methods_are_listed(rlrr):
    lines = rlrr("methods").out.splitlines()
    assert [line.split()[0] for line in lines[2:]] == list(METHODS)


def test_methods_as_json(rlrr):
    found = json.loads(rlrr("methods", "--json").out)
    assert tuple(found) == METHODS
    assert found["rlrr"]["rank"] == 1
    assert found["linear"]["rank"] is None


def test_backbones_are_listed_in_80_columns(rlrr):
    result = rlrr("backbones")
    assert result.code == 0
    assert max(map(len, result.out.splitlines())) < 80
    block = next(block for block in result.out.split("\n\n") if block.startswith("vit_base_patch16_224.mae "))
    for words in ("86 M", "224 px", "mae_pretrain_vit_base.pth", "0.485 0.456 0.406, std 0.229", "RLRR, MoPPA"):
        assert words in block
    assert "--weights FILE" in result.out.split("\n\n")[-1]


def test_backbones_as_json(rlrr):
    found = {one["name"]: one for one in json.loads(rlrr("backbones", "--json").out)}
    original = found["vit_base_patch16_224.orig_in21k"]
    assert (original["image_size"], original["file"], original["std"]) == (224, "ViT-B_16.npz", [0.5, 0.5, 0.5])
    assert "VPT" in original["used_by"]
    assert isinstance(found["vit_small_focus"]["available"], bool)
