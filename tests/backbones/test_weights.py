"""Weights from files: of timm, of JAX, and as MAE, MoCo v3, DINOv2 and Swin were released."""

from __future__ import annotations

import argparse
import datetime
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from peft import get_peft_model, set_peft_model_state_dict
from safetensors.torch import load_file, save_file

from rlrr import RLRRConfig
from rlrr.backbones import fingerprint, load_backbone
from rlrr.errors import RLRRError
from rlrr.interop.paper_names import from_official

GOLDEN = Path(__file__).parents[1] / "golden" / "official_vit.npz"
State = dict[str, torch.Tensor]


def rest_of(state: State) -> State:
    return {key: value for key, value in state.items() if not key.startswith("head.")}


def moco_pretrained(state: State) -> dict:
    """MoCo v3's vit-b-300ep.pth.tar: two encoders with projectors, a predictor, and the state of training."""
    projector = {"head.0.weight": torch.ones(8, 48), "head.7.num_batches_tracked": torch.tensor(3)}
    encoder = {**rest_of(state), **projector}
    keys = {f"module.base_encoder.{key}": value for key, value in encoder.items()}
    keys |= {f"module.momentum_encoder.{key}": value + 1 for key, value in encoder.items()}
    keys |= {"module.predictor.0.weight": torch.ones(8, 8), "module.predictor.1.running_var": torch.ones(8)}
    optimizer = {"state": {0: {"step": torch.tensor(1.0), "exp_avg": torch.ones(2)}}, "param_groups": [{"lr": 1e-4}]}
    return {"epoch": 300, "arch": "vit_base", "state_dict": keys, "optimizer": optimizer, "scaler": {"scale": 1.0}}


def moco_linear(state: State) -> dict:
    """Its linear-vit-b-300ep.pth.tar: one encoder, and the classifier of ImageNet."""
    classifier = {"head.weight": torch.ones(1000, 48), "head.bias": torch.ones(1000)}
    keys = {f"module.{key}": value for key, value in {**rest_of(state), **classifier}.items()}
    return {"epoch": 90, "arch": "vit_base", "state_dict": keys, "best_acc1": torch.tensor(76.7), "optimizer": {}}


def mae_encoder(state: State) -> dict:
    """MAE's mae_pretrain_vit_base.pth."""
    return {"model": rest_of(state)}


def mae_full(state: State) -> dict:
    """MAE's mae_visualize_vit_large.pth, and what its pretraining saves."""
    names = ("pos_embed", "embed.weight", "blocks.0.norm1.weight", "norm.bias", "pred.weight")
    decoder = {f"decoder_{name}": torch.ones(2) for name in names}
    arguments = argparse.Namespace(lr=1e-3, output_dir="out")
    return {"model": {**rest_of(state), "mask_token": torch.ones(1, 1, 32), **decoder}, "args": arguments, "epoch": 799}


def dinov2(state: State) -> dict:
    """DINOv2's dinov2_vitb14_pretrain.pth."""
    return {**rest_of(state), "mask_token": torch.ones(1, 48)}


RELEASED = [moco_pretrained, moco_linear, mae_encoder, mae_full, dinov2]


@pytest.mark.parametrize("released", RELEASED)
def test_a_file_as_it_was_released_gives_the_same_features(
    released: Callable[[State], dict], tiny: Path, tiny_model: torch.nn.Module, tmp_path: Path
) -> None:
    torch.save(released(tiny_model.state_dict()), tmp_path / "w.pth.tar")
    model = load_backbone(str(tiny), num_classes=2, weights=str(tmp_path / "w.pth.tar")).model.eval()
    images = torch.randn(2, 3, 32, 32)
    with torch.inference_mode():
        assert torch.equal(model.forward_features(images), tiny_model.forward_features(images))
    assert fingerprint(model) == fingerprint(tiny_model)


