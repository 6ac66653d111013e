"""Every method of the installed PEFT on a timm ViT: it trains, is saved and loaded, or is refused with the reason."""

import json

import pytest
import timm
import torch
from peft import PeftModel
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from torch.nn import functional as F

from rlrr.errors import UsageError
from rlrr.methods.apply import apply_method
from rlrr.methods.table import METHODS, UNSUITED, find_method
from rlrr.methods.trainable import check_adapted

TYPES = sorted(
    str(kind.value).lower()
    for kind, config in PEFT_TYPE_TO_CONFIG_MAPPING.items()
    if config.__module__.startswith("peft.")
)


def vit():
    torch.manual_seed(0)
    sizes = {"img_size": 32, "patch_size": 16, "embed_dim": 256, "num_heads": 4, "depth": 2}
    return timm.create_model("vit_tiny_patch16_224", num_classes=4, **sizes)


def images():
    return torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))


ROWS = [name for name in METHODS if METHODS[name].config]
OTHERS = [f"peft:{kind}" for kind in TYPES if kind not in UNSUITED and f"peft:{kind}" not in METHODS]


@pytest.mark.slow
@pytest.mark.parametrize("name", [*ROWS, *(pytest.param(name, marks=pytest.mark.soak) for name in OTHERS)])
def test_a_method_trains_and_comes_back_as_it_was_saved(name, tmp_path):
    x, y = images(), torch.arange(4)
    model = apply_method(vit(), name)
    check_adapted(model, x[:1])
    optimizer = torch.optim.AdamW(
        [p for p in model.parameters() if p.requires_grad], lr=find_method(name).learning_rate
    )
    model.train()
    losses = []
    for _ in range(5):
        loss = F.cross_entropy(model(x), y)
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval()
    with torch.no_grad():
        assert F.cross_entropy(model(x), y) < losses[0]
        model.save_pretrained(tmp_path)
        loaded = PeftModel.from_pretrained(vit(), tmp_path).eval()
        torch.testing.assert_close(loaded(x), model(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", UNSUITED)
def test_a_method_that_does_not_go_with_images_is_refused_with_the_reason(kind):
    assert kind in TYPES
    with pytest.raises(UsageError, match=UNSUITED[kind]):
        apply_method(vit(), f"peft:{kind}")


def test_a_name_that_peft_does_not_have_is_met_with_the_nearest():
    with pytest.raises(UsageError, match=r"peft:har is unknown to PEFT .*Did you mean .*\bhra\b"):
        apply_method(vit(), "peft:har")
    with pytest.raises(UsageError, match="There is no method 'pefd:hra'"):
        apply_method(vit(), "pefd:hra")


def test_a_type_may_be_written_in_any_case_and_is_never_one_of_ours():
    assert find_method("peft:VERA") is find_method("peft:vera") is METHODS["peft:vera"]
    for name in ("peft:vpt", "peft:rlrr", "peft:peft_type_to_config_mapping"):
        with pytest.raises(UsageError, match=f"{name} is unknown to PEFT"):
            apply_method(vit(), name)


def test_settings_are_pefts_own():
    model = apply_method(vit(), "peft:vera", {"r": 5})
    assert model.peft_config["default"].r == 5
    with pytest.raises(UsageError, match="peft:vera has no setting rank"):
        apply_method(vit(), "peft:vera", {"rank": 5})


def test_a_selection_comes_back_with_its_settings(tmp_path):
    apply_method(vit(), "last_blocks", {"last_blocks": 1}).save_pretrained(tmp_path)
    settings = json.loads((tmp_path / "adapter_config.json").read_text())
    assert (settings["tensors"], settings["last_blocks"]) == ("all", 1)
    assert PeftModel.from_pretrained(vit(), tmp_path).peft_config["default"].last_blocks == 1


def test_layer_norms_are_taken_and_nothing_whose_name_ends_like_theirs():
    model = apply_method(vit(), "ln_tuning")
    found = {name.rpartition(".ln_tuning_layers")[0] for name, _ in model.named_parameters() if ".ln_tuning_" in name}
    assert {name.removeprefix("base_model.model.") for name in found} == {
        f"blocks.{i}.norm{k}" for i in (0, 1) for k in (1, 2)
    } | {"norm"}
