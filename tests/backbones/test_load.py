"""From a name to a model: names, folders, fingerprints and options."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

import huggingface_hub
import pytest
import timm
import torch
from safetensors.torch import save_file

from rlrr.backbones import fingerprint, load_backbone
from rlrr.backbones.releases import RELEASES, pretrained_config
from rlrr.errors import RLRRError, UsageError


def test_the_fingerprint_leaves_out_the_classifier_and_the_positions_only(
    tiny_model: torch.nn.Module,
) -> None:
    before = fingerprint(tiny_model)
    counted = set()
    for name, parameter in tiny_model.named_parameters():
        original = parameter.detach().clone()
        parameter.data.add_(1)
        if fingerprint(tiny_model) != before:
            counted.add(name)
        parameter.data.copy_(original)
    assert dict(tiny_model.named_parameters()).keys() - counted == {"head.weight", "head.bias", "pos_embed"}


@pytest.mark.parametrize("size", ["base", "large"])
def test_an_old_name_of_two_weights_is_refused(size: str) -> None:
    with pytest.raises(RLRRError) as caught:
        load_backbone(f"vit_{size}_patch16_224_in21k", num_classes=2)
    assert f"vit_{size}_patch16_224.orig_in21k" in str(caught.value)
    assert f"vit_{size}_patch16_224.augreg_in21k" in str(caught.value)
    assert isinstance(caught.value, UsageError)


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("vit_huge_patch14_224_in21k", "vit_huge_patch14_224.orig_in21k"),
        ("vit_base_patch16_225", "vit_base_patch16_224"),
        ("vit_base_patch16_224.orig_in21", "vit_base_patch16_224.orig_in21k"),
        ("timm/vit_base_patch16_224_dino", "vit_base_patch16_224.dino"),
        ("vit_small_focuss", "vit_small_focus"),
    ],
)
def test_an_unknown_name_gets_the_nearest(name: str, meant: str) -> None:
    with pytest.raises(RLRRError, match=meant) as caught:
        load_backbone(name, num_classes=2)
    assert isinstance(caught.value, UsageError)


@pytest.mark.parametrize("prefix", ["", "timm/", "hf-hub:timm/"])
@pytest.mark.usefixtures("no_hub")
def test_offline_the_error_says_how_to_go_on(prefix: str) -> None:
    start = time.monotonic()
    with pytest.raises(RLRRError) as caught:
        load_backbone(f"{prefix}vit_tiny_patch16_224", num_classes=2)
    for words in ("vit_tiny_patch16_224.augreg_in21k_ft_in1k", "as `weights`", "vit_small_focus", "HF_HOME"):
        assert words in str(caught.value)
    assert time.monotonic() - start < 5, "asked the Hub again and again"


def test_a_model_without_weights_of_its_own_asks_for_a_file() -> None:
    with pytest.raises(RLRRError, match="as `weights`"):
        load_backbone("vit_base_patch16_18x2_224", num_classes=2)


def test_weights_in_the_hubs_cache_are_used_without_the_hub(
    no_hub: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "test_vit.r160_in1k"
    model = timm.create_model("test_vit")
    repo = tmp_path / "empty" / f"models--timm--{name}"
    (repo / "refs").mkdir(parents=True)
    (repo / "refs" / "main").write_text("0" * 40)
    (repo / "snapshots" / ("0" * 40)).mkdir(parents=True)
    save_file(model.state_dict(), repo / "snapshots" / ("0" * 40) / "model.safetensors")
    backbone = load_backbone("test_vit", num_classes=3)
    assert (backbone.name, backbone.tag) == (name, "r160_in1k")
    assert backbone.model.name_or_path == f"timm/{name}"
    assert backbone.fingerprint == fingerprint(model)
    assert backbone.model.num_classes == 3


def test_weights_without_a_tag_are_recorded_without_one(tmp_path: Path) -> None:
    save_file(timm.create_model("test_vit").state_dict(), tmp_path / "w.safetensors")
    bare = load_backbone("test_vit", num_classes=2, weights=str(tmp_path / "w.safetensors"))
    assert (bare.name, bare.tag, bare.model.name_or_path) == ("test_vit", None, "test_vit")
    tagged = load_backbone("test_vit.r160_in1k", num_classes=2, weights=str(tmp_path / "w.safetensors"))
    assert (tagged.name, tagged.tag) == ("test_vit.r160_in1k", "r160_in1k")
    assert bare.fingerprint == tagged.fingerprint


def test_a_local_timm_folder_is_a_backbone(
    tiny: Path, tiny_model: torch.nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_file(tiny_model.state_dict(), tiny / "model.safetensors")
    monkeypatch.chdir(tmp_path)
    backbone = load_backbone("tiny", num_classes=3)
    assert backbone.name == backbone.model.name_or_path == str(tiny)
    assert (backbone.architecture, backbone.tag) == ("vit_tiny_patch16_224", None)
    assert backbone.image_size == 32
    assert backbone.fingerprint == fingerprint(tiny_model)
    larger = load_backbone(str(tiny), num_classes=3, image_size=48)
    assert larger.model(torch.zeros(1, 3, 48, 48)).shape == (1, 3)
    assert larger.fingerprint == backbone.fingerprint


def test_a_backbones_own_size_is_never_refused(make_folder: Callable[..., Path]) -> None:
    folder = make_folder("odd", "vit_tiny_patch16_224", img_size=36, patch_size=8)  # which leaves out four pixels
    config = json.loads((folder / "config.json").read_text())
    config["pretrained_cfg"]["input_size"] = [3, 36, 36]
    (folder / "config.json").write_text(json.dumps(config))
    model = timm.create_model("vit_tiny_patch16_224", num_classes=0, **config["model_args"])
    save_file(model.state_dict(), folder / "model.safetensors")
    for size in (None, 36):
        backbone = load_backbone(str(folder), num_classes=3, image_size=size)
        assert backbone.image_size == 36
        assert backbone.model.eval()(torch.zeros(1, 3, 36, 36)).shape == (1, 3)
    with pytest.raises(UsageError, match="multiples of 8"):
        load_backbone(str(folder), num_classes=3, image_size=37)


@pytest.mark.parametrize(
    ("architecture", "sizes"),
    [
        ("xcit_nano_12_p16_224", {"depth": 1, "embed_dim": 16, "num_heads": 2}),  # its patch size is one number
        ("vit_pwee_patch16_reg1_gap_256", {"depth": 1, "embed_dim": 16, "num_heads": 2}),  # its blocks have no attn
        ("vit_small_r26_s32_224", {"depth": 1, "embed_dim": 16, "num_heads": 2}),  # its stem has blocks too
        ("levit_128s", {}),
    ],
)
def test_a_backbone_takes_a_file_of_its_own_weights(
    architecture: str, sizes: dict, make_folder: Callable[..., Path], tmp_path: Path
) -> None:
    folder, model = make_folder("net", architecture), timm.create_model(architecture, num_classes=0, **sizes)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model_args": sizes}))
    save_file(model.state_dict(), folder / "model.safetensors")
    backbone = load_backbone(str(folder), num_classes=2, weights=str(folder / "model.safetensors"))
    assert backbone.fingerprint == fingerprint(model)


@pytest.mark.parametrize("config", ['{"architectures": ["ViTModel"]}', "[1]", '{"architecture": "no_such_model"}'])
def test_a_folder_of_another_kind_is_refused(config: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(config)
    with pytest.raises(RLRRError, match="names no timm model"):
        load_backbone(str(tmp_path), num_classes=2)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"image_size": 100}, "multiples of 14: give 98 or 112"),
        ({"image_size": 5}, "give 14"),
        ({"image_size": 0}, "positive image size"),
        ({"num_classes": -1}, "`num_classes` is -1"),
        ({"drop_path": 1.0}, "`drop_path` is 1"),
        ({"drop_path_kind": "papr"}, "drop_path_kind is 'papr': give stochastic_depth or paper"),
        ({"preprocessing": {"crop": 1.0}}, "preprocessing has no 'crop'"),
        ({"weights": "w.pth"}, "leave out `weights`"),
    ],
)
def test_an_option_that_does_not_fit_is_refused(options: dict, words: str) -> None:
    with pytest.raises(RLRRError, match=words) as caught:
        load_backbone("vit_small_focus", **{"num_classes": 2, **options})
    assert isinstance(caught.value, UsageError)


@pytest.mark.parametrize(("architecture", "image_size"), [("resnet18", None), ("resnet50", 75)])
def test_a_resnet_is_a_backbone_by_name_or_folder(
    architecture: str, image_size: int | None, make_folder: Callable[..., Path]
) -> None:
    folder, model = make_folder("net", architecture, "fc"), timm.create_model(architecture)
    save_file(model.state_dict(), folder / "model.safetensors")
    local = load_backbone(str(folder), num_classes=3, image_size=image_size)
    named = load_backbone(architecture, num_classes=3, image_size=image_size, weights=str(folder))
    assert local.fingerprint == named.fingerprint == fingerprint(model)
    assert local.data_config["input_size"] == (3, image_size or 32, image_size or 32)
    assert local.model.eval()(torch.zeros(1, *local.data_config["input_size"])).shape == (1, 3)


MOCO_V3 = "vit_base_patch16_224.moco_v3"


def moco_file(path: Path) -> Path:
    """The published keys at full size, each tensor of one value repeated, which takes no space."""
    with torch.device("meta"):
        shapes = {k: v.shape for k, v in timm.create_model("vit_base_patch16_224", num_classes=0).state_dict().items()}
    state = {f"module.base_encoder.{key}": torch.full((1,), 0.5).expand(shape) for key, shape in shapes.items()}
    state |= {f"module.momentum_encoder.{key}": torch.zeros(1).expand(shape) for key, shape in shapes.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"epoch": 300, "arch": "vit_base", "state_dict": state}, path)
    return path


@pytest.mark.parametrize("where", ["--weights", "cache"])
@pytest.mark.usefixtures("no_hub")
def test_moco_v3_has_a_name_of_ours(where: str, tmp_path: Path) -> None:
    path = "w.pth.tar" if where == "--weights" else "torch/hub/checkpoints/vit-b-300ep.pth.tar"
    file = moco_file(tmp_path / path)
    backbone = load_backbone(MOCO_V3, num_classes=2, weights=str(file) if where == "--weights" else None)
    assert (backbone.name, backbone.architecture, backbone.tag) == (MOCO_V3, "vit_base_patch16_224", None)
    assert backbone.model.name_or_path == MOCO_V3
    assert backbone.model.blocks[11].mlp.fc2.weight.unique().tolist() == [0.5]
    data_config = backbone.data_config
    assert (data_config["mean"], data_config["std"]) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert (data_config["interpolation"], data_config["crop_pct"]) == ("bicubic", 0.875)
    assert backbone.model.pretrained_cfg["license"] == "cc-by-nc-4.0"


@pytest.mark.usefixtures("no_hub")
def test_moco_v3_offline_names_its_file_and_the_ways_around() -> None:
    with pytest.raises(RLRRError) as caught:
        load_backbone(MOCO_V3, num_classes=2)
    for words in (MOCO_V3, "/vit-b-300ep.pth.tar", "HF_HUB_OFFLINE is set", "as `weights`", "TORCH_HOME"):
        assert words in str(caught.value)


def test_moco_v3_is_fetched_by_its_url_into_torchs_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """From a folder instead of its server, through torch's own download."""
    url = moco_file(tmp_path / "server" / "vit-b-300ep.pth.tar").as_uri()
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setitem(RELEASES[MOCO_V3], "url", url)
    assert load_backbone(MOCO_V3, num_classes=2).model.cls_token[0, 0, 0] == 0.5
    assert (tmp_path / "torch/hub/checkpoints/vit-b-300ep.pth.tar").is_file()
    monkeypatch.setitem(RELEASES[MOCO_V3], "url", f"{url}.gone")
    with pytest.raises(RLRRError, match=rf"Cannot get the weights of {MOCO_V3} from file:.*gone or its cache \("):
        load_backbone(MOCO_V3, num_classes=2)


