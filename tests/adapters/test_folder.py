"""The adapter folder: what is saved comes back to the bit, and what does not belong is refused."""

import hashlib
import json
import shutil
import socket
from pathlib import Path
from typing import Any

import peft
import pytest
import timm
import torch
from peft import PeftModel
from safetensors.torch import save_file
from torch import nn

from rlrr.adapters import folder as folder_module
from rlrr.adapters.folder import (
    load_adapter,
    load_trained_state,
    merged_model,
    read_tensors,
    save_adapter,
    trained_state,
)
from rlrr.adapters.record import PEFT_CONFIG, RECORD, TENSORS, Record, read_record
from rlrr.backbones import load_backbone
from rlrr.errors import RLRRError
from rlrr.files import read_sealed
from rlrr.interop.timm_folder import write_timm_folder
from rlrr.methods.apply import apply_method
from rlrr.methods.capabilities import can_merge
from rlrr.methods.trainable import parameter_counts
from rlrr.recipes.files import RECIPE
from rlrr.recipes.recipe import METHODS
from rlrr.tuners import RLRRConfig

IMAGES = torch.randn(5, 3, 32, 32, generator=torch.Generator().manual_seed(0))


SMALLER = {"peft:shira": {"r": 4}}  # its own 32 are too many for so small a weight
WITH_OTHERS = ("peft:vera", "peft:randlora", "peft:shira")  # which PEFT saves with random matrices, or with indices


ROWS = [name for name in METHODS if not name.startswith("peft:") or name in ("peft:vera", "peft:shira")]
"""Methods to save and load; tests/methods/test_peft_methods.py has all of PEFT's."""


def adapted(backbone: str, method: str, seed: int = 1, **settings: Any) -> nn.Module:
    """A model of which everything that is trained has random values."""
    model = apply_method(load_backbone(backbone, num_classes=3).model, method, settings)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.1)
    return model.eval()


def record_of(backbone: str, method: str) -> Record:
    found = load_backbone(backbone, num_classes=0)
    return Record(
        method=method,
        backbone={
            "name": found.name,
            "weights": None,
            "architecture": found.architecture,
            "tag": found.tag,
            "image_size": found.image_size,
            "fingerprint": found.fingerprint,
        },
        classes=["a", "b", "c"],
        preprocessing=found.data_config,
    )


@pytest.fixture(scope="module")
def saved(tiny_backbone, tmp_path_factory) -> dict[str, tuple[Path, nn.Module]]:
    """For each method its folder and the model that was saved there."""
    folders = {}
    for method in ROWS:
        folder, model = tmp_path_factory.mktemp("saved"), adapted(tiny_backbone, method, **SMALLER.get(method, {}))
        save_adapter(folder, model, record_of(tiny_backbone, method))
        folders[method] = folder, model
    return folders


@pytest.fixture
def rlrr_folder(saved, tmp_path) -> Path:
    """A copy that may be spoilt."""
    return Path(shutil.copytree(saved["rlrr"][0], tmp_path / "adapter"))


def edit(folder: Path, change) -> None:
    """Change the tensors, and the checksum with them."""
    tensors = read_tensors(folder / TENSORS)
    change(tensors)
    save_file(tensors, folder / TENSORS)
    edit_record(folder, tensors_sha256=hashlib.sha256((folder / TENSORS).read_bytes()).hexdigest())


def edit_record(folder: Path, **values) -> None:
    """Change the record by hand, and delete the line of its checksum."""
    record = read_sealed(folder / RECORD)
    (folder / RECORD).write_text(json.dumps(record | values))


@torch.no_grad()
def logits(model: nn.Module) -> torch.Tensor:
    return model.eval()(IMAGES)


@pytest.mark.parametrize("method", ROWS)
def test_a_loaded_adapter_gives_the_same_logits_to_the_bit(saved, method):
    folder, model = saved[method]
    loaded, record = load_adapter(folder)
    assert torch.equal(logits(loaded), logits(model))
    assert not loaded.training
    assert record.method == method
    assert logits(loaded).std() > 0.1