@pytest.mark.parametrize("released", RELEASED)
@pytest.mark.parametrize("change", ["missing", "unknown"])
def test_a_released_file_with_another_key_is_refused(
    change: str, released: Callable[[State], dict], tiny: Path, tiny_model: torch.nn.Module, tmp_path: Path
) -> None:
    state = tiny_model.state_dict()
    if change == "missing":
        del state["blocks.1.attn.proj.bias"]
    else:
        state["blocks.1.attn.proj.gate"] = torch.ones(2)
    torch.save(released(state), tmp_path / "w.pth")
    named = r"w\.pth are not those of .*blocks\.1\.attn\.proj\.(bias|gate)"
    with pytest.raises(RLRRError, match=named):
        load_backbone(str(tiny), num_classes=2, weights=str(tmp_path / "w.pth"))


def test_swins_own_files_are_read(make_folder: Callable[..., Path], tmp_path: Path) -> None:
    sizes = {"img_size": 64, "embed_dim": 16, "depths": [1, 1], "num_heads": [1, 2], "window_size": 4}
    model = timm.create_model("swin_tiny_patch4_window7_224", num_classes=0, **sizes)
    released = {key.replace("layers.1.downsample", "layers.0.downsample"): v for key, v in model.state_dict().items()}
    released |= {"layers.0.blocks.0.attn.relative_position_index": torch.zeros(16, 16, dtype=torch.long)}
    released |= {"layers.0.blocks.0.attn_mask": torch.zeros(4, 16, 16)}
    released |= {"head.weight": torch.ones(21841, 32), "head.bias": torch.ones(21841)}
    torch.save({"model": released}, tmp_path / "swin_base_patch4_window7_224_22k.pth")
    folder = make_folder("swin", "swin_tiny_patch4_window7_224", "head.fc", **sizes)
    file = tmp_path / "swin_base_patch4_window7_224_22k.pth"
    assert load_backbone(str(folder), num_classes=2, weights=str(file)).fingerprint == fingerprint(model)


def test_objects_besides_tensors_are_named_with_what_to_do(
    tiny: Path, tiny_model: torch.nn.Module, tmp_path: Path
) -> None:
    torch.save({"state_dict": tiny_model.state_dict(), "when": datetime.timedelta(1)}, tmp_path / "w.pth")
    with pytest.raises(RLRRError, match=r"w\.pth holds more than tensors \(datetime\.timedelta\).*\.safetensors"):
        load_backbone(str(tiny), num_classes=2, weights=str(tmp_path / "w.pth"))


@pytest.mark.parametrize("suffix", [".safetensors", ".pth", "folder"])
def test_a_weights_file_gives_the_same_features(
    suffix: str, tiny: Path, tiny_model: torch.nn.Module, tmp_path: Path
) -> None:
    file = tmp_path / f"weights{suffix}"
    if suffix == ".pth":
        torch.save({"state_dict": tiny_model.state_dict()}, file)
    elif suffix == "folder":
        file.mkdir()
        save_file(tiny_model.state_dict(), file / "model.safetensors")
    else:
        save_file(tiny_model.state_dict(), file)
    backbone = load_backbone(str(tiny), num_classes=2, weights=str(file))
    images = torch.randn(2, 3, 32, 32)
    with torch.inference_mode():
        features = backbone.model.eval().forward_features(images)
        assert torch.equal(features, tiny_model.forward_features(images))
    assert backbone.fingerprint == fingerprint(tiny_model)
    assert backbone.model.get_classifier().out_features == 2


def test_an_original_jax_file_is_read_whole(tiny: Path) -> None:
    model = load_backbone(str(tiny), num_classes=0, weights=str(GOLDEN)).model
    with np.load(GOLDEN) as archive:
        block = "Transformer/encoderblock_2"
        fc1 = archive[f"{block}/MlpBlock_3/Dense_0/kernel"].T
        query = archive[f"{block}/MultiHeadDotProductAttention_1/query/kernel"].reshape(48, 48).T
        positions = archive["Transformer/posembed_input/pos_embedding"]
    assert np.array_equal(model.blocks[2].mlp.fc1.weight.detach(), fc1)
    assert np.array_equal(model.blocks[2].attn.qkv.weight[:48].detach(), query)
    assert np.array_equal(model.pos_embed.detach(), positions)