def test_the_licence_is_that_of_the_weights(make_folder: Callable[..., Path], tmp_path: Path) -> None:
    dino = timm.create_model("vit_small_patch14_dinov2", img_size=28, depth=1)
    folder = tmp_path / "folder"
    folder.mkdir()
    said = {"license": "cc0-1.0", "paper_name": "On Weights", "input_size": [3, 28, 28], "classifier": "head"}
    description = {
        "architecture": "vit_small_patch14_dinov2",
        "model_args": {"img_size": 28, "depth": 1},
        "pretrained_cfg": said,
    }
    (folder / "config.json").write_text(json.dumps(description))
    save_file(dino.state_dict(), folder / "model.safetensors")

    def config(**options: str) -> dict:
        return load_backbone(str(folder), num_classes=2, **options).model.pretrained_cfg

    assert (config()["license"], config()["paper_name"]) == ("cc0-1.0", "On Weights")
    save_file(dino.state_dict(), tmp_path / "other.safetensors")
    assert config(weights=str(tmp_path / "other.safetensors")).keys().isdisjoint({"license", "paper_name"})


def test_the_pretrained_config_of_other_weights_tells_no_origin_and_leaves_its_source_as_it_is() -> None:
    source = {"architecture": "net", "tag": "a", "url": "u", "license": "mit", "mean": (0.5,)}
    original = dict(source)
    assert pretrained_config("net.a", source) == source
    other = pretrained_config("/folder", source)
    assert other["tag"] is other["url"] is other["license"] is None
    assert other["mean"] == (0.5,)
    folder = pretrained_config("/folder", source, own_terms=True)
    assert (folder["url"], folder["license"]) == (None, "mit")
    assert pretrained_config(MOCO_V3, source)["url"] == RELEASES[MOCO_V3]["url"]
    assert source == original