@pytest.mark.parametrize("method", [name for name in ROWS if name not in WITH_OTHERS])
def test_the_tensors_take_four_bytes_a_trained_parameter(saved, method):
    folder, model = saved[method]
    size, count = (folder / TENSORS).stat().st_size, sum(parameter_counts(model).values())
    header = 8 + int.from_bytes((folder / TENSORS).read_bytes()[:8], "little")
    assert size == 4 * count + header
    assert header < 150 * (1 + len(read_tensors(folder / TENSORS)))


def test_the_folder_holds_what_the_method_needs(saved):
    files = {method: {path.name for path in folder.iterdir()} for method, (folder, _) in saved.items()}
    assert files["rlrr"] == files["lora"] == {TENSORS, PEFT_CONFIG, RECORD}
    assert files["linear"] == files["full"] == {TENSORS, RECORD}
    assert set(read_tensors(saved["linear"][0] / TENSORS)) == {"head.weight", "head.bias"}


def test_every_file_may_be_read_by_those_who_may_read_the_folder(saved, tmp_path):
    (tmp_path / "plain").write_text("")
    modes = {path.stat().st_mode for path in saved["rlrr"][0].iterdir()}
    assert modes == {(tmp_path / "plain").stat().st_mode}


def test_the_backbone_is_recorded_and_the_hub_is_not_asked(tiny_backbone, tmp_path, monkeypatch):
    model = adapted(tiny_backbone, "rlrr")
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")

    def refuse(*args):
        raise AssertionError("it went to the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    save_adapter(tmp_path, model, record_of(tiny_backbone, "rlrr"))
    config = json.loads((tmp_path / PEFT_CONFIG).read_text())
    assert config["base_model_name_or_path"] == tiny_backbone
    assert config["inference_mode"] is True
    assert model.peft_config["default"].inference_mode is False


@pytest.mark.parametrize("method", ["rlrr", "lora"])
def test_peft_itself_loads_the_folder_on_a_plain_timm_model(saved, tiny_backbone, method):
    folder, model = saved[method]
    plain = timm.create_model(f"local-dir:{tiny_backbone}", pretrained=True, num_classes=3)
    assert torch.equal(logits(PeftModel.from_pretrained(plain, folder)), logits(model))


@pytest.mark.parametrize("method", ROWS)
def test_a_merged_model_is_plain_and_gives_the_same_logits(saved, method):
    loaded, _ = load_adapter(saved[method][0])
    if not can_merge(loaded):
        pytest.skip("the method's update is no change of weights")
    expected = logits(loaded)
    merged = merged_model(loaded)
    assert not any(isinstance(module, peft.tuners.tuners_utils.BaseTunerLayer) for module in merged.modules())
    torch.testing.assert_close(logits(merged), expected, rtol=1e-5, atol=1e-5)


# Strict loading


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda tensors: tensors.popitem(), "1 missing"),
        (lambda tensors: tensors.update(stray=torch.zeros(1)), r"1 stray \(such as stray\)"),
        (lambda tensors: tensors.update({k: v[:1] for k, v in list(tensors.items())[:2]}), "of another shape"),
        (lambda tensors: tensors.clear(), "missing"),
    ],
)
@pytest.mark.parametrize("method", ["rlrr", "linear"])
def test_tensors_that_do_not_fit_are_refused(saved, tmp_path, method, change, said):
    folder = Path(shutil.copytree(saved[method][0], tmp_path / "adapter"))
    edit(folder, change)
    with pytest.raises(RLRRError, match=said):
        load_adapter(folder)


def test_other_tensors_than_were_written_are_refused(rlrr_folder):
    content = bytearray((rlrr_folder / TENSORS).read_bytes())
    content[-1] ^= 1
    (rlrr_folder / TENSORS).write_bytes(content)
    with pytest.raises(RLRRError, match=r"is not the file that rlrr\.json was written with"):
        load_adapter(rlrr_folder)


