import json
import time
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from torch.nn import functional as F

from rlrr.backbones import backbones, fingerprint, load_backbone, packaged
from rlrr.errors import RLRRError

GOLDEN = Path(__file__).parent / "golden" / "official_vit.npz"
TINY = {"img_size": 32, "patch_size": 8, "embed_dim": 48, "depth": 3, "num_heads": 4, "mlp_ratio": 2}


def tiny_folder(folder: Path, **changes: int) -> Path:
    """A timm folder without weights, of the dimensions of the golden ViT."""
    folder.mkdir()
    config = {
        "architecture": "vit_tiny_patch16_224",
        "num_classes": 5,
        "model_args": {**TINY, **changes},
        "pretrained_cfg": {"input_size": [3, 32, 32], "fixed_input_size": True, "classifier": "head"},
    }
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    return tiny_folder(tmp_path / "tiny")


@pytest.fixture
def tiny_model() -> torch.nn.Module:
    torch.manual_seed(0)
    return timm.create_model("vit_tiny_patch16_224", num_classes=5, **TINY).eval()


@pytest.fixture
def no_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "empty"))


# The packaged backbone


def test_the_packaged_backbone_computes_what_its_onnx_file_computes() -> None:
    onnx = pytest.importorskip("onnx")
    from onnx.reference import ReferenceEvaluator

    network = onnx.load(packaged.onnx_file())
    last = "/backbone/layernorm/Add_1_output_0"
    end = next(i for i, node in enumerate(network.graph.node) if last in node.output)
    del network.graph.node[end + 1 :]  # the saliency decoder
    del network.graph.output[:]
    network.graph.output.append(onnx.helper.make_tensor_value_info(last, onnx.TensorProto.FLOAT, None))
    image = np.random.default_rng(0).standard_normal((1, 3, 224, 224)).astype(np.float32)
    expected = ReferenceEvaluator(network).run(None, {"input_image": image})[0]

    model = load_backbone("vit_small_focus", num_classes=0).model.eval()
    with torch.inference_mode():
        # The file resizes its positions without the antialiasing that timm uses; all else is the same.
        positions = packaged.packaged_weights()["pos_embed"]
        grid = positions[:, 1:].reshape(1, 37, 37, 384).permute(0, 3, 1, 2)
        grid = F.interpolate(grid, size=(16, 16), mode="bicubic").flatten(2).transpose(1, 2)
        model.pos_embed.copy_(torch.cat([positions[:, :1], grid], dim=1))
        tokens = model.forward_features(torch.from_numpy(image))
    assert np.abs(tokens.numpy() - expected).max() < 1e-3


def test_the_packaged_backbone_describes_itself() -> None:
    backbone = load_backbone("vit_small_focus", num_classes=7, image_size=70)
    assert (backbone.name, backbone.architecture, backbone.tag) == (
        "vit_small_focus",
        "vit_small_patch14_dinov2",
        None,
    )
    assert backbone.model.name_or_path == "vit_small_focus"
    assert backbone.model.pretrained_cfg.keys().isdisjoint({"state_dict", "tag", "hf_hub_id"})
    assert backbone.data_config["input_size"] == (3, 70, 70)
    assert backbone.data_config["mean"] == (0.485, 0.456, 0.406)
    assert backbone.data_config["crop_pct"] == 1.0
    json.dumps(backbone.data_config)
    assert backbone.model(torch.zeros(2, 3, 70, 70)).shape == (2, 7)


def test_one_file_has_one_fingerprint_at_every_image_size() -> None:
    small = load_backbone("vit_small_focus", num_classes=3, image_size=70)
    large = load_backbone("vit_small_focus", num_classes=0, image_size=98)
    assert small.fingerprint == large.fingerprint == fingerprint(small.model)
    with torch.no_grad():
        small.model.blocks[11].mlp.fc2.bias[0] += 1e-3
    assert fingerprint(small.model) != large.fingerprint