def test_an_original_jax_file_gives_the_golden_features_and_logits(tiny: Path) -> None:
    golden = load_file(GOLDEN.with_suffix(".safetensors"))
    base = {name.removeprefix("base."): tensor for name, tensor in golden.items() if name.startswith("base.")}
    frozen, adapter = from_official(base)
    loaded = load_backbone(str(tiny), num_classes=5, weights=str(GOLDEN)).model.eval()

    # without adapter, against the frozen weights of the official model: its features, bit for bit
    sizes = json.loads((tiny / "config.json").read_text())["model_args"]
    plain = timm.create_model("vit_tiny_patch16_224", num_classes=5, **sizes).eval()
    plain.load_state_dict(frozen)
    with torch.inference_mode():
        assert torch.equal(loaded.forward_features(golden["x"]), plain.forward_features(golden["x"]))

    # with the official adapter and classifier on top, against the logits the official code gave
    adapted = get_peft_model(loaded, RLRRConfig()).eval()
    assert not set_peft_model_state_dict(adapted, adapter).unexpected_keys
    with torch.inference_mode():
        logits, expected = adapted(golden["x"]), golden["eval.logits"]
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-5 * expected.abs().max().item())


@pytest.mark.parametrize("suffix", [".safetensors", ".pth", ".npz"])
def test_a_truncated_file_is_named(suffix: str, tiny: Path, tiny_model: torch.nn.Module, tmp_path: Path) -> None:
    file = tmp_path / f"half{suffix}"
    if suffix == ".safetensors":
        save_file(tiny_model.state_dict(), file)
    elif suffix == ".pth":
        torch.save(tiny_model.state_dict(), file)
    else:
        file.write_bytes(GOLDEN.read_bytes())
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(RLRRError, match=rf"half\{suffix} .*truncated or damaged"):
        load_backbone(str(tiny), num_classes=2, weights=str(file))


def test_pickled_code_in_a_weights_file_is_not_run(tiny: Path, tmp_path: Path) -> None:
    class Attack:
        def __reduce__(self) -> tuple:
            return (Path.touch, (tmp_path / "ran",))

    torch.save({"state_dict": Attack()}, tmp_path / "w.pth")
    with pytest.raises(RLRRError, match=r"w\.pth"):
        load_backbone(str(tiny), num_classes=2, weights=str(tmp_path / "w.pth"))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"depth": 2}, "number of blocks is 3, not 2"),
        ({"depth": 4}, "number of blocks is 3, not 4"),
        ({"embed_dim": 64}, "width is 48, not 64"),
        ({"mlp_ratio": 4}, r"size mismatch for blocks\.0\.mlp\.fc1\.weight"),
        ({"patch_size": 16}, r"w\.safetensors are not those of .*: their patch size is \(8, 8\), not \(16, 16\)"),
    ],
)
def test_weights_of_another_backbone_are_refused(
    changes: dict[str, int],
    named: str,
    make_folder: Callable[..., Path],
    tiny_model: torch.nn.Module,
    tmp_path: Path,
) -> None:
    save_file(tiny_model.state_dict(), tmp_path / "w.safetensors")
    with pytest.raises(RLRRError, match=named):
        load_backbone(str(make_folder(**changes)), num_classes=2, weights=str(tmp_path / "w.safetensors"))


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"depth": 2}, "number of blocks is 3, not 2"),
        ({"depth": 4}, "number of blocks is 3, not 4"),
        ({"embed_dim": 64}, "width is 48, not 64"),
        ({"num_heads": 6}, "number of heads is 4, not 6"),
        ({"patch_size": 16}, r"patch size is \(8, 8\), not \(16, 16\)"),
        ({"mlp_ratio": 4}, "are not those of"),
    ],
)
def test_a_jax_file_of_another_backbone_is_refused(
    changes: dict[str, int], named: str, make_folder: Callable[..., Path]
) -> None:
    with pytest.raises(RLRRError, match=rf"official_vit\.npz.*{named}"):
        load_backbone(str(make_folder(**changes)), num_classes=2, weights=str(GOLDEN))


def test_a_jax_file_is_refused_for_what_is_no_vit() -> None:
    with pytest.raises(RLRRError, match=r"official_vit\.npz are not those of resnet18: timm reads \.npz"):
        load_backbone("resnet18", num_classes=2, weights=str(GOLDEN))
