"""Models that no family describes by name: their blocks are found, and every module of a kind that can be adapted."""

import re

import pytest
import timm
import torch
import transformers
from torch import nn

from rlrr.backbones.families import (
    block_linears,
    block_names,
    classifier_names,
    default_targets,
    family_of,
    module_names,
)
from rlrr.backbones.kinds import kind_of

VIT = {"depth": 2, "embed_dim": 32, "num_heads": 2, "img_size": 32, "num_classes": 5}
HF = {"image_size": 32, "patch_size": 16, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}


def timm_model(name, **arguments):
    with torch.device("meta"):
        return timm.create_model(name, **arguments)


def hf_model(kind, **sizes):
    with torch.device("meta"):
        config = getattr(transformers, f"{kind}Config")(num_labels=5, **sizes)
        return getattr(transformers, f"{kind}ForImageClassification")(config)


# model, what is adapted in each block, what outside, the path of the blocks
MODELS = {
    "EVA-02, fused": (
        lambda: timm_model("eva02_tiny_patch14_224", **VIT | {"img_size": 28}),
        {"norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2"},
        {"patch_embed.proj", "fc_norm"},
        [f"blocks.{i}" for i in (0, 1)],
    ),
    "EVA-02, apart": (
        lambda: timm_model("eva02_base_patch14_224", **VIT | {"img_size": 28}),
        {
            *("norm1", "attn.q_proj", "attn.k_proj", "attn.v_proj", "attn.proj"),
            *("norm2", "mlp.fc1_g", "mlp.fc1_x", "mlp.norm", "mlp.fc2"),
        },
        {"patch_embed.proj", "fc_norm"},
        [f"blocks.{i}" for i in (0, 1)],
    ),
    "BEiT": (
        lambda: timm_model("beit_base_patch16_224", **VIT),
        {"norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2"},
        {"patch_embed.proj", "fc_norm"},
        [f"blocks.{i}" for i in (0, 1)],
    ),
    "ViT, parallel and scaled": (
        lambda: timm_model("vit_pwee_patch16_reg1_gap_256", **VIT),
        {"in_norm", "in_proj", "attn_out_proj", "mlp_out_proj"},
        {"patch_embed.proj", "fc_norm"},
        [f"blocks.{i}" for i in (0, 1)],
    ),
    "Swin V2": (
        lambda: timm_model(
            "swinv2_tiny_window8_256", img_size=64, depths=(1, 1), embed_dim=16, num_heads=(2, 2), num_classes=5
        ),
        {"norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2"},
        {"patch_embed.proj", "patch_embed.norm", "norm", "layers.1.downsample.reduction", "layers.1.downsample.norm"},
        [f"layers.{i}.blocks.0" for i in (0, 1)],
    ),
    "ConvNeXt": (
        lambda: timm_model("convnext_atto", depths=(1,) * 4, dims=(8,) * 4, num_classes=5),
        {"conv_dw", "norm", "mlp.fc1", "mlp.fc2"},
        {"stem.0", "stem.1", "head.norm", *(f"stages.{i}.downsample.{j}" for i in (1, 2, 3) for j in (0, 1))},
        [f"stages.{i}.blocks.0" for i in range(4)],
    ),
    "PVT v2": (
        lambda: timm_model("pvt_v2_b0", depths=(1, 1, 1, 1), num_classes=5),
        None,
        None,
        [f"stages.{i}.blocks.0" for i in range(4)],
    ),
    "transformers' Swin": (
        lambda: hf_model("Swin", image_size=64, embed_dim=16, depths=[1, 1], num_heads=[2, 2], window_size=4),
        {"layernorm_before", "layernorm_after", *(f"attention.{x}_proj" for x in "qkvo"), "mlp.fc1", "mlp.fc2"},
        {
            *("swin.embeddings.patch_embeddings.projection", "swin.embeddings.norm", "swin.layernorm"),
            *("swin.encoder.layers.0.downsample.norm", "swin.encoder.layers.0.downsample.reduction"),
        },
        [f"swin.encoder.layers.{i}.blocks.0" for i in (0, 1)],
    ),
    "transformers' BEiT": (
        lambda: hf_model("Beit", intermediate_size=32, **HF),
        {"layernorm_before", "layernorm_after", *(f"attention.{x}_proj" for x in "qkvo"), "mlp.fc1", "mlp.fc2"},
        None,
        [f"beit.layers.{i}" for i in (0, 1)],
    ),
}


