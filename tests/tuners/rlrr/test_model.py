"""Whole models under RLRR: the laws of `LAWS` hold for each of `MODELS`; then names, counts and what is refused."""

import re
import socket

import pytest
import timm
import torch
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from timm.models.beit import Beit
from timm.models.eva import Eva
from timm.models.swin_transformer import SwinTransformer
from timm.models.swin_transformer_v2 import SwinTransformerV2
from torch import nn
from transformers import (
    Dinov2Config,
    Dinov2ForImageClassification,
    TimmWrapperConfig,
    TimmWrapperForImageClassification,
    ViTConfig,
    ViTForImageClassification,
)

from rlrr import RLRRConfig
from rlrr.errors import RLRRError
from rlrr.tuners.rlrr import RLRRLayer

TIMM = {"img_size": 32, "depth": 2, "embed_dim": 48, "num_heads": 3, "num_classes": 5}
SWIN = {"img_size": 32, "patch_size": 4, "window_size": 4, "embed_dim": 16, "depths": (2, 2), "num_heads": (2, 4)}
HF = {"image_size": 32, "patch_size": 16, "hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 3}
WRAPPED = {"img_size": 32, "depth": 2, "embed_dim": 48, "num_heads": 3}
MODELS = {
    "timm ViT": lambda: timm.create_model("vit_tiny_patch16_224", **TIMM),
    "timm ViT, averaged": lambda: timm.create_model("vit_tiny_patch16_224", global_pool="avg", **TIMM),
    "timm ViT, qkv without bias": lambda: timm.create_model("vit_tiny_patch16_224", qkv_bias=False, **TIMM),
    "timm DeiT, distilled": lambda: timm.create_model("deit_tiny_distilled_patch16_224", **TIMM),
    "timm DINOv2": lambda: timm.create_model("vit_small_patch14_dinov2", **{**TIMM, "img_size": 28}, init_values=0.5),
    "timm Swin": lambda: SwinTransformer(num_classes=5, **SWIN),
    "transformers ViT": lambda: ViTForImageClassification(ViTConfig(intermediate_size=96, num_labels=5, **HF)),
    "transformers DINOv2": lambda: Dinov2ForImageClassification(
        Dinov2Config(mlp_ratio=2, num_labels=5, layerscale_value=0.5, **HF)
    ),
    "TimmWrapper": lambda: TimmWrapperForImageClassification(
        TimmWrapperConfig(architecture="vit_tiny_patch16_224", num_labels=5, model_args=dict(WRAPPED))
    ),
}
every_model = pytest.mark.parametrize("kind", MODELS)
# A merge gives these a bias that the plain model has not: the shift has to go somewhere.
GAINS_BIAS = {
    "timm Swin": {"layers.1.downsample.reduction.bias"},
    "timm ViT, qkv without bias": {"blocks.0.attn.qkv.bias", "blocks.1.attn.qkv.bias"},
}


def build(kind):
    torch.manual_seed(0)
    return MODELS[kind]().eval()


def stir(model, seed):
    """As if trained: without it shifts are zero, and every adapter has the same classifier."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)


def adapted(base, *more, **settings):
    torch.manual_seed(1)
    model = get_peft_model(base, RLRRConfig(**settings)).eval()
    stir(model, 1)
    for seed, name in enumerate(more, 2):
        model.add_adapter(name, RLRRConfig(**settings))
        model.set_adapter(name)
        stir(model, seed)
    model.set_adapter("default")
    return model


def images(kind, count=4):
    size = 28 if kind == "timm DINOv2" else 32
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(3))


@torch.no_grad()
def logits(model, x, **kwargs):
    output = model(x, **kwargs)
    return getattr(output, "logits", output)


def layers(model):
    return {name: module for name, module in model.named_modules() if isinstance(module, RLRRLayer)}


def frozen(model):
    return {name: p.detach().clone() for name, p in model.state_dict().items() if ".base_layer." in name}


def assert_close(ours, expected):
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-5 * expected.abs().max().item())


def assert_same_tensors(one, two):
    assert one.keys() == two.keys()
    assert all(torch.equal(tensor, two[name]) for name, tensor in one.items())


# The laws


@every_model
def test_merged_is_unmerged_and_unmerging_restores_every_bit(kind):
    x = images(kind)
    model = adapted(build(kind))
    before, unmerged = frozen(model), logits(model, x)
    model.merge_adapter()
    assert_close(logits(model, x), unmerged)
    model.unmerge_adapter()
    assert_same_tensors(frozen(model), before)
    assert torch.equal(logits(model, x), unmerged)


@every_model
def test_without_its_adapter_the_model_is_the_plain_one(kind):
    x = images(kind)
    base = build(kind)
    plain, state = logits(base, x), {name: tensor.clone() for name, tensor in base.state_dict().items()}
    model = adapted(base)
    assert (logits(model, x) - plain).abs().max() > 1e-2
    with model.disable_adapter():
        assert torch.equal(logits(model, x), plain)
    heads = tuple(model.peft_config["default"].modules_to_save)
    unloaded = model.unload()  # PEFT keeps the trained classifier, for every method
    assert not layers(unloaded)
    unloaded.load_state_dict({name: state[name] for name in state if name.startswith(heads)}, strict=False)
    assert_same_tensors(unloaded.state_dict(), state)
    assert torch.equal(logits(unloaded, x), plain)


@every_model
def test_a_merged_model_is_a_plain_model(kind):
    x = images(kind)
    base = build(kind)
    names = set(base.state_dict())
    model = adapted(base)
    unmerged = logits(model, x)
    merged = model.merge_and_unload()
    assert not layers(merged)
    assert set(merged.state_dict()) == names | GAINS_BIAS.get(kind, set())
    assert_close(logits(merged, x), unmerged)
    if kind not in GAINS_BIAS:
        plain = build(kind)
        plain.load_state_dict(merged.state_dict())
        assert torch.equal(logits(plain, x), logits(merged, x))


@every_model
def test_a_saved_adapter_comes_back_exactly(kind, tmp_path):
    x = images(kind)
    model = adapted(build(kind))
    model.save_pretrained(tmp_path, save_embedding_layers=False)
    again = PeftModel.from_pretrained(build(kind), tmp_path).eval()
    assert torch.equal(logits(again, x), logits(model, x))
    saved = get_peft_model_state_dict(again, save_embedding_layers=False)
    assert_same_tensors(saved, get_peft_model_state_dict(model, save_embedding_layers=False))
    trained = [name for name, p in model.named_parameters() if p.requires_grad]
    assert len(saved) == len(trained) > 20


@pytest.mark.filterwarnings("ignore:Adapter flowers was active")
@every_model
def test_two_adapters_keep_apart(kind):
    x = images(kind)
    model = adapted(build(kind), "flowers")
    first = logits(model, x)
    model.set_adapter("flowers")
    assert (logits(model, x) - first).abs().max() > 1e-2
    model.delete_adapter("flowers")
    assert not [name for name in model.state_dict() if "flowers" in name]
    model.set_adapter("default")
    assert torch.equal(logits(model, x), first)


@every_model
def test_merging_one_after_the_other_is_merging_both(kind):
    model = adapted(build(kind), "flowers")
    model.merge_adapter(["default"])
    with pytest.warns(UserWarning, match="additionally merging flowers"):
        model.merge_adapter(["flowers"])
    one_by_one = frozen(model)
    model.unmerge_adapter()
    model.merge_adapter(["default", "flowers"])
    assert_same_tensors(frozen(model), one_by_one)


@every_model
def test_a_mixed_batch_is_its_images_one_by_one(kind):
    x = images(kind)
    base = build(kind)
    expected = {"__base__": logits(base, x)}
    model = adapted(base, "flowers")
    for name in ("default", "flowers"):
        model.set_adapter(name)
        expected[name] = logits(model, x)
    order = ["flowers", "__base__", "default", "flowers"]
    mixed = logits(model, x, adapter_names=order)
    for row, name in enumerate(order):
        assert_close(mixed[row], expected[name][row])


@every_model
def test_a_half_precision_backbone_is_merged_and_restored(kind):
    x = images(kind).bfloat16()
    model = adapted(build(kind).bfloat16())
    vectors = [p for layer in layers(model).values() for name, p in layer.named_parameters() if "rlrr_" in name]
    assert {p.dtype for p in vectors} == {torch.float32}
    before, unmerged = frozen(model), logits(model, x)
    assert unmerged.dtype == torch.bfloat16
    model.merge_adapter()
    assert torch.equal(logits(model, x), unmerged)
    model.unmerge_adapter()
    assert_same_tensors(frozen(model), before)


@every_model
def test_the_identity_start_is_the_plain_model_and_every_layer_can_train(kind):
    x = images(kind)
    base = build(kind)
    plain = logits(base, x)
    model = get_peft_model(base, RLRRConfig(init_weights=True)).eval()
    assert torch.equal(logits(model, x), plain)
    output = model(x)
    getattr(output, "logits", output).pow(2).sum().backward()
    for name, layer in layers(model).items():
        gradients = [p.grad for vector, p in layer.named_parameters() if "rlrr_" in vector]
        assert all(gradient is not None for gradient in gradients), name
        assert any(gradient.any() for gradient in gradients), name
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trained == {name for name, p in model.named_parameters() if "rlrr_" in name or "modules_to_save" in name}
    assert trained == {name for name, p in model.named_parameters() if p.grad is not None}


# Backbones that read weights past their layers

BYPASSING = {
    "BEiT": lambda: Beit(num_classes=5, patch_size=16, init_values=0.5, **{**WRAPPED, "embed_dim": 48}),
    "EVA": lambda: Eva(num_classes=5, patch_size=16, qkv_bias=True, **WRAPPED),
    "Swin V2": lambda: SwinTransformerV2(num_classes=5, **SWIN),
}
BLOCKS = r".*blocks\.\d+\.(norm[12]|attn\.(qkv|proj)|mlp\.fc[12])"


@pytest.mark.parametrize("kind", BYPASSING)
def test_every_adapted_layer_is_called_where_weights_are_read_past_their_layer(kind):
    torch.manual_seed(0)
    base = BYPASSING[kind]().eval()
    x = images(kind)
    plain = logits(base, x)
    called = set()
    model = adapted(base, target_modules=BLOCKS)
    targets = layers(model)
    assert sum(name.endswith("qkv") for name in targets) in (2, 4)
    hooks = [layer.register_forward_hook(lambda *_, name=name: called.add(name)) for name, layer in targets.items()]
    unmerged = logits(model, x)
    assert called == set(targets)
    for hook in hooks:
        hook.remove()
    with model.disable_adapter():
        assert_close(logits(model, x), plain)
    assert_close(logits(model, x, adapter_names=["default", "__base__"] * 2)[::2], unmerged[::2])
    model.merge_adapter()
    assert_close(logits(model, x), unmerged)


# Mixed batches


def test_each_image_gets_the_classifier_of_its_own_adapter():
    model = adapted(build("timm ViT"), "flowers")
    for layer in layers(model).values():  # so that the classifiers alone differ
        for vectors in (getattr(layer, name) for name in layer.adapter_layer_names):
            vectors["flowers"].data = vectors["default"].detach().clone()
    x = images("timm ViT")
    mixed = logits(model, x, adapter_names=["default", "flowers"] * 2)
    first = logits(model, x)
    model.set_adapter("flowers")
    second = logits(model, x)
    assert (first - second).abs().max() > 1e-2
    assert_close(mixed[::2], first[::2])
    assert_close(mixed[1::2], second[1::2])


def test_names_that_do_not_fit_the_batch_are_refused():
    model = adapted(timm.create_model("vit_tiny_patch16_224", **{**TIMM, "num_classes": 0}))
    x = images("timm ViT")
    with pytest.raises(ValueError, match=r"non-existing adapter\(s\): birds, fish"):
        model(x, adapter_names=["default", "fish", "birds", "fish"])
    for count in (0, 1, 2, 3, 8):  # 2 divides the 4 images, and must not be taken for two each
        with pytest.raises(ValueError, match=f"but got {count} and 4 respectively"):
            model(x, adapter_names=["default"] * count)
    with pytest.raises(ValueError, match="training mode"):
        model.train()(x, adapter_names=["default"] * 4)
    model.eval().merge_adapter()
    with pytest.raises(ValueError, match="merged adapters"):
        model(x, adapter_names=["default"] * 4)


def test_a_failed_mixed_batch_leaves_no_hook_behind():
    model = adapted(build("timm ViT"))
    with pytest.raises(AssertionError):
        model(torch.rand(1, 3, 48, 48), adapter_names=["default"])
    assert not any(module._forward_pre_hooks for module in model.modules())


# What is adapted

COUNTS = {
    "vit_base_patch16_224": 288_768,
    "vit_large_patch16_224": 765_952,
    "vit_huge_patch14_224": 1_274_880,
    "swin_base_patch4_window7_224": 358_144,
}


@pytest.mark.parametrize("name", COUNTS)
def test_the_default_trains_as_many_parameters_as_the_paper_counts(name):
    with torch.device("meta"):
        model = get_peft_model(timm.create_model(name, num_classes=0), RLRRConfig())
    assert model.get_nb_trainable_parameters()[0] == COUNTS[name]
    assert model.peft_config["default"].modules_to_save is None


@pytest.mark.parametrize(
    ("kind", "heads"),
    [
        ("timm ViT", ["head"]),
        ("timm DeiT, distilled", ["head", "head_dist"]),
        ("timm Swin", ["head.fc"]),
        ("transformers ViT", ["classifier"]),
        ("TimmWrapper", ["timm_model.head"]),
    ],
)
def test_the_classifier_is_trained_whole(kind, heads):
    model = get_peft_model(build(kind), RLRRConfig())
    assert model.peft_config["default"].modules_to_save == heads
    trained = {name for name, p in model.named_parameters() if p.requires_grad and "rlrr_" not in name}
    parts = ("weight", "bias")
    assert trained == {f"base_model.model.{head}.modules_to_save.default.{part}" for head in heads for part in parts}


def test_named_targets_leave_the_classifier_alone_unless_it_is_named():
    model = get_peft_model(build("timm ViT"), RLRRConfig(target_modules=["qkv"]))
    assert {name.rpartition(".")[2] for name in layers(model)} == {"qkv"}
    assert not [name for name, p in model.named_parameters() if p.requires_grad and "head" in name]


def test_a_chosen_block_is_adapted_with_what_lies_outside_and_comes_back(tmp_path):
    kind = "timm ViT"
    model = adapted(build(kind), layers_to_transform=1, layers_pattern="blocks", exclude_modules=["qkv"])
    names = {name.removeprefix("base_model.model.") for name in layers(model)}
    block = {f"blocks.1.{part}" for part in ("norm1", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2")}
    assert names == block | {"patch_embed.proj", "norm"}
    model.save_pretrained(tmp_path, save_embedding_layers=False)
    again = PeftModel.from_pretrained(build(kind), tmp_path).eval()
    assert torch.equal(logits(again, images(kind)), logits(model, images(kind)))


# What is refused

BAD_NAMES = ["1", "attn", "norm", "head", "a.b", "r", "rlrr", "keys", "training", "weight", "cls_token", ""]
BAD_NAMES += ["model", "base_model", "base_layer", "modules_to_save", "rlrr_scale_in", "__base__"]


@pytest.mark.filterwarnings("ignore:Adapter name")
@pytest.mark.parametrize("name", BAD_NAMES)
def test_an_adapter_name_that_loses_tensors_is_refused(name):
    sentence = re.escape(f"{name!r} cannot be the name of an adapter")
    with pytest.raises(RLRRError, match=sentence):
        get_peft_model(build("timm ViT"), RLRRConfig(), adapter_name=name)
    model = get_peft_model(build("timm ViT"), RLRRConfig())
    with pytest.raises(RLRRError, match=sentence):
        model.add_adapter(name, RLRRConfig())
    assert list(model.peft_config) == ["default"]


def test_other_adapter_names_save_every_tensor():
    names = ["default", "flowers", "other", "EuroSAT 2", "Überraschung", "e", "shift", "defaults"]
    model = adapted(build("timm ViT"), *names[1:])
    trained = sum(p.requires_grad for p in model.parameters())
    for name in names:
        saved = get_peft_model_state_dict(model, adapter_name=name, save_embedding_layers=False)
        assert len(saved) == trained == 38
        layer = model.base_model.model.blocks[0].attn.qkv
        assert torch.equal(saved["base_model.model.blocks.0.attn.qkv.rlrr_scale_in"], layer.rlrr_scale_in[name])


def test_a_model_of_no_known_family_needs_targets():
    with pytest.raises(RLRRError, match=r"no default target modules for Sequential.*target_modules"):
        get_peft_model(nn.Sequential(nn.Linear(3, 2)), RLRRConfig())


def test_a_block_that_the_model_has_not_is_refused():
    with pytest.raises(RLRRError, match="names block 7: this VisionTransformer"):
        get_peft_model(build("timm ViT"), RLRRConfig(layers_to_transform=[0, 7]))


@pytest.mark.filterwarnings("ignore:You are trying to modify", "ignore:Already found")
def test_a_layer_of_another_method_is_refused():
    model = get_peft_model(build("timm ViT"), LoraConfig(target_modules=["qkv"]))
    with pytest.raises(RLRRError, match="adapted by another method already"):
        get_peft_model(model.base_model.model, RLRRConfig(target_modules=["qkv"]))


@pytest.mark.parametrize(("embeddings", "asks"), [(False, False), ("auto", True)])
@pytest.mark.filterwarnings("ignore:Could not find a config file", "ignore:Unable to fetch remote")
def test_saving_asks_no_server_unless_peft_is_left_to(embeddings, asks, tmp_path, monkeypatch):
    asked = []

    def refuse(*args, **kwargs):
        asked.append(args)
        raise OSError("no network here")

    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    base = build("timm ViT")
    base.name_or_path = "timm/vit_tiny_patch16_224.augreg_in21k"
    model = get_peft_model(base, RLRRConfig())
    model.save_pretrained(tmp_path, save_embedding_layers=embeddings)
    assert bool(asked) == asks
    assert model.peft_config["default"].base_model_name_or_path == "timm/vit_tiny_patch16_224.augreg_in21k"
