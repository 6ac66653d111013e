"""Weights before and after tuning: from runs, from adapters of PEFT, from two checkpoints."""

from __future__ import annotations

import json
import re
import shutil
from copy import deepcopy
from pathlib import Path

import peft
import pytest
import timm
import torch
from peft import PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import ViTConfig, ViTForImageClassification

from rlrr.adapters.folder import load_adapter, merged_model
from rlrr.adapters.record import RECORD, TENSORS
from rlrr.backbones import load_backbone
from rlrr.errors import RLRRError
from rlrr.files import read_sealed
from rlrr.interop.timm_folder import write_timm_folder
from rlrr.spectral.tuned import Tuned, labels, open_tuned
from rlrr.tuners import RLRRConfig
from rlrr.tuners.rlrr.functional import kernel_matrix

METHODS = ("rlrr", "lora", "full", "linear")
BLOCK = ("attn.qkv.q", "attn.qkv.k", "attn.qkv.v", "attn.proj", "mlp.fc1", "mlp.fc2")
NAMES = ("patch_embed.proj", *(f"blocks.{block}.{name}" for block in (0, 1) for name in BLOCK))
IMAGES = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
LINEARS = r"blocks\.\d+\.(attn\.(qkv|proj)|mlp\.fc[12])"
PEFT_CONFIGS = {
    "lora": peft.LoraConfig(r=2, target_modules=LINEARS, modules_to_save=["head"]),
    "ia3": peft.IA3Config(target_modules=LINEARS, feedforward_modules=[], modules_to_save=["head"]),
    "oft": peft.OFTConfig(oft_block_size=8, target_modules=LINEARS, modules_to_save=["head"]),
    "rlrr": RLRRConfig(),
    "pissa": peft.LoraConfig(r=2, target_modules=LINEARS, modules_to_save=["head"], init_lora_weights="pissa"),
    "lily": peft.LilyConfig(r=2, num_B=2, target_modules=LINEARS, modules_to_save=["head"]),
}


def matrix(state: dict[str, Tensor], name: str) -> Tensor:
    """What a pair of this name has to hold, from the tensors of a plain ViT."""
    module, _, letter = name.rpartition(".")
    if letter in ("q", "k", "v"):
        weight = state[f"{module}.weight"]
        rows = len(weight) // 3
        return weight["qkv".index(letter) * rows :][:rows]
    weight = state[f"{name}.weight"]
    return kernel_matrix(weight) if weight.ndim == 4 else weight


def randomized(model: nn.Module, seed: int = 0) -> nn.Module:
    """As if trained: each trained tensor is changed at random."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += 0.3 * torch.randn(parameter.shape, generator=generator)
    return model.eval()


def changed(source: Tuned) -> set[str]:
    return {pair.name for pair in source.pairs() if not torch.equal(pair.before, pair.after)}


@torch.no_grad()
def logits(model: nn.Module) -> Tensor:
    return model(IMAGES)


@pytest.fixture(scope="module")
def start(tiny_backbone) -> dict[str, Tensor]:
    return load_file(Path(tiny_backbone) / "model.safetensors")


@pytest.fixture(scope="module")
def runs(make_adapter, tmp_path_factory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("runs")
    return {method: make_adapter(root / method, method=method) for method in METHODS}


@pytest.fixture(scope="module")
def adapters(tiny_backbone, tmp_path_factory) -> dict[str, tuple[Path, PeftModel]]:
    """Folders as PEFT writes them, without rlrr.json, and the model of each."""
    made = {}
    for name, config in PEFT_CONFIGS.items():
        plain = load_backbone(tiny_backbone, num_classes=3).model
        model, folder = randomized(get_peft_model(plain, deepcopy(config))), tmp_path_factory.mktemp(name)
        model.save_pretrained(folder, save_embedding_layers=False)
        made[name] = folder, model
    return made


@pytest.fixture(scope="module")
def merged(runs, tmp_path_factory) -> Path:
    """The run of RLRR as a plain model in timm's format."""
    model, record = load_adapter(runs["rlrr"])
    folder = tmp_path_factory.mktemp("merged") / "model"
    write_timm_folder(merged_model(model), folder, record.classes, record.preprocessing)
    return folder


# Runs of ours


@pytest.mark.parametrize("method", METHODS)
def test_the_pairs_of_a_run_are_its_start_and_its_merged_weights(method, runs, start):
    source, after = open_tuned(runs[method]), merged_model(load_adapter(runs[method])[0]).state_dict()
    assert source.names == NAMES
    for pair, name in zip(source.pairs(), NAMES, strict=True):
        assert pair.name == name
        assert torch.equal(pair.before, matrix(start, name))
        assert torch.equal(pair.after, matrix(after, name))