@pytest.mark.parametrize("name", MODELS)
def test_every_linear_norm_and_convolution_of_the_blocks_and_the_ends_is_adapted(name):
    build, in_block, outside, blocks = MODELS[name]
    model = build()
    assert block_names(model) == blocks
    targets = set(default_targets(model))
    inside = {target for target in targets if target.startswith(tuple(f"{block}." for block in blocks))}
    if in_block is not None:
        assert inside == {f"{block}.{path}" for block in blocks for path in in_block}
    if outside is not None:
        assert targets - inside == outside
    modules = dict(model.named_modules())
    assert all(kind_of(modules[target]) for target in targets)
    assert not targets & set(classifier_names(model))
    linears = {target for target in inside if kind_of(modules[target]) == "linear"}
    assert linears <= set(block_linears(model)) <= targets


@pytest.mark.parametrize(
    ("name", "generic"),
    [("eva02_tiny_patch14_224", False), ("levit_128s", True), ("efficientnet_b0", True), ("hiera_tiny_224", False)],
)
def test_models_that_nobody_has_looked_at_are_told_apart(name, generic):
    assert family_of(timm_model(name)).generic is generic


def test_a_family_keeps_its_regexes_where_they_fit_and_only_there():
    assert family_of(timm_model("resnet18")).paths("conv") == [r"layer\d+\.\d+\.conv[123]"]
    targets = default_targets(timm_model("resnest14d"))
    assert {"layer1.0.conv1", "layer1.0.conv2.conv", "layer1.0.conv2.fc1", "layer1.0.conv3"} <= set(targets)
    assert "layer1.0.conv2" not in targets


def test_a_module_of_another_kind_in_some_block_is_left_out_there():
    model = timm_model("vit_tiny_patch16_224", **VIT)
    model.blocks[1].norm1 = nn.BatchNorm1d(3)
    assert {"blocks.0.norm1", "blocks.0.norm2", "blocks.1.norm2"} <= set(default_targets(model))
    assert "blocks.1.norm1" not in default_targets(model)


def test_what_sees_positions_or_words_is_left_out():
    for name in ("swinv2_tiny_window8_256", "vit_relpos_small_patch16_224", "vit_base_patch16_siglip_224"):
        targets = default_targets(timm_model(name))
        assert not [target for target in targets if re.search("cpb_mlp|rel_pos|attn_pool", target)]


def test_blocks_are_chosen_by_index_and_parts_by_name():
    model = timm_model("eva02_tiny_patch14_224", **VIT | {"img_size": 28})
    family = family_of(model)
    regex = family.target_modules(model, [1], ["attn", "patch_embed"])
    hits = {name for name, _ in model.named_modules() if re.fullmatch(regex, name)}
    assert hits == {"blocks.1.attn.qkv", "blocks.1.attn.proj", "patch_embed.proj"}
    assert module_names(model, "attn", [0]) == ["blocks.0.attn.qkv", "blocks.0.attn.proj"]
    assert module_names(model, "mlp.module") == ["blocks.0.mlp", "blocks.1.mlp"]


@pytest.mark.parametrize(
    ("name", "heads"),
    [
        ("levit_128s", ["head.linear", "head_dist.linear"]),
        ("levit_conv_128s", ["head.linear", "head_dist.linear"]),
        ("samvit_base_patch16_224", ["head.fc"]),
        ("crossvit_tiny_240", ["head.0", "head.1"]),
        ("pit_ti_distilled_224", ["head", "head_dist"]),
        ("volo_d1_224", ["aux_head", "head"]),
        ("mvitv2_tiny", ["head.fc"]),
        ("convnext_atto", ["head.fc"]),
        ("repvit_m0_9", ["head.head.l", "head.head_dist.l"]),
    ],
)
def test_a_classifier_is_named_by_its_modules_with_weights(name, heads):
    model = timm_model(name)
    assert sorted(classifier_names(model)) == heads
    modules = dict(model.named_modules())
    assert all(modules[head].weight is not None for head in heads)
