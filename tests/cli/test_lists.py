"""`rlrr methods` and `rlrr backbones`."""

from __future__ import annotations

import json

from rlrr.training.recipe import METHODS


def test_methods_are_listed(rlrr):
    lines = rlrr("methods").out.splitlines()
    assert [line.split()[0] for line in lines[2:]] == list(METHODS)


def test_methods_as_json(rlrr):
    found = json.loads(rlrr("methods", "--json").out)
    assert tuple(found) == METHODS
    assert found["rlrr"]["rank"] == 1
    assert found["linear"]["rank"] is None


def test_backbones_are_listed(rlrr):
    result = rlrr("backbones")
    assert result.code == 0
    assert "vit_small_focus" in result.out
    assert "vit_base_patch16_224.orig_in21k" in result.out


def test_backbones_as_json(rlrr):
    found = {one["name"]: one for one in json.loads(rlrr("backbones", "--json").out)}
    assert found["vit_base_patch16_224.orig_in21k"]["image_size"] == 224
    assert isinstance(found["vit_small_focus"]["available"], bool)