def test_preprocessing_replaces_what_the_backbone_asks_for(tiny: Path, tiny_model: torch.nn.Module) -> None:
    save_file(tiny_model.state_dict(), tiny / "model.safetensors")
    own = load_backbone(str(tiny), num_classes=2).data_config
    changes = {"crop_mode": "squash", "crop_pct": 1.0}
    assert load_backbone(str(tiny), num_classes=2, preprocessing=changes).data_config == {**own, **changes}


def test_drop_path_reaches_the_blocks(tiny: Path, tiny_model: torch.nn.Module) -> None:
    save_file(tiny_model.state_dict(), tiny / "model.safetensors")
    model = load_backbone(str(tiny), num_classes=2, drop_path=0.2).model
    assert [getattr(block.drop_path1, "drop_prob", 0.0) for block in model.blocks] == pytest.approx([0, 0.1, 0.2])


def test_a_convolutional_network_takes_any_image_size(tmp_path: Path) -> None:
    save_file(timm.create_model("test_resnet").state_dict(), tmp_path / "w.safetensors")
    backbone = load_backbone("test_resnet", num_classes=2, image_size=75, weights=str(tmp_path / "w.safetensors"))
    assert backbone.data_config["input_size"] == (3, 75, 75)


def test_the_classifier_follows_the_seed(tiny: Path, tiny_model: torch.nn.Module) -> None:
    save_file(tiny_model.state_dict(), tiny / "model.safetensors")

    def head(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return load_backbone(str(tiny), num_classes=2).model.head.weight

    assert torch.equal(head(1), head(1))
    assert not torch.equal(head(1), head(2))
