"""PEFT's own per-tuner suite, run on an out-of-tree tuner.

PEFT_TESTS points at the `tests/` folder of the unpacked sdist of the *installed* PEFT version
(`pip download peft==X --no-deps --no-binary peft`). Skipped where it is absent.
"""

import importlib.util
import os
import sys
from pathlib import Path

import pytest
import timm
import torch
from transformers import ViTConfig, ViTForImageClassification

from rlrr import RLRRConfig

ROOT = Path(os.environ.get("PEFT_TESTS", "/nonexistent"))
if not ROOT.is_dir():
    pytest.skip("PEFT_TESTS is not set", allow_module_level=True)
spec = importlib.util.spec_from_loader("peft_tests", loader=None, is_package=True)
package = importlib.util.module_from_spec(spec)
package.__path__ = [str(ROOT)]
sys.modules["peft_tests"] = package
suite = importlib.import_module("peft_tests.test_custom_models")
common = importlib.import_module("peft_tests.testing_common")
utils = importlib.import_module("peft_tests.testing_utils")

off = {"init_weights": False}
# The method's own start is not the pre-trained function; PEFT's tests take for granted that it is.
same_start = {"init_weights": True}
CASES = [
    ("RLRR one", "MLP", RLRRConfig, {**same_start, "target_modules": "lin0"}),
    ("RLRR list", "MLP", RLRRConfig, {**same_start, "target_modules": ["lin0"]}),
    ("RLRR both", "MLP", RLRRConfig, {**same_start, "target_modules": ["lin0", "lin1"]}),
    (
        "RLRR head saved",
        "MLP",
        RLRRConfig,
        {**same_start, "target_modules": ["lin0"], "modules_to_save": ["lin1"]},
    ),
    (
        "RLRR fused",
        "MLP",
        RLRRConfig,
        {**same_start, "target_modules": ["lin0"], "fused_blocks": {"lin0": 2}},
    ),
    (
        "RLRR norm",
        "MLP_LayerNorm",
        RLRRConfig,
        {**same_start, "target_modules": ["layernorm0", "lin0", "lin1"]},
    ),
    ("RLRR conv", "Conv2d", RLRRConfig, {**same_start, "target_modules": ["conv2d", "lin0"]}),
    *(
        (
            f"RLRR kernel {kind}",
            kind,
            RLRRConfig,
            {**same_start, "target_modules": ["conv2d"], "convolutions": "rescale"},
        )
        for kind in ("Conv2d", "Conv2dGroups", "Conv2d1x1")
    ),
]
same = {"target_modules": ["lin0"], **off}
suite.TEST_CASES[:] = CASES
suite.ALL_PEFT_CONFIG_CLASSES[:] = [RLRRConfig]
suite.MULTIPLE_ACTIVE_ADAPTERS_TEST_CASES[:] = [
    ("RLRR same", "rlrr", RLRRConfig, same, same),
    ("RLRR different", "rlrr", RLRRConfig, same, {"target_modules": ["lin1"], **off}),
]
suite.MIXED_ADAPTER_TEST_CASES[:] = [("RLRR mixed", RLRRConfig(**same), RLRRConfig(**same))]

# the parametrizations hold the same list objects, so the classes below now run on ours
TestCustom = suite.TestPeftCustomModel
TestMultiple = suite.TestMultipleActiveAdapters
TestMixed = suite.TestMixedAdapterBatches
TestGrad = suite.TestRequiresGrad
TestFsdp = suite.TestPeftFsdpStateDict


class TinyTimm:
    """`from_pretrained` as PEFT's testers expect it, on random weights."""

    @classmethod
    def from_pretrained(cls, model_id, dtype=torch.float32):
        torch.manual_seed(0)
        return timm.create_model("vit_tiny_patch16_224", img_size=16, depth=2, num_classes=5).to(dtype)


@pytest.fixture(scope="session")
def hf_dir(tmp_path_factory):
    path = str(tmp_path_factory.mktemp("tiny_vit"))
    cfg = ViTConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        num_labels=5,
        image_size=16,
        patch_size=8,
    )
    ViTForImageClassification(cfg).save_pretrained(path)
    return path


HF = (
    r".*(q_proj|k_proj|v_proj|o_proj|fc1|fc2|layernorm_before|layernorm_after|patch_embeddings\.projection)"
    r"|vit\.layernorm"
)
TIMM = r"patch_embed\.proj|blocks\.\d+\.(norm[12]|attn\.(qkv|proj)|mlp\.fc[12])|norm"
PLAIN = [
    "model_attr",
    "adapter_name",
    "from_pretrained_config_construction",
    "load_multiple_adapters",
    "merge_layers_is_idempotent",
    "load_model_low_cpu_mem_usage",
    "inference_safetensors",
    "peft_model_device_map",
    "training",
    "delete_adapter",
    "delete_inactive_adapter",
    "delete_unknown_adapter_raises",
    "get_base_model_state_dict",
]
RANDOM = [
    "save_pretrained",
    "save_pretrained_selected_adapters",
    "save_pretrained_adapter_name_substring",
    "merge_layers",
    "merge_layers_nan",
    "merge_layers_multi",
    "safe_merge",
    "merge_layers_fp16",
    "mixed_adapter_batches",
    "unload_adapter",
]


@pytest.mark.parametrize("kind", ["hf", "timm"])
@pytest.mark.parametrize("name", PLAIN + RANDOM)
def test_vit(name, kind, hf_dir):
    tester = common.PeftCommonTester()
    tester.transformers_class = ViTForImageClassification if kind == "hf" else TinyTimm
    key = "pixel_values" if kind == "hf" else "x"
    tester.prepare_inputs_for_testing = lambda: {
        key: torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    }
    kwargs = {"target_modules": HF if kind == "hf" else TIMM} | (off if name in RANDOM else {})
    getattr(tester, f"_test_{name}")(hf_dir if kind == "hf" else "timm", RLRRConfig, kwargs)


def test_vit_layer_indexing(hf_dir):
    tester = common.PeftCommonTester()
    tester.transformers_class = ViTForImageClassification
    tester.prepare_inputs_for_testing = lambda: {"pixel_values": torch.rand(4, 3, 16, 16)}
    tester._test_training_layer_indexing(hf_dir, RLRRConfig, {"target_modules": ["q_proj", "fc1"]})


config_suite = importlib.import_module("peft_tests.test_config")
for method in vars(config_suite.TestPeftConfig).values():  # that table is a tuple, so swap the marks instead
    method_marks = getattr(method, "pytestmark", [])
    for i, mark in enumerate(method_marks):
        if mark.name == "parametrize" and mark.args[0] == "config_class, mandatory_kwargs":
            method_marks[i] = pytest.mark.parametrize(mark.args[0], [(RLRRConfig, {})], ids=["RLRR"]).mark
TestConfig = config_suite.TestPeftConfig