@pytest.mark.parametrize(
    ("method", "expected"),
    [("rlrr", set(NAMES)), ("lora", set(NAMES[1:])), ("full", set(NAMES)), ("linear", set())],
)
def test_a_run_changes_what_its_method_trains(method, expected, runs):
    assert changed(open_tuned(runs[method])) == expected


def test_a_pair_says_where_it_is(runs):
    pairs = list(open_tuned(runs["rlrr"]).pairs())
    assert [pair.layer for pair in pairs] == [None, *[0] * 6, *[1] * 6]
    assert [pair.kind for pair in pairs] == ["patch_embed", *["q", "k", "v", "proj", "fc1", "fc2"] * 2]


def test_pairs_can_be_gone_through_again(runs):
    source = open_tuned(runs["lora"])
    first, second = list(source.pairs()), list(source.pairs())
    assert all(torch.equal(one.after, two.after) for one, two in zip(first, second, strict=True))


def test_the_vectors_of_rlrr_make_its_pairs(runs):
    source = open_tuned(runs["rlrr"])
    vectors, pairs = source.vectors["blocks.1.attn.qkv"], {pair.name: pair for pair in source.pairs()}
    scale_out, scale_in = vectors["scale_out"], vectors["scale_in"]
    assert {name: tuple(vector.shape) for name, vector in vectors.items()} == {
        "scale_out": (96, 1),
        "scale_in": (3, 1, 32),
        "shift": (96,),
    }
    for block, letter in enumerate("qkv"):
        pair = pairs[f"blocks.1.attn.qkv.{letter}"]
        scale = 1 + scale_out[32 * block :][:32] @ scale_in[block]
        torch.testing.assert_close(pair.after, scale * pair.before)


def test_norms_are_among_the_vectors_and_not_among_the_pairs(runs):
    source = open_tuned(runs["rlrr"])
    norms = {name for name in source.vectors if "norm" in name}
    assert norms == {"norm", *(f"blocks.{block}.norm{number}" for block in (0, 1) for number in (1, 2))}
    assert all(set(source.vectors[name]) == {"scale", "shift"} for name in {*norms, "patch_embed.proj"})
    assert not norms & set(source.names)


def test_the_vectors_of_any_method_are_what_it_learned(runs):
    source, tensors = open_tuned(runs["lora"]), load_file(runs["lora"] / TENSORS)
    for module, vectors in source.vectors.items():
        for name, vector in vectors.items():
            assert torch.equal(vector, tensors[f"base_model.model.{module}.lora_{name}.weight"])
    assert len(source.vectors) == 8
    assert source.neutral == {}
    assert open_tuned(runs["full"]).vectors == open_tuned(runs["linear"]).vectors == {}


def test_the_vectors_of_rlrr_come_with_the_values_that_change_nothing(runs):
    source = open_tuned(runs["rlrr"])
    assert source.neutral["blocks.0.attn.qkv"] == {"scale_out": 0, "scale_in": 0, "shift": 0}
    assert source.neutral["norm"] == {"scale": 1, "shift": 0}
    assert all(vectors.keys() <= source.neutral[module].keys() for module, vectors in source.vectors.items())


@pytest.mark.parametrize("method", METHODS)
def test_the_models_of_a_run_are_its_backbone_and_itself(method, runs, tiny_backbone):
    source, plain = open_tuned(runs[method]), load_backbone(tiny_backbone, num_classes=0).model.eval()
    with torch.no_grad():
        assert torch.equal(source.before.model.forward_features(IMAGES), plain.forward_features(IMAGES))
    expected = logits(load_adapter(runs[method])[0])
    torch.testing.assert_close(logits(source.after.model), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("metrics", "expected"),
    [
        ({}, (None, "")),
        ({"val_accuracy": 0.5}, (0.5, "val")),
        ({"val_accuracy": 0.5, "test_accuracy": 0.4}, (0.4, "test")),
        ({"best_test_accuracy": 0.6}, (0.6, "best test epoch")),
    ],
)
def test_the_accuracy_says_what_it_was_measured_on(metrics, expected, runs, tmp_path):
    folder = Path(shutil.copytree(runs["rlrr"], tmp_path / "run"))
    content = read_sealed(folder / RECORD) | {"metrics": metrics, "parameters": {"adapter": 7, "head": 2}}
    (folder / RECORD).write_text(json.dumps(content))
    source = open_tuned(folder)
    assert (source.accuracy, source.accuracy_of) == expected
    assert (source.label, source.method, source.trained) == ("run", "rlrr", 7)
    assert source.record.classes == content["classes"]
    assert source.preprocessing == content["preprocessing"]


