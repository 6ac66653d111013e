"""`rlrr methods` and `rlrr backbones`."""

from __future__ import annotations

import json
import re

import pytest

from rlrr.methods.table import METHODS

pytestmark = pytest.mark.slow


def test_methods_are_listed(rlrr):
    lines = rlrr("methods").out.partition("\n\n")[0].splitlines()
    assert [line.split()[0] for line in lines[2:]] == list(METHODS)
    assert re.search(r"^adaptformer +Chen et al., NeurIPS 2022 +1,189,632 +no +yes +yes$", "\n".join(lines), re.M)


@pytest.mark.soak
def test_methods_as_json(rlrr):
    found = json.loads(rlrr("methods", "--json").out)
    assert list(found) == list(METHODS)
    assert found["rlrr"]["learning_rate"] == METHODS["rlrr"].learning_rate
    assert found["linear"]["config"] is None
    assert found["ssf"]["parameters"] == 205_824


SOME = ("rlrr", "linear", "vpt_deep", "lora", "peft:vera")


@pytest.mark.parametrize(
    "name", [*SOME, *(pytest.param(name, marks=pytest.mark.soak) for name in METHODS if name not in SOME)]
)
def test_a_method_is_explained(rlrr, name):
    result = rlrr("methods", name)
    assert result.code == 0, result.err
    assert METHODS[name].summary in result.out
    explained = json.loads(rlrr("methods", name, "--json").out)
    assert f"{explained['parameters']:,} on ViT-B/16" in result.out
    assert explained["abilities"].keys() == {"can_merge", "can_mix", "can_combine", "can_split"}
    for setting, described in explained["settings"].items():
        assert f"  {setting}: {described['type']} (default: " in result.out


def test_the_settings_of_peft_are_cut_to_a_sentence_or_two_but_for_machines(rlrr):
    shown, explained = rlrr("methods", "lora").out, json.loads(rlrr("methods", "lora", "--json").out)
    meaning = explained["settings"]["use_dora"]["meaning"]
    assert "<" in meaning
    assert "<" not in shown
    assert explained["settings"]["r"]["meaning"] in shown
    assert len(shown) < sum(len(setting["meaning"]) for setting in explained["settings"].values())


def test_the_settings_of_rlrr_have_meanings_and_its_parameters_are_the_papers(rlrr):
    explained = json.loads(rlrr("methods", "rlrr", "--json").out)
    assert explained["parameters"] == 288_768
    assert explained["settings"]["sides"]["type"] == "one of both, in, out"
    assert explained["settings"]["rank"]["default"] == 1
    assert all(described["meaning"] for described in explained["settings"].values())


def test_an_unknown_method_is_met_with_the_nearest(refused):
    assert "Did you mean lora" in refused("methods", "lroa", code=2)


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
