"""PEFT's own per-tuner suite, run on every method in `cases.PEFT_SUITES`.

A test that needs a merge of a method that cannot merge is left out, and listed: see conftest.py.

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
from tests.tuners.cases import PEFT_SUITES
from transformers import ViTConfig, ViTForImageClassification

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

CASES = [
    (f"{method} {title}", model, suite_of.config, suite_of.same_start | settings)
    for method, suite_of in PEFT_SUITES.items()
    for title, (model, settings) in suite_of.models.items()
]
suite.TEST_CASES[:] = CASES
ANYWHERE = {method: suite_of for method, suite_of in PEFT_SUITES.items() if suite_of.models}
suite.ALL_PEFT_CONFIG_CLASSES[:] = [suite_of.config for suite_of in ANYWHERE.values()]
suite.MULTIPLE_ACTIVE_ADAPTERS_TEST_CASES[:] = []
suite.MIXED_ADAPTER_TEST_CASES[:] = []
for method, suite_of in ANYWHERE.items():
    same, other = ({"target_modules": [name], **suite_of.random_start} for name in ("lin0", "lin1"))
    config = suite_of.config
    suite.MULTIPLE_ACTIVE_ADAPTERS_TEST_CASES.append((f"{method} same", method, config, same, same))
    suite.MULTIPLE_ACTIVE_ADAPTERS_TEST_CASES.append((f"{method} different", method, config, same, other))
    suite.MIXED_ADAPTER_TEST_CASES.append((f"{method} mixed", config(**same), config(**same)))

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
@pytest.mark.parametrize("method", list(PEFT_SUITES))
def test_vit(method, name, kind, hf_dir):
    suite_of = PEFT_SUITES[method]
    tester = common.PeftCommonTester()
    tester.transformers_class = ViTForImageClassification if kind == "hf" else TinyTimm
    key = "pixel_values" if kind == "hf" else "x"
    tester.prepare_inputs_for_testing = lambda: {
        key: torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    }
    targets = {"target_modules": suite_of.vit[kind == "hf"]}
    settings = targets | (suite_of.random_start if name in RANDOM else {})
    getattr(tester, f"_test_{name}")(hf_dir if kind == "hf" else "timm", suite_of.config, settings)


@pytest.mark.parametrize("method", list(PEFT_SUITES))
def test_vit_layer_indexing(method, hf_dir):
    tester = common.PeftCommonTester()
    tester.transformers_class = ViTForImageClassification
    tester.prepare_inputs_for_testing = lambda: {"pixel_values": torch.rand(4, 3, 16, 16)}
    suite_of = PEFT_SUITES[method]
    settings = {"target_modules": suite_of.endings} if suite_of.endings else {"modules_to_save": []}
    tester._test_training_layer_indexing(hf_dir, suite_of.config, settings)


config_suite = importlib.import_module("peft_tests.test_config")
for method in vars(config_suite.TestPeftConfig).values():  # that table is a tuple, so swap the marks instead
    method_marks = getattr(method, "pytestmark", [])
    for i, mark in enumerate(method_marks):
        if mark.name == "parametrize" and mark.args[0] == "config_class, mandatory_kwargs":
            method_marks[i] = pytest.mark.parametrize(
                mark.args[0], [(suite_of.config, {}) for suite_of in PEFT_SUITES.values()], ids=list(PEFT_SUITES)
            ).mark
TestConfig = config_suite.TestPeftConfig