def test_deviations_are_what_training_has_logged_of_them(runs, tmp_path):
    folder = Path(shutil.copytree(runs["rlrr"], tmp_path / "run"))
    assert open_tuned(folder).deviations == []
    records = [{"epoch": 1, "loss": 2.0}, {"epoch": 1, "deviation": 0.1, "deviation_0": 0.2}]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    assert open_tuned(folder).deviations == records[1:]
    (folder / "metrics.jsonl").write_text('{"epoch": ')
    with pytest.raises(RLRRError, match=r"metrics\.jsonl is damaged"):
        open_tuned(folder)


# Adapters of PEFT


@pytest.mark.parametrize("name", ["lora", "ia3", "oft", "rlrr", "pissa"])
def test_the_pairs_of_an_adapter_are_its_start_and_its_merged_weights(name, adapters, tiny_backbone, start):
    folder, model = adapters[name]
    source, after = open_tuned(folder, start=tiny_backbone), deepcopy(model).merge_and_unload().state_dict()
    assert source.names == NAMES
    assert source.method == ("lora" if name == "pissa" else name)
    for pair in source.pairs():
        assert torch.equal(pair.before, matrix(start, pair.name))
        torch.testing.assert_close(pair.after, matrix(after, pair.name), rtol=1e-5, atol=1e-6)
    assert changed(source) == (set(NAMES) if name == "rlrr" else set(NAMES[1:]))
    assert (source.record, source.accuracy, source.accuracy_of) == (None, None, "")
    assert source.vectors
    assert bool(source.neutral) == (name == "rlrr")


@pytest.mark.parametrize("name", ["lora", "ia3", "rlrr"])
def test_the_trained_parameters_of_an_adapter_are_counted_without_its_classifier(name, adapters, tiny_backbone):
    folder, model = adapters[name]
    everything = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    assert open_tuned(folder, start=tiny_backbone).trained == everything - (3 * 32 + 3)


def test_an_adapter_that_cannot_be_merged_has_models_and_no_pairs(adapters, tiny_backbone):
    folder, model = adapters["lily"]
    source = open_tuned(folder, start=tiny_backbone)
    assert (source.method, source.has_weight_form, source.names, list(source.pairs())) == ("lily", False, (), [])
    assert torch.equal(logits(source.after.model), logits(model))
    with torch.no_grad():
        plain = load_backbone(tiny_backbone, num_classes=0).model.eval()
        assert torch.equal(source.before.model.forward_features(IMAGES), plain.forward_features(IMAGES))


def test_an_adapter_on_a_model_of_transformers(vits, tmp_path):
    plain = ViTForImageClassification.from_pretrained(vits[0], num_labels=5, ignore_mismatched_sizes=True)
    config = peft.LoraConfig(r=2, target_modules=r".*\.(q_proj|fc1)", modules_to_save=["classifier"])
    model = randomized(get_peft_model(plain, config))
    model.save_pretrained(tmp_path / "adapter")
    source = open_tuned(tmp_path / "adapter", start=vits[0])
    assert torch.allclose(source.after.model(IMAGES).logits, model(IMAGES).logits, atol=1e-5)
    assert {pair.kind for pair in source.pairs() if pair.name in changed(source)} == {"q", "fc1"}


# Two checkpoints


def test_a_merged_run_against_its_backbone_gives_the_pairs_of_the_run(merged, runs, tiny_backbone):
    source, run = open_tuned(merged, start=tiny_backbone), open_tuned(runs["rlrr"])
    assert (source.method, source.label, source.trained, source.record) == ("weights", "model", None, None)
    for one, two in zip(source.pairs(), run.pairs(), strict=True):
        assert (one.name, one.layer, one.kind) == (two.name, two.layer, two.kind)
        assert torch.equal(one.before, two.before)
        assert torch.equal(one.after, two.after)
    assert source.before.model is not None
    assert source.after.model is not None
    assert source.preprocessing["input_size"] == (3, 32, 32)


