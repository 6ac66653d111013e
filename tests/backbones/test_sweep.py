"""One model of each family goes through all that a user does, by the checks of benchmarks/backbones.py."""

import importlib
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

SAMPLE = {  # models, and the checks that are refused by name
    "vit_base_patch16_siglip_224": (),
    "aimv2_large_patch14_224": ("folder",),
    "beit_base_patch16_224": (),
    "eva02_tiny_patch14_224": (),
    "vit_pwee_patch16_reg1_gap_256": (),
    "cait_xxs24_224": (),
    "xcit_nano_12_p16_224": (),
    "swinv2_tiny_window8_256": ("folder",),
    "pvt_v2_b2_li": (),
    "convnext_atto": ("adaptformer",),
    "resnest14d": ("adaptformer",),
    "levit_128s": ("folder",),
    "transformers Swin V2": ("adaptformer",),
    "transformers ConvNeXt": ("adaptformer",),
}


@pytest.fixture
def sweep(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
    return importlib.import_module("backbones")


LONG = {"resnest14d"}  # many small convolutions: as long as all the others


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.soak] if name in LONG else []) for name in SAMPLE]
)
def test_a_model_works_by_default_or_says_what_does_not(sweep, name):
    row = sweep.check_any(name)
    refused = {check for check, words in row["checks"].items() if words.startswith("refused")}
    failed = {check: words for check, words in row["checks"].items() if words.startswith("FAILED")}
    assert not failed
    assert refused == set(SAMPLE[name])
    assert {"blocks", "called", "step", "merged", "mixed", "ssf", "adaptformer"} <= row["checks"].keys()