@pytest.mark.parametrize("keep", [0, 7, 500, -1])
def test_tensors_cut_short_are_named(rlrr_folder, keep):
    content = (rlrr_folder / TENSORS).read_bytes()
    (rlrr_folder / TENSORS).write_bytes(content[:keep])
    with pytest.raises(RLRRError, match=r"adapter_model\.safetensors is damaged or cut short"):
        load_adapter(rlrr_folder)


@pytest.mark.parametrize("name", [TENSORS, PEFT_CONFIG])
def test_a_missing_file_is_named(rlrr_folder, name):
    (rlrr_folder / name).unlink()
    with pytest.raises(RLRRError, match=f"{name} is missing: copy the whole folder"):
        load_adapter(rlrr_folder)


def test_a_missing_config_is_named_where_the_recipe_has_settings(rlrr_folder):
    edit_record(rlrr_folder, recipe={"settings": {"rank": 2}})
    (rlrr_folder / PEFT_CONFIG).unlink()
    with pytest.raises(RLRRError, match=f"{PEFT_CONFIG} is missing"):
        load_adapter(rlrr_folder)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"peft_type": "NOTHING"}', "{}"])
def test_a_damaged_config_of_peft_is_named(rlrr_folder, text):
    (rlrr_folder / PEFT_CONFIG).write_text(text)
    with pytest.raises(RLRRError, match=r"adapter_config\.json is damaged"):
        load_adapter(rlrr_folder)


@pytest.mark.parametrize("text", ["", "{", '{"format": 1', "\x00"])
def test_a_damaged_record_is_named(rlrr_folder, text):
    (rlrr_folder / RECORD).write_text(text)
    with pytest.raises(RLRRError, match=r"rlrr\.json is damaged"):
        load_adapter(rlrr_folder)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ([], "names no format"),
        ({}, "names no format"),
        ({"format": "1"}, "names no format"),
        ({"format": 1}, "damaged: backbone, classes"),
        ({"format": 3}, "format 3, newer than this rlrr reads"),
    ],
)
def test_a_record_that_is_not_ours_is_refused(rlrr_folder, content, said):
    (rlrr_folder / RECORD).write_text(json.dumps(content))
    with pytest.raises(RLRRError, match=said):
        load_adapter(rlrr_folder)


def test_a_record_with_a_key_too_many_is_refused(rlrr_folder):
    edit_record(rlrr_folder, surprise=1)
    with pytest.raises(RLRRError, match="surprise missing or stray"):
        load_adapter(rlrr_folder)


@pytest.mark.parametrize(
    ("before", "after"),
    [('"classes": [\n    "a"', '"classes": [\n    "A"'), ('"method": "rlrr"', '"method": "full"'), ("0.5", "0.4")],
)
def test_a_record_that_was_changed_is_refused_until_its_checksum_is_deleted(rlrr_folder, before, after):
    text = (rlrr_folder / RECORD).read_text()
    assert before in text
    (rlrr_folder / RECORD).write_text(text.replace(before, after))
    with pytest.raises(RLRRError, match=r"rlrr\.json is damaged, or was changed .* delete the line sha256"):
        read_record(rlrr_folder)
    lines = [line for line in text.replace(before, after).splitlines() if '"sha256"' not in line]
    lines[-2] = lines[-2].rstrip(",")
    (rlrr_folder / RECORD).write_text("\n".join(lines))
    read_record(rlrr_folder)