def test_without_its_package_the_packaged_backbone_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(packaged.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(RLRRError, match=r"pip install 'rlrr\[demo\]'"):
        load_backbone("vit_small_focus", num_classes=2)


# Fingerprint


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


# Names


@pytest.mark.parametrize("size", ["base", "large"])
def test_an_old_name_of_two_weights_is_refused(size: str) -> None:
    with pytest.raises(RLRRError) as caught:
        load_backbone(f"vit_{size}_patch16_224_in21k", num_classes=2)
    assert f"vit_{size}_patch16_224.orig_in21k" in str(caught.value)
    assert f"vit_{size}_patch16_224.augreg_in21k" in str(caught.value)
    assert caught.value.usage


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
    assert caught.value.usage


@pytest.mark.parametrize("prefix", ["", "timm/", "hf-hub:timm/"])
@pytest.mark.usefixtures("no_hub")
def test_offline_the_error_says_how_to_go_on(prefix: str) -> None:
    start = time.monotonic()
    with pytest.raises(RLRRError) as caught:
        load_backbone(f"{prefix}vit_tiny_patch16_224", num_classes=2)
    for words in ("vit_tiny_patch16_224.augreg_in21k_ft_in1k", "--weights", "vit_small_focus", "HF_HOME"):
        assert words in str(caught.value)
    assert time.monotonic() - start < 5, "asked the Hub again and again"


def test_a_model_without_weights_of_its_own_asks_for_a_file() -> None:
    with pytest.raises(RLRRError, match="--weights"):
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


# Files and folders


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


@pytest.mark.parametrize("config", ['{"architectures": ["ViTModel"]}', "[1]", '{"architecture": "no_such_model"}'])
def test_a_folder_of_another_kind_is_refused(config: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(config)
    with pytest.raises(RLRRError, match="names no timm model"):
        load_backbone(str(tmp_path), num_classes=2)


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
        ({"depth": 2}, r"blocks\.2\."),
        ({"depth": 4}, r"blocks\.3\."),
        ({"embed_dim": 64}, "size mismatch for cls_token"),
        ({"patch_size": 16}, r"patches are \(8, 8\) pixels, not \(16, 16\)"),
    ],
)
def test_weights_of_another_backbone_are_refused(
    changes: dict[str, int], named: str, tiny_model: torch.nn.Module, tmp_path: Path
) -> None:
    save_file(tiny_model.state_dict(), tmp_path / "w.safetensors")
    other = tiny_folder(tmp_path / "other", **changes)
    with pytest.raises(RLRRError, match=named):
        load_backbone(str(other), num_classes=2, weights=str(tmp_path / "w.safetensors"))


@pytest.mark.parametrize("changes", [{"depth": 2}, {"depth": 4}, {"embed_dim": 64}, {"patch_size": 16}])
def test_a_jax_file_of_another_backbone_is_refused(changes: dict[str, int], tmp_path: Path) -> None:
    other = tiny_folder(tmp_path / "other", **changes)
    with pytest.raises(RLRRError, match=r"another backbone|are not those of"):
        load_backbone(str(other), num_classes=2, weights=str(GOLDEN))


# Options


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"image_size": 100}, "multiples of 14: give 98 or 112"),
        ({"image_size": 5}, "give 14"),
        ({"image_size": 0}, "positive image size"),
        ({"num_classes": -1}, "num_classes is -1"),
        ({"drop_path": 1.0}, "drop_path is 1"),
        ({"weights": "w.pth"}, "leave out --weights"),
    ],
)
def test_an_option_that_does_not_fit_is_refused(options: dict, words: str) -> None:
    with pytest.raises(RLRRError, match=words) as caught:
        load_backbone("vit_small_focus", **{"num_classes": 2, **options})
    assert caught.value.usage


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


# The list


@pytest.mark.usefixtures("no_hub")
def test_the_list_starts_with_the_packaged_one_and_takes_its_numbers_from_timm() -> None:
    listed = {info.name: info for info in backbones()}
    assert next(iter(listed)) == "vit_small_focus"
    assert listed["vit_small_focus"].image_size == 224
    original = listed["vit_base_patch16_224.orig_in21k"]
    assert (original.parameters, original.mean, original.image_size) == (85.8, (0.5, 0.5, 0.5), 224)
    assert [info.name for info in listed.values() if info.available] == ["vit_small_focus"]
    assert set(listed) - {"vit_small_focus"} <= set(timm.list_pretrained())
