"""A merged run is a plain model: timm and transformers open it without rlrr and give the run's own logits."""

from __future__ import annotations

import json
import logging
import shutil
import subprocess
import sys
from pathlib import Path

import peft
import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

import rlrr
from rlrr.adapters.folder import save_adapter
from rlrr.adapters.record import Record
from rlrr.errors import UsageError
from rlrr.files import read_sealed
from rlrr.interop.merge import merge
from rlrr.interop.timm_folder import write_timm_folder
from rlrr.recipes.recipe import Recipe
from rlrr.training.run import build

pytestmark = pytest.mark.slow

CLASSES = ["blå", "green", "red"]
CASES = {"vit": "rlrr", "swin": "rlrr", "lora": "lora"}


@pytest.fixture(scope="module")
def swin(tmp_path_factory) -> str:
    """A Swin of two stages on 32 pixels, whose patch merging has no bias."""
    folder = tmp_path_factory.mktemp("backbone") / "swin"
    torch.manual_seed(3)
    sizes = {"img_size": 32, "window_size": 4, "depths": (1, 1), "embed_dim": 16, "num_heads": (2, 2)}
    model = timm.create_model("swin_tiny_patch4_window7_224", num_classes=2, **sizes)
    write_timm_folder(model, folder, ["a", "b"], timm.data.resolve_model_data_config(model, {"img_size": 32}))
    return str(folder)


def make_run(folder: Path, backbone_name: str, method: str) -> Path:
    """A run as if trained: every trained tensor is random, so that each has its part in the logits."""
    recipe = Recipe(data="nowhere", model=backbone_name, method=method)
    backbone, model = build(recipe, len(CLASSES))
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += 0.3 * torch.randn(parameter.shape, generator=generator)
    described = {
        "name": backbone.name,
        "weights": None,
        "architecture": backbone.architecture,
        "tag": None,
        "image_size": backbone.image_size,
        "fingerprint": backbone.fingerprint,
    }
    record = Record(method, described, CLASSES, backbone.data_config, recipe.to_dict(), {"source": "nowhere"})
    save_adapter(folder, model, record)
    return folder


@pytest.fixture(scope="module")
def pixels() -> torch.Tensor:
    return torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def runs(tmp_path_factory, tiny_backbone, swin) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("runs to merge")
    backbones = {"vit": tiny_backbone, "swin": swin, "lora": tiny_backbone}
    return {case: make_run(root / case, backbones[case], method) for case, method in CASES.items()}


@pytest.fixture(scope="module")
def merged(tmp_path_factory, runs) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("merged")
    return {case: merge(run, root / case).folder for case, run in runs.items()}