@pytest.mark.parametrize(
    "values",
    [
        {"classes": 3},
        {"classes": []},
        {"classes": ["a", "a", "b"]},
        {"classes": ["a", 1, "b"]},
        {"method": None},
        {"recipe": []},
        {"preprocessing": {}},
        {"metrics": None},
        {"format": True},
        {"tensors_sha256": 0},
        {"files_sha256": {"adapter_config.json": 1}},
    ],
    ids=str,
)
def test_a_record_with_impossible_values_is_damaged_even_without_a_checksum(rlrr_folder, values):
    edit_record(rlrr_folder, **values)
    with pytest.raises(RLRRError, match=r"rlrr\.json is (damaged|not the record)"):
        load_adapter(rlrr_folder)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("input_size", 32), ("input_size", [3, 32]), ("input_size", [3, 0, 0]), ("mean", [0.5]), ("std", "0.5")),
        *(("interpolation", "cubic"), ("crop_pct", 0), ("crop_pct", None), ("crop_mode", "round")),
    ],
)
def test_a_preprocessing_that_prepares_no_image_is_damaged(rlrr_folder, key, value):
    edit_record(rlrr_folder, preprocessing=read_record(rlrr_folder).preprocessing | {key: value})
    with pytest.raises(RLRRError, match="preprocessing"):
        load_adapter(rlrr_folder)


@pytest.mark.parametrize("name", ["rlrr", "lora"])
def test_another_config_of_the_same_method_is_noticed(saved, tmp_path, name):
    folder = Path(shutil.copytree(saved[name][0], tmp_path / "adapter"))
    content = json.loads((folder / PEFT_CONFIG).read_text())
    key = {"rlrr": "residual", "lora": "lora_alpha"}[name]  # which the shapes of the tensors do not show
    (folder / PEFT_CONFIG).write_text(json.dumps(content | {key: not content[key] if name == "rlrr" else 99}))
    with pytest.raises(RLRRError, match=r"adapter_config\.json is damaged, or not the file"):
        load_adapter(folder)


@pytest.mark.parametrize("values", [{"rank": "a"}, {"target_modules": "("}, {"rank": -1}, {"peft_type": []}], ids=str)
def test_a_config_that_cannot_be_is_named_even_without_a_checksum(rlrr_folder, values):
    edit_record(rlrr_folder, files_sha256={})
    content = json.loads((rlrr_folder / PEFT_CONFIG).read_text())
    (rlrr_folder / PEFT_CONFIG).write_text(json.dumps(content | values))
    with pytest.raises(RLRRError):
        load_adapter(rlrr_folder)


@pytest.mark.parametrize("backbone", [{}, None, {"name": "x"}])
def test_a_record_without_its_backbone_is_damaged(rlrr_folder, backbone):
    edit_record(rlrr_folder, backbone=backbone)
    with pytest.raises(RLRRError, match=r"rlrr\.json is damaged"):
        load_adapter(rlrr_folder)


@pytest.fixture
def other_backbone(tiny_backbone, tmp_path) -> str:
    """The same architecture with other weights."""
    model = timm.create_model(f"local-dir:{tiny_backbone}", pretrained=True)
    with torch.no_grad():
        model.blocks[0].attn.qkv.weight[0, 0] += 1
    write_timm_folder(model, tmp_path / "other", ["a", "b"], timm.data.resolve_model_data_config(model))
    return str(tmp_path / "other")


def test_another_backbone_is_refused(rlrr_folder, other_backbone, tiny_backbone):
    with pytest.raises(RLRRError, match=r"was trained on .* give .* as `weights`"):
        load_adapter(rlrr_folder, weights=other_backbone)
    edit_record(rlrr_folder, backbone=record_of(tiny_backbone, "rlrr").backbone | {"name": other_backbone})
    with pytest.raises(RLRRError, match="was trained on"):
        load_adapter(rlrr_folder)


def test_a_backbone_that_was_moved_is_found_by_its_new_place(rlrr_folder, saved, tiny_backbone, tmp_path):
    moved = shutil.copytree(tiny_backbone, tmp_path / "moved")
    loaded, _ = load_adapter(rlrr_folder, weights=str(moved))
    assert torch.equal(logits(loaded), logits(saved["rlrr"][1]))


