"""The settings: what is refused, what is written, and that PEFT knows of them in whatever order things are imported."""

import json
import os
import pickle
import subprocess
import sys

import pytest
from peft import PeftConfig, get_peft_model
from torch import nn

from rlrr import RLRRConfig
from rlrr.errors import RLRRError

REFUSED = {
    "rank must be 1 or more, not 0": {"rank": 0},
    "rank must be a whole number, not 'a'": {"rank": "a"},
    "rank must be a whole number, not 1.5": {"rank": 1.5},
    "rank must be a whole number, not nan": {"rank": float("nan")},
    "rank must be a whole number, not None": {"rank": None},
    "gradient_tokens must be a number, not 'all'": {"gradient_tokens": "all"},
    "shift must be true or false, not 'yes'": {"shift": "yes"},
    "fused_blocks must be ": {"fused_blocks": {"qkv": "three"}},
    "target_modules must be ": {"target_modules": 3},
    "parts must be a list, not 3": {"parts": 3},
    "layers_to_transform must be ": {"layers_to_transform": ["first"]},
    "target_modules must be a regex of module names, and '(' is none": {"target_modules": "("},
    "exclude_modules must be a regex of module names, and '*' is none": {"exclude_modules": "*"},
    "gradient_tokens must be above 0 and at most 1, not 0": {"gradient_tokens": 0},
    "sides must be one of both, in, out, not 'bth'. Did you mean both?": {"sides": "bth"},
    "constant, True, False, not 'papr'. Did you mean paper?": {"init_weights": "papr"},
    'neither gets a gradient: init_weights="identity"': {"init_weights": "zero"},
    'init_weights="constant" needs rank 1: the 3 terms would': {"init_weights": "constant", "rank": 3},
    "convolutions must be one of scale, rescale, not 'rescaled'. Did you mean rescale": {"convolutions": "rescaled"},
    "rank > 1 and multiply_weight=False need sides=\"both\", not 'in'": {"sides": "in", "rank": 2},
    "rank > 1 and multiply_weight=False need sides=\"both\", not 'out'": {"sides": "out", "multiply_weight": False},
    "fused_blocks must be 1 or more, not 0": {"fused_blocks": {"qkv": 3, "kv": 0}},
    "together leave out the frozen weight": {"residual": False, "multiply_weight": False},
    "leave out target_modules, or parts": {"target_modules": ["qkv"], "parts": ["attn"]},
    "parts is empty": {"parts": []},
    "layers_to_transform is empty": {"layers_to_transform": []},
    "cannot be used with a regex": {"target_modules": "blocks.*", "layers_to_transform": 0},
    "with a regex in target_modules": {"target_modules": ".*", "layers_pattern": "blocks"},
    "layers_pattern needs layers_to_transform": {"target_modules": ["qkv"], "layers_pattern": "blocks"},
}
SETTINGS = [
    {},
    {"target_modules": ["qkv", "proj", "fc1"], "layers_to_transform": [0, 1], "layers_pattern": "blocks"},
    {"target_modules": r".*\.qkv", "exclude_modules": ["proj", "fc2"], "modules_to_save": ["head"]},
    {"rank": 3, "residual": False, "shift": False, "init_weights": False, "fused_blocks": {"qkv": 3, "kv": 2}},
    {"parts": ["attn", "norm"], "init_weights": "uniform", "convolutions": "rescale"},
    {"parts": "mlp", "init_weights": "identity"},
    {"sides": "in", "init_weights": True, "fused_blocks": 3},
]


@pytest.mark.parametrize("sentence", REFUSED)
def test_settings_that_cannot_be_are_refused_in_a_sentence(sentence):
    with pytest.raises(RLRRError) as error:
        RLRRConfig(**REFUSED[sentence])
    assert sentence in str(error.value)
    assert str(error.value).endswith((".", "?"))


@pytest.mark.parametrize("settings", SETTINGS)
def test_settings_come_back_as_they_were_saved(settings, tmp_path):
    config = RLRRConfig(**settings)
    config.save_pretrained(tmp_path / "one")
    again = PeftConfig.from_pretrained(tmp_path / "one")
    assert type(again) is RLRRConfig
    assert {**vars(again), "inference_mode": False} == {**vars(config), "inference_mode": False}
    again.save_pretrained(tmp_path / "two")
    one, two = ((tmp_path / name / "adapter_config.json").read_bytes() for name in ("one", "two"))
    assert one == two


def test_names_are_written_in_order_whatever_the_hashes(tmp_path):
    names = [f"layer{index}" for index in range(40)]
    RLRRConfig(target_modules=names[::-1], exclude_modules=names[:20]).save_pretrained(tmp_path)
    written = json.loads((tmp_path / "adapter_config.json").read_text())
    assert written["target_modules"] == sorted(names)
    assert written["exclude_modules"] == sorted(names[:20])
    assert written["peft_type"] == "RLRR"


# In a process of its own


def run(code, *arguments):
    result = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    "imports",
    [
        "import rlrr; import peft",
        "import peft; import pickle; assert pickle.load(open(sys.argv[1] + '/config.pkl', 'rb')).rank == 2",
    ],
    ids=["ours first", "PEFT first, ours by a pickled config"],
)
def test_peft_loads_our_adapter_whichever_is_imported_first(imports, tmp_path):
    (tmp_path / "config.pkl").write_bytes(pickle.dumps(RLRRConfig(rank=2)))
    model = get_peft_model(nn.Sequential(nn.Linear(3, 2)), RLRRConfig(target_modules=["0"]))
    model.save_pretrained(tmp_path, save_embedding_layers=False)
    code = f"""
import sys
{imports}
import torch
from peft import PeftConfig, PeftModel
config = PeftConfig.from_pretrained(sys.argv[1])
model = PeftModel.from_pretrained(torch.nn.Sequential(torch.nn.Linear(3, 2)), sys.argv[1])
print(type(config).__name__, type(model.base_model).__name__, sum("rlrr_" in name for name in model.state_dict()))
"""
    assert run(code, tmp_path).split() == ["RLRRConfig", "RLRRModel", "3"]


def test_importing_the_package_loads_nothing_heavy():
    heavy = "{'torch', 'peft', 'timm', 'transformers', 'numpy', 'PIL'}"
    assert run(f"import sys, rlrr; print({heavy} & set(sys.modules))").strip() == "set()"