@pytest.fixture(scope="module")
def opened_without_rlrr(tmp_path_factory, merged, pixels) -> dict[str, torch.Tensor]:
    """Logits of each merged folder by timm and by transformers, in a process that cannot import rlrr."""
    folder = tmp_path_factory.mktemp("logits")
    save_file({"pixels": pixels}, folder / "pixels.safetensors")
    program = f"""
import sys
sys.modules["rlrr"] = None
import timm, torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageClassification
pixels = load_file({str(folder / "pixels.safetensors")!r})["pixels"]
logits = {{}}
with torch.inference_mode():
    for case, folder in {[(case, str(path)) for case, path in merged.items()]}:
        plain = timm.create_model("local-dir:" + folder, pretrained=True).eval()
        logits["timm " + case] = plain(pixels)
        model = AutoModelForImageClassification.from_pretrained(folder).eval()
        logits["transformers " + case] = model(pixels).logits
        assert list(model.config.id2label.values()) == {CLASSES}, model.config.id2label
save_file(logits, {str(folder / "logits.safetensors")!r})
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return load_file(folder / "logits.safetensors")


@pytest.mark.parametrize("opener", ["timm", "transformers"])
@pytest.mark.parametrize("case", CASES)
def test_the_plain_model_gives_the_logits_of_the_run(case, opener, runs, opened_without_rlrr, pixels):
    model = rlrr.load(runs[case]).model.cpu()
    with torch.inference_mode():
        expected = model(pixels)
        with model.disable_adapter():
            bare = model(pixels)
    assert (expected - bare).abs().max() > 0.1 * expected.abs().max()  # the adapter matters
    difference = (opened_without_rlrr[f"{opener} {case}"] - expected).abs().max()
    assert difference <= 1e-5 * expected.abs().max()


def test_swin_keeps_its_patch_merging_without_a_bias(merged):
    tensors = load_file(merged["swin"] / "model.safetensors")
    assert any("downsample.reduction.weight" in name for name in tensors)
    assert not any("downsample.reduction.bias" in name for name in tensors)


@pytest.mark.parametrize("case", CASES)
def test_the_folder_says_labels_and_preprocessing(case, merged, runs):
    config = json.loads((merged[case] / "config.json").read_text(encoding="utf-8"))
    record = json.loads((runs[case] / "rlrr.json").read_text(encoding="utf-8"))
    assert config["num_classes"] == 3
    assert config["label_names"] == CLASSES
    for name, value in record["preprocessing"].items():
        assert config["pretrained_cfg"][name] == value
    assert {path.name for path in merged[case].iterdir()} == {"config.json", "model.safetensors"}


def test_linear_and_full_runs_are_plain_models_already(tmp_path, tiny_backbone, pixels):
    for method in ("linear", "full"):
        run = make_run(tmp_path / method, tiny_backbone, method)
        folder = merge(run, tmp_path / f"{method} merged").folder
        plain = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
        with torch.inference_mode():
            assert torch.equal(plain(pixels), rlrr.load(run).model(pixels))


def test_it_is_compared_on_the_runs_validation_images(finished_run, tmp_path):
    result = rlrr.merge(finished_run, tmp_path / "merged")
    assert result.images == 9
    assert result.difference <= 1e-5 * result.largest


def test_a_bad_image_among_those_of_the_run_is_left_out(finished_run, images, tmp_path):
    own = Path(shutil.copytree(images, tmp_path / "own"))
    (own / "val" / "red" / "0.png").write_bytes(b"")
    run = Path(shutil.copytree(finished_run, tmp_path / "run"))
    record = read_sealed(run / "rlrr.json")
    record["data"]["source"] = str(own)
    (run / "rlrr.json").write_text(json.dumps(record))
    assert merge(run, tmp_path / "merged").images == 8


def test_without_the_runs_images_it_merges_and_says_that_it_was_not_compared(runs, tmp_path, caplog):
    with caplog.at_level(logging.WARNING, "rlrr"):
        result = merge(runs["vit"], tmp_path / "merged")
    assert (result.difference, result.images) == (None, 0)
    assert "There is no folder nowhere" in caplog.text
    assert (tmp_path / "merged" / "model.safetensors").exists()


def test_what_exists_is_not_overwritten(runs, tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "thesis.txt").touch()
    (tmp_path / "file").write_text("words")
    for name in ("folder", "file"):
        with pytest.raises(rlrr.RLRRError, match=f"{name} exists") as caught:
            merge(runs["vit"], tmp_path / name)
        assert isinstance(caught.value, UsageError)
    assert (tmp_path / "file").read_text() == "words"


def test_an_empty_folder_is_filled(runs, tmp_path):
    (tmp_path / "empty").mkdir()
    assert (merge(runs["vit"], tmp_path / "empty").folder / "config.json").exists()


def test_a_shift_that_timm_has_no_place_for_is_refused_and_nothing_written(tmp_path):
    torch.manual_seed(0)
    sizes = {"img_size": 32, "patch_size": 8, "depth": 1, "embed_dim": 32, "num_heads": 2, "qkv_bias": False}
    model = timm.create_model("vit_tiny_patch16_224", num_classes=2, **sizes)
    config = timm.data.resolve_model_data_config(model, {"img_size": 32})
    write_timm_folder(model, tmp_path / "backbone", ["a", "b"], config)
    run = make_run(tmp_path / "run", str(tmp_path / "backbone"), "rlrr")
    with pytest.raises(rlrr.RLRRError, match=r"has no place for blocks\.0\.attn\.qkv\.bias"):
        merge(run, tmp_path / "merged")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["backbone", "run"]


def test_an_update_that_is_no_change_of_weights_is_refused_and_nothing_written(make_adapter, tmp_path):
    config = peft.LilyConfig(r=2, num_B=2, target_modules=r".*\.mlp\.fc[12]", modules_to_save=["head"])
    run = make_adapter(tmp_path / "run", method="lily", config=config)
    with pytest.raises(UsageError, match=r"lily.* cannot be written into the weights: use `rlrr export`"):
        merge(run, tmp_path / "merged")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