def test_a_backbone_that_is_gone_from_its_old_place_is_found_by_its_new_one(
    rlrr_folder, saved, tiny_backbone, tmp_path
):
    moved = shutil.copytree(tiny_backbone, tmp_path / "moved")
    edit_record(rlrr_folder, backbone=record_of(tiny_backbone, "rlrr").backbone | {"name": str(tmp_path / "gone")})
    with pytest.raises(RLRRError, match="which is gone"):
        load_adapter(rlrr_folder)
    loaded, _ = load_adapter(rlrr_folder, weights=str(moved))
    assert torch.equal(logits(loaded), logits(saved["rlrr"][1]))


def test_the_active_adapter_is_the_one_that_is_saved(tiny_backbone):
    model = adapted(tiny_backbone, "rlrr")
    model.add_adapter("flowers", RLRRConfig(init_weights=False))
    model.set_adapter("flowers")
    state = trained_state(model)
    name = "base_model.model.blocks.0.attn.qkv.rlrr_shift"
    assert torch.equal(state[name], model.get_parameter(name.replace("rlrr_shift", "rlrr_shift.flowers")))


def test_a_folder_that_is_no_run_says_what_it_is(tmp_path, rlrr_folder):
    with pytest.raises(RLRRError, match="There is no folder"):
        read_record(tmp_path / "nowhere")
    with pytest.raises(RLRRError, match=r"holds no rlrr\.json"):
        read_record(tmp_path)
    (rlrr_folder / RECORD).unlink()
    with pytest.raises(RLRRError, match=r"PEFT adapter without rlrr\.json"):
        read_record(rlrr_folder)
    (rlrr_folder / RECIPE).write_text("")
    with pytest.raises(RLRRError, match=r"is not finished.*--resume"):
        read_record(rlrr_folder)


# Writing


def test_the_record_is_written_last(tiny_backbone, tmp_path, monkeypatch):
    monkeypatch.setattr(folder_module, "_sha256", lambda path: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        save_adapter(tmp_path, adapted(tiny_backbone, "rlrr"), record_of(tiny_backbone, "rlrr"))
    assert {path.name for path in tmp_path.iterdir()} == {TENSORS, PEFT_CONFIG}


def test_tensors_that_could_not_be_written_leave_the_old_ones(rlrr_folder, tiny_backbone, monkeypatch):
    before = {path.name: path.read_bytes() for path in rlrr_folder.iterdir()}
    write = Path.write_bytes

    def full(path, data):
        write(path, data[:10])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(RLRRError, match="No space left"):
        save_adapter(rlrr_folder, adapted(tiny_backbone, "rlrr", seed=2), record_of(tiny_backbone, "rlrr"))
    assert {path.name: path.read_bytes() for path in rlrr_folder.iterdir()} == before


# From one model to another


@pytest.mark.parametrize("method", ROWS)
def test_what_was_trained_goes_back_into_another_model(tiny_backbone, method):
    settings = SMALLER.get(method, {})
    one, other = (adapted(tiny_backbone, method, seed, **settings) for seed in (1, 2))
    load_trained_state(other, trained_state(one), "memory")
    assert torch.equal(logits(one), logits(other))


def test_a_model_trained_whole_keeps_its_buffers():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    assert set(trained_state(model)) == set(model.state_dict())
    model[0].requires_grad_(False)
    assert set(trained_state(model)) == {"1.weight", "1.bias"}


def test_a_tensor_that_layers_share_is_saved_and_loaded(make_adapter, tmp_path):
    config = peft.LilyConfig(r=2, num_B=2, target_modules=r".*\.mlp\.fc[12]", modules_to_save=["head"])
    folder = make_adapter(tmp_path / "run", method="lily", config=config)
    model = load_adapter(folder)[0]
    one, two = (model.get_base_model().blocks[i].mlp.fc1.lily_B["default"].weight for i in (0, 1))
    assert one.data_ptr() == two.data_ptr()
    assert all(
        torch.equal(tensor, trained_state(model)[name]) for name, tensor in read_tensors(folder / TENSORS).items()
    )