@pytest.mark.parametrize("ending", [".safetensors", ".pth"])
def test_two_files_give_the_same_pairs_without_a_model(ending, merged, tiny_backbone, tmp_path):
    files = {}
    for name, folder in (("old", tiny_backbone), ("new", merged)):
        files[name] = tmp_path / f"{name}{ending}"
        state = load_file(Path(folder) / "model.safetensors")
        save_file(state, files[name]) if ending == ".safetensors" else torch.save({"model": state}, files[name])
    source, expected = open_tuned(files["new"], start=files["old"]), open_tuned(merged, start=tiny_backbone)
    wanted = {pair.name: pair for pair in expected.pairs()}
    assert set(source.names) == set(wanted)
    for pair in source.pairs():
        assert (pair.layer, pair.kind) == (wanted[pair.name].layer, wanted[pair.name].kind)
        assert torch.equal(pair.after, wanted[pair.name].after)
    assert (source.label, source.before.model, source.after.model) == (f"new{ending}", None, None)


def test_a_file_against_a_model_folder(merged, tiny_backbone):
    source = open_tuned(merged / "model.safetensors", start=tiny_backbone)
    assert changed(source) == set(NAMES)
    assert source.after.model is None


def test_the_blocks_of_a_file_are_in_their_order(tmp_path):
    state = {f"blocks.{i}.mlp.fc1.weight": torch.full((2, 3), float(i), dtype=torch.float16) for i in range(12)}
    save_file(state, tmp_path / "one.safetensors")
    pairs = list(open_tuned(tmp_path / "one.safetensors", start=tmp_path / "one.safetensors").pairs())
    assert [(pair.layer, pair.after[0, 0].item()) for pair in pairs] == [(i, i) for i in range(12)]
    assert pairs[0].before.dtype == torch.float32


@pytest.fixture(scope="module")
def vits(tmp_path_factory) -> list[Path]:
    """Two ViTs of transformers with the same shape, other weights and other numbers of classes."""
    folders = []
    for seed, classes in enumerate((2, 4)):
        torch.manual_seed(seed)
        sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
        config = ViTConfig(image_size=32, patch_size=8, num_labels=classes, **sizes)
        folders.append(tmp_path_factory.mktemp("vit"))
        ViTForImageClassification(config).save_pretrained(folders[-1])
    return folders


def test_two_folders_of_transformers(vits):
    source = open_tuned(vits[1], start=vits[0])
    assert len(source.names) == 13
    assert changed(source) == set(source.names)
    kinds = {"q", "k", "v", "proj", "fc1", "fc2"}
    assert [{pair.kind for pair in source.pairs() if pair.layer == i} for i in range(2)] == [kinds, kinds]
    assert source.after.model(IMAGES).logits.shape == (4, 4)


# Labels


@pytest.mark.parametrize(
    ("paths", "expected"),
    [
        (["a/one"], ["one"]),
        (["a/one", "a/two"], ["one", "two"]),
        (["a/one", "b/one", "b/two"], ["a/one", "b/one", "b/two"]),
    ],
)
def test_labels_are_as_short_as_they_can_be(paths, expected):
    assert labels(paths) == expected


def test_a_source_that_is_given_twice_is_refused():
    with pytest.raises(RLRRError, match="is given twice"):
        labels(["a/one", "a/../a/one"])


# Bad input


def spoilt(folder: Path, place: Path, *files: str) -> Path:
    """A copy of a folder without some of its files."""
    copy = Path(shutil.copytree(folder, place))
    for name in files:
        (copy / name).unlink()
    return copy


def test_nothing_at_all_is_said(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(RLRRError, match="There is no run, adapter, model or file of weights"):
        open_tuned(tmp_path / "nowhere")
    with pytest.raises(RLRRError, match=r"empty holds no run \(rlrr.json\), no adapter"):
        open_tuned(tmp_path / "empty")


def test_a_run_that_is_not_finished_says_how_to_go_on(runs, tmp_path):
    folder = spoilt(runs["rlrr"], tmp_path / "run", RECORD)
    (folder / "recipe.yaml").write_text("")
    with pytest.raises(RLRRError, match=r"is not finished.*--resume"):
        open_tuned(folder)


def test_a_run_whose_backbone_is_gone_says_so(make_adapter, tiny_backbone, tmp_path, start):
    for method in ("rlrr", "full"):
        backbone = Path(shutil.copytree(tiny_backbone, tmp_path / f"backbone of {method}"))
        run = make_adapter(tmp_path / method, method=method, backbone=str(backbone))
        shutil.rmtree(backbone)
        with pytest.raises(RLRRError, match="which is gone"):
            open_tuned(run)
        pairs = open_tuned(run, weights=tiny_backbone).pairs()
        assert all(torch.equal(pair.before, matrix(start, pair.name)) for pair in pairs)


def test_an_adapter_without_a_start_asks_for_it(adapters, tiny_backbone):
    with pytest.raises(RLRRError, match=rf"`start` .*adapter_config.json names {re.escape(tiny_backbone)}"):
        open_tuned(adapters["lora"][0])


def test_an_adapter_whose_start_is_not_to_be_had(adapters, tmp_path):
    with pytest.raises(RLRRError, match="There is no backbone 'vit_of_no_one'"):
        open_tuned(adapters["lora"][0], start="vit_of_no_one")


def test_an_adapter_for_another_backbone_is_refused(adapters, tmp_path, vits):
    folder = tmp_path / "resnet"
    model = timm.create_model("test_resnet", num_classes=2)
    write_timm_folder(model, folder, ["a", "b"], timm.data.resolve_model_data_config(model))
    with pytest.raises(RLRRError, match=r"The adapter in .* cannot be put on .*resnet"):
        open_tuned(adapters["lora"][0], start=folder)
    wider = timm.create_model(
        "vit_tiny_patch16_224", num_classes=2, img_size=32, patch_size=8, depth=2, embed_dim=48, num_heads=2
    )
    write_timm_folder(
        wider, tmp_path / "wider", ["a", "b"], timm.data.resolve_model_data_config(wider, {"img_size": 32})
    )
    with pytest.raises(RLRRError, match=r"do not fit the model: .* of another shape"):
        open_tuned(adapters["lora"][0], start=tmp_path / "wider")


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"peft_type": "NOTHING"}'])
def test_a_damaged_adapter_is_named(text, adapters, tiny_backbone, tmp_path):
    folder = spoilt(adapters["lora"][0], tmp_path / "adapter")
    (folder / "adapter_config.json").write_text(text)
    with pytest.raises(RLRRError, match=r"adapter_config\.json is damaged|cannot be put on"):
        open_tuned(folder, start=tiny_backbone)


def test_an_adapter_without_its_tensors_is_named(adapters, tiny_backbone, tmp_path):
    folder = spoilt(adapters["lora"][0], tmp_path / "adapter", TENSORS)
    with pytest.raises(RLRRError, match=r"adapter_model\.safetensors is missing"):
        open_tuned(folder, start=tiny_backbone)


def test_a_model_without_a_start_asks_for_it(merged):
    for what in (merged, merged / "model.safetensors"):
        with pytest.raises(RLRRError, match=r"is no run of ours: give .* as `start`"):
            open_tuned(what)


def test_two_checkpoints_that_differ_are_told_by_names_and_counts(merged, tmp_path):
    state = load_file(merged / "model.safetensors")
    shape = "blocks.0.mlp.fc1.weight"
    state[shape] = torch.zeros(5, 6)
    state |= {f"extra.{i}.weight": torch.zeros(2, 2) for i in range(5)}
    del state["blocks.1.attn.qkv.weight"]
    save_file(state, tmp_path / "other.safetensors")
    with pytest.raises(RLRRError) as error:
        open_tuned(tmp_path / "other.safetensors", start=merged)
    said = str(error.value)
    assert f"5 only in {tmp_path / 'other.safetensors'} (extra.0.weight, extra.1.weight, extra.2.weight and 2 m" in said
    assert f"1 only in {merged} (blocks.1.attn.qkv.weight)" in said
    assert f"1 of another shape ({shape}: (5, 6) and (128, 32))" in said


def test_files_that_hold_no_matrix_are_refused(tmp_path, merged):
    save_file({"norm.weight": torch.ones(3)}, tmp_path / "norm.safetensors")
    with pytest.raises(RLRRError, match=r"norm\.safetensors holds no weight of two dimensions"):
        open_tuned(tmp_path / "norm.safetensors", start=merged)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.safetensors", b"\x00\x00", "truncated or damaged"),
        ("a.txt", b"", "no ending of a file of weights"),
        ("a.npz", b"", "is read into a model only"),
    ],
)
def test_a_file_that_cannot_be_read_is_named(name, content, said, tmp_path, merged):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(RLRRError, match=said):
        open_tuned(tmp_path / name, start=merged)


def test_a_model_folder_that_cannot_be_opened_is_named(tmp_path, merged, vits):
    folder = spoilt(vits[0], tmp_path / "vit", "model.safetensors")
    with pytest.raises(RLRRError, match="transformers opens no model that classifies images in"):
        open_tuned(folder, start=vits[1])
    folder = spoilt(merged, tmp_path / "timm", "model.safetensors")
    with pytest.raises(RLRRError, match="There are no weights at"):
        open_tuned(folder, start=merged)
