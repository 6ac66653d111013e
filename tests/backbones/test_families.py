"""Which modules the defaults of the families hit, and which they must not."""

import re

import pytest
import timm
import torch
import torchvision
import transformers
from timm.models.swin_transformer import SwinTransformer
from torch import nn
from transformers import (
    DeiTConfig,
    DeiTForImageClassificationWithTeacher,
    Dinov2Config,
    Dinov2ForImageClassification,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersForImageClassification,
    TimmWrapperConfig,
    TimmWrapperForImageClassification,
    ViTConfig,
    ViTModel,
)

from rlrr.backbones.families import (
    block_linears,
    block_name,
    block_names,
    classifier_names,
    default_targets,
    family_of,
    is_position_table,
    is_resized,
    module_kind,
    module_names,
    patch_count,
    patch_size,
    prefix_tokens,
    stacked_projections,
    stage_depth,
)
from rlrr.errors import RLRRError

TIMM = {"img_size": 32, "depth": 2, "embed_dim": 16, "num_heads": 2, "num_classes": 5}
HF = {"image_size": 32, "patch_size": 16, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
TIMM_BLOCK = ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2")
HF_BLOCK = (*(f"attention.{letter}_proj" for letter in "qkvo"), "mlp.fc1", "mlp.fc2")
VIT_NORMS, DINO_NORMS = ("layernorm_before", "layernorm_after"), ("norm1", "norm2")


def wrapper(architecture, **sizes):
    return TimmWrapperForImageClassification(
        TimmWrapperConfig(architecture=architecture, num_labels=sizes.pop("num_classes"), model_args=sizes)
    )


def swin():
    return SwinTransformer(
        img_size=32, patch_size=4, window_size=4, embed_dim=16, depths=(2, 2), num_heads=(2, 2), num_classes=5
    )


def vit(name="vit_tiny_patch16_224", **changes):
    return timm.create_model(name, **{**TIMM, **changes})


# model, path of its blocks, what is adapted in a block, what outside, the classifiers
FAMILIES = {
    "timm ViT": (vit, "blocks.{}.", TIMM_BLOCK, ("patch_embed.proj", "norm"), ("head",)),
    "timm ViT, averaged": (
        lambda: vit(global_pool="avg"),
        "blocks.{}.",
        TIMM_BLOCK,
        ("patch_embed.proj", "fc_norm"),
        ("head",),
    ),
    "timm DeiT, distilled": (
        lambda: vit("deit_tiny_distilled_patch16_224"),
        "blocks.{}.",
        TIMM_BLOCK,
        ("patch_embed.proj", "norm"),
        ("head", "head_dist"),
    ),
    "timm DINOv2, SwiGLU": (
        lambda: vit("vit_giant_patch14_dinov2", img_size=28, mlp_ratio=4),
        "blocks.{}.",
        TIMM_BLOCK,
        ("patch_embed.proj", "norm"),
        ("head",),
    ),
    "timm Swin": (
        swin,
        "layers.{0[0]}.blocks.{0[1]}.",
        TIMM_BLOCK,
        ("layers.1.downsample.reduction", "norm"),
        ("head.fc",),
    ),
    "TimmWrapper": (
        lambda: wrapper("vit_tiny_patch16_224", **TIMM),
        "timm_model.blocks.{}.",
        TIMM_BLOCK,
        ("timm_model.patch_embed.proj", "timm_model.norm"),
        ("timm_model.head",),
    ),
    "transformers ViT, no classifier": (
        lambda: ViTModel(ViTConfig(intermediate_size=32, **HF), add_pooling_layer=False),
        "layers.{}.",
        (*VIT_NORMS, *HF_BLOCK),
        ("embeddings.patch_embeddings.projection", "layernorm"),
        (),
    ),
    "transformers DeiT, distilled": (
        lambda: DeiTForImageClassificationWithTeacher(DeiTConfig(intermediate_size=32, **HF)),
        "deit.layers.{}.",
        (*VIT_NORMS, *HF_BLOCK),
        ("deit.embeddings.patch_embeddings.projection", "deit.layernorm"),
        ("cls_classifier", "distillation_classifier"),
    ),
    "transformers DINOv2": (
        lambda: Dinov2ForImageClassification(Dinov2Config(mlp_ratio=2, **HF)),
        "dinov2.encoder.layer.{}.",
        (*DINO_NORMS, *HF_BLOCK),
        ("dinov2.embeddings.patch_embeddings.projection", "dinov2.layernorm"),
        ("classifier",),
    ),
    "transformers DINOv2 with registers": (
        lambda: Dinov2WithRegistersForImageClassification(Dinov2WithRegistersConfig(mlp_ratio=2, **HF)),
        "dinov2_with_registers.encoder.layer.{}.",
        (*DINO_NORMS, *HF_BLOCK),
        ("dinov2_with_registers.embeddings.patch_embeddings.projection", "dinov2_with_registers.layernorm"),
        ("classifier",),
    ),
}


@pytest.mark.parametrize("name", FAMILIES)
def test_the_default_is_every_linear_and_norm_of_the_blocks_and_the_ends(name):
    build, path, in_block, outside, heads = FAMILIES[name]
    with torch.device("meta"):
        model = build()
    indices = [(0, 0), (0, 1), (1, 0), (1, 1)] if name == "timm Swin" else [0, 1]
    expected = {path.format(index) + part for index in indices for part in in_block} | set(outside)
    assert set(default_targets(model)) == expected
    assert set(classifier_names(model)) == set(heads)
    assert block_names(model) == [path.format(index).removesuffix(".") for index in indices]
    modules = dict(model.named_modules())
    assert all(isinstance(modules[target], (nn.Linear, nn.LayerNorm, nn.Conv2d)) for target in expected)
    assert set(block_linears(model)) == {target for target in expected if isinstance(modules[target], nn.Linear)}


def test_the_blocks_of_a_resnet_are_counted_through_its_stages():
    names = block_names(timm.create_model("resnet18"))
    assert names == [f"layer{stage}.{index}" for stage in (1, 2, 3, 4) for index in (0, 1)]


@pytest.mark.parametrize(
    ("name", "blocks"),
    [
        ("beit_base_patch16_224", [f"blocks.{i}" for i in range(12)]),
        ("convnext_atto", [f"stages.{i}.blocks.{j}" for i, depth in enumerate((2, 2, 6, 2)) for j in range(depth)]),
    ],
)
def test_a_model_of_timm_without_regexes_has_the_blocks_that_timm_groups(name, blocks):
    with torch.device("meta"):
        model = timm.create_model(name)
    assert block_names(model) == module_names(model, "block") == blocks


def test_a_model_of_no_library_has_the_blocks_that_its_lists_hold():
    blocks = [nn.Sequential(nn.Linear(2, 2)) for _ in range(3)]
    assert block_names(nn.Sequential(*blocks)) == ["0", "1", "2"]
    assert block_names(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))) == []


class Wrapped(nn.Module):
    """As a tuner's layer: what it adapts is its `base_layer`, beside which it has modules of its own."""

    def __init__(self, base_layer):
        super().__init__()
        self.base_layer, self.branch = base_layer, nn.Linear(2, 2)


@pytest.mark.parametrize("inside", ["plain", "TimmWrapper"])
def test_parts_are_found_in_a_model_whose_blocks_and_modules_are_wrapped(inside):
    model = vit() if inside == "plain" else wrapper("vit_tiny_patch16_224", **TIMM)
    path = "" if inside == "plain" else "timm_model."
    blocks = (model if inside == "plain" else model.timm_model).blocks
    blocks[0].attn.qkv = Wrapped(blocks[0].attn.qkv)
    blocks[0] = Wrapped(blocks[0])
    assert family_of(model) is not None
    assert block_names(model) == module_names(model, "block") == [f"{path}blocks.0", f"{path}blocks.1"]
    assert module_names(model, "mlp_norm") == [f"{path}blocks.0.base_layer.norm2", f"{path}blocks.1.norm2"]
    assert module_names(model, "attn.qkv") == [f"{path}blocks.0.base_layer.attn.qkv", f"{path}blocks.1.attn.qkv"]
    assert module_names(model, "mlp_norm", [1]) == [f"{path}blocks.1.norm2"]


ANATOMY = {
    "timm ViT": {
        "attn.qkv": ["blocks.0.attn.qkv"],
        "attn.proj": ["blocks.0.attn.proj"],
        "attn.module": ["blocks.0.attn"],
        "attn_norm": ["blocks.0.norm1"],
        "mlp.fc1": ["blocks.0.mlp.fc1"],
        "mlp.fc2": ["blocks.0.mlp.fc2"],
        "mlp.module": ["blocks.0.mlp"],
        "mlp_norm": ["blocks.0.norm2"],
        "final_norm": ["norm"],
        "head": ["head"],
        "downsample": [],
    },
    "timm Swin": {
        "attn.module": ["layers.0.blocks.0.attn", "layers.1.blocks.0.attn"],
        "mlp_norm": ["layers.0.blocks.0.norm2", "layers.1.blocks.0.norm2"],
        "patch_embed": ["patch_embed.proj"],
        "head": ["head.fc"],
    },
    "transformers DeiT, distilled": {
        "attn.qkv": [f"deit.layers.0.attention.{letter}_proj" for letter in "qkv"],
        "attn.proj": ["deit.layers.0.attention.o_proj"],
        "mlp_norm": ["deit.layers.0.layernorm_after"],
        "mlp.fc2": ["deit.layers.0.mlp.fc2"],
        "head": ["cls_classifier", "distillation_classifier"],
    },
    "transformers DINOv2": {
        "block": ["dinov2.encoder.layer.0"],
        "mlp_norm": ["dinov2.encoder.layer.0.norm2"],
        "final_norm": ["dinov2.layernorm"],
    },
}


@pytest.mark.parametrize(("family", "part"), [(family, part) for family, parts in ANATOMY.items() for part in parts])
def test_modules_are_found_by_their_part(family, part):
    with torch.device("meta"):
        model = FAMILIES[family][0]()
    assert module_names(model, part, [0]) == ANATOMY[family][part]


@pytest.mark.parametrize(
    ("name", "first", "count", "depth"),
    [
        ("swinv2_tiny_window8_256", "layers.0.blocks.0", 12, 6),
        ("crossvit_tiny_240", "blocks.0", 3, 3),  # a list of patch embeddings comes first
        ("efficientnet_b0", "blocks.0.0", 16, 4),
        ("dla34", "level2.tree1", 8, 2),  # the stem of this model is called base_layer, as what a tuner wraps
        ("cait_xxs24_224", "blocks.0", 26, 24),  # groups its layers by a function
        ("caformer_s18", "stages.0.blocks.0", 18, 9),  # does not group its layers
    ],
)
def test_the_blocks_of_other_families_of_timm_are_found_and_counted(name, first, count, depth):
    with torch.device("meta"):
        model = timm.create_model(name)
    blocks = block_names(model)
    assert (blocks[0], len(blocks), stage_depth(model)) == (first, count, depth)
    chosen = module_names(model, "block", [1])
    assert chosen == [block for block in blocks if re.fullmatch(r".*\D1", block)]


def test_a_model_of_another_library_is_told_by_its_modules_and_not_by_its_class_alone():
    with torch.device("meta"):
        vit_b, resnet = torchvision.models.vit_b_16(), torchvision.models.resnet18()
    assert family_of(vit_b) is None
    assert block_names(vit_b) == [f"encoder.layers.encoder_layer_{index}" for index in range(12)]
    assert family_of(resnet) is family_of(timm.create_model("resnet18"))
    assert classifier_names(resnet) == ["fc"]


def test_a_subclass_is_of_the_family_of_its_parent():
    class Mine(SwinTransformer):
        pass

    model = Mine(img_size=32, patch_size=4, window_size=4, embed_dim=16, depths=(2, 2), num_heads=(2, 2), num_classes=5)
    assert family_of(model) is family_of(swin())


TARGETS = {
    "timm ViT": r"(?:(?:timm_model)\.)?(?:blocks\.\d+\.attn\.(?:qkv|proj)|blocks\.\d+\.mlp\.fc\w+|blocks\.\d+\.norm[12]"
    r"|norm|patch_embed\.proj)",
    "timm Swin": r"(?:(?:timm_model)\.)?(?:layers\.\d+\.blocks\.\d+\.attn\.(?:qkv|proj)"
    r"|layers\.\d+\.blocks\.\d+\.mlp\.fc[12]|layers\.\d+\.blocks\.\d+\.norm[12]|norm|layers\.\d+\.downsample\.reduction)",
    "transformers DINOv2": r"(?:(?:vit|deit|dinov2|dinov2_with_registers)\.)?"
    r"(?:(?:encoder\.)?layers?\.\d+\.attention\.[qkvo]_proj|(?:encoder\.)?layers?\.\d+\.mlp\.(?:fc[12]|\w+_proj)"
    r"|(?:encoder\.)?layers?\.\d+\.(?:layernorm_before|layernorm_after|norm[12])|layernorm"
    r"|embeddings\.patch_embeddings\.projection)",
    "ResNet-50-D": r"(?:(?:timm_model)\.)?(?:layer\d+\.\d+\.conv[123]|layer\d+\.\d+\.downsample\.1|conv1\.[036])",
}


@pytest.mark.parametrize("name", TARGETS)
def test_the_regex_is_that_of_adapters_saved_before_so_that_they_combine_with_new_ones(name):
    with torch.device("meta"):
        model = timm.create_model("resnet50d") if name == "ResNet-50-D" else FAMILIES[name][0]()
    assert family_of(model).target_modules(model) == TARGETS[name]


def test_a_part_of_the_anatomy_can_be_chosen_beside_those_of_the_default():
    model = swin()
    regex = family_of(model).target_modules(model, [1], ["mlp.module", "patch_embed"])
    names = [name for name, _ in model.named_modules() if re.fullmatch(regex, name)]
    assert names == ["patch_embed.proj", "layers.0.blocks.1.mlp", "layers.1.blocks.1.mlp"]


@pytest.mark.parametrize(
    ("build", "size", "count"),
    [
        (vit, (16, 16), 4),
        (swin, (4, 4), 64),
        (FAMILIES["TimmWrapper"][0], (16, 16), 4),
        (FAMILIES["transformers DINOv2"][0], (16, 16), 4),
        (lambda: timm.create_model("resnet18"), None, None),
    ],
)
def test_patches_are_measured_and_counted(build, size, count):
    model = build()
    assert (patch_size(model), patch_count(model, 32, 32)) == (size, count)
    if isinstance(getattr(model, "patch_embed", None), nn.Module):
        model.patch_embed = Wrapped(model.patch_embed)
        assert patch_size(model) == size


@pytest.mark.parametrize(
    ("name", "block", "kind"),
    [
        ("blocks.11.attn.proj", "blocks.11", "proj"),
        ("layers.1.blocks.0.mlp.fc1", "layers.1.blocks.0", "fc1"),
        ("layers.1.downsample.reduction", None, "reduction"),
        ("swin.encoder.layers.1.blocks.0.attention.self.query", "swin.encoder.layers.1.blocks.0", "q"),
        ("dinov2.encoder.layer.2.attention.o_proj", "dinov2.encoder.layer.2", "proj"),
        ("layer4.0.downsample.0", "layer4.0", "downsample"),
        ("conv1", None, "stem"),
        ("layer1.0.conv1", "layer1.0", "conv1"),
        ("patch_embed.proj", None, "patch_embed"),
    ],
)
def test_a_name_alone_tells_block_and_kind(name, block, kind):
    assert (block_name(name), module_kind(name)) == (block, kind)


def test_a_name_alone_tells_stacked_projections_and_tables():
    assert stacked_projections("layers.0.blocks.1.attn.qkv") == ("q", "k", "v")
    assert stacked_projections("stages.0.blocks.1.attn.qkv") == stacked_projections("blocks.1.attn.proj") == ()
    assert is_position_table("embeddings.position_embeddings.weight")
    assert is_resized("layers.0.blocks.0.attn.relative_position_index")
    assert not is_position_table("blocks.0.attn.proj.weight")
    assert not is_resized("blocks.0.attn.proj.weight")


def test_a_part_that_nobody_knows_is_refused_with_the_nearest():
    with pytest.raises(RLRRError, match=r"mlp_norm"):
        module_names(vit(), "mlp_nrom")


@pytest.mark.parametrize(
    ("build", "tokens"),
    [
        (vit, 1),
        (lambda: vit("deit_tiny_distilled_patch16_224"), 2),
        (lambda: vit(global_pool="avg", class_token=False), 0),
        (lambda: vit("vit_small_patch14_reg4_dinov2", img_size=28), 5),
        (FAMILIES["transformers DeiT, distilled"][0], 2),
        (FAMILIES["transformers DINOv2 with registers"][0], 5),
    ],
)
def test_tokens_before_the_patches_are_counted(build, tokens):
    with torch.device("meta"):
        assert prefix_tokens(build()) == tokens


def test_a_model_without_classes_has_no_classifier():
    assert classifier_names(vit(num_classes=0)) == []


def test_q_k_and_v_have_vectors_of_their_own_in_a_vit_and_share_one_in_swin():
    assert family_of(vit()).fused_blocks == {"qkv": 3}
    assert family_of(swin()).fused_blocks == {}


def test_layers_choose_blocks_and_keep_what_is_outside():
    model = vit(depth=12)
    regex = family_of(model).target_modules(model, [1])
    hit = {name for name, _ in model.named_modules() if re.fullmatch(regex, name)}
    assert hit == {f"blocks.1.{part}" for part in TIMM_BLOCK} | {"patch_embed.proj", "norm"}  # and not blocks.11


@pytest.mark.parametrize("layers", [[2], [0, -1]])
def test_a_block_that_the_model_has_not_is_refused(layers):
    model = vit()
    with pytest.raises(RLRRError, match=f"names block {layers[-1]}: this VisionTransformer"):
        family_of(model).target_modules(model, layers)


PARTS = {
    "ViT": (
        vit,
        {
            "attn": {"blocks.{}.attn.qkv", "blocks.{}.attn.proj"},
            "mlp": {"blocks.{}.mlp.fc1", "blocks.{}.mlp.fc2"},
            "norm": {"blocks.{}.norm1", "blocks.{}.norm2", "norm"},
            "patch_embed": {"patch_embed.proj"},
        },
    ),
    "Swin": (
        swin,
        {
            "attn": {"layers.0.blocks.{}.attn.qkv", "layers.1.blocks.{}.attn.proj"},
            "norm": {"layers.0.blocks.{}.norm1", "norm"},
            "downsample": {"layers.1.downsample.reduction"},
        },
    ),
    "transformers ViT": (
        lambda: ViTModel(ViTConfig(intermediate_size=32, **HF)),
        {
            "attn": {"layers.{}.attention.q_proj", "layers.{}.attention.o_proj"},
            "mlp": {"layers.{}.mlp.fc1"},
            "norm": {"layers.{}.layernorm_before", "layernorm"},
            "patch_embed": {"embeddings.patch_embeddings.projection"},
        },
    ),
    "ResNet-18": (
        lambda: timm.create_model("resnet18"),
        {
            "conv": {"layer1.{}.conv1", "layer4.{}.conv2"},
            "downsample": {"layer2.0.downsample.0"},
            "stem": {"conv1"},
        },
    ),
    "ResNet-50-D": (
        lambda: timm.create_model("resnet50d"),
        {
            "conv": {"layer1.{}.conv3"},
            "downsample": {"layer1.0.downsample.1", "layer2.0.downsample.1"},
            "stem": {"conv1.0", "conv1.3", "conv1.6"},
        },
    ),
}


@pytest.mark.parametrize(("family", "part"), [(family, part) for family, (_, parts) in PARTS.items() for part in parts])
def test_a_part_is_what_its_name_says_and_the_parts_are_the_whole(family, part):
    build, parts = PARTS[family]
    with torch.device("meta"):
        model = build()

    def hit(names=None):
        regex = family_of(model).target_modules(model, parts=names)
        return {name for name, _ in model.named_modules() if re.fullmatch(regex, name)}

    assert {path.format(index) for path in parts[part] for index in (0, 1)} <= hit([part])
    everything = [hit([name]) for name in family_of(model).adapted if name in parts or name == "mlp"]
    assert sum(map(len, everything)) == len(hit())
    assert set().union(*everything) == hit() == set(default_targets(model))


def test_the_default_of_a_resnet_is_every_convolution():
    for name in ("resnet18", "resnet50", "resnet50d", "resnext50_32x4d", "resnet50_gn"):
        with torch.device("meta"):
            model = timm.create_model(name, num_classes=5)
        convolutions = {name for name, module in model.named_modules() if isinstance(module, nn.Conv2d)}
        assert set(default_targets(model)) == set(block_linears(model)) == convolutions
        assert classifier_names(model) == ["fc"]


@pytest.mark.parametrize(
    ("build", "part", "sentence"),
    [
        (
            vit,
            "downsample",
            "which this VisionTransformer does not have: it has attn, mlp, norm, ",
        ),
        (swin, "conv", "which this SwinTransformer does not have: it has attn, mlp, norm, downsample"),
        (vit, "norms", "Did you mean norm"),
    ],
)
def test_a_part_that_the_model_has_not_is_refused_with_those_there_are(build, part, sentence):
    model = build()
    with pytest.raises(RLRRError, match=re.escape(sentence)):
        family_of(model).target_modules(model, parts=["attn", part])


def test_parts_and_layers_choose_together():
    model = vit(depth=12)
    regex = family_of(model).target_modules(model, [1, 3], ["attn", "patch_embed"])
    hit = {name for name, _ in model.named_modules() if re.fullmatch(regex, name)}
    assert hit == {f"blocks.{i}.attn.{part}" for i in (1, 3) for part in ("qkv", "proj")} | {"patch_embed.proj"}


def test_an_unknown_family_has_no_default():
    model = nn.Sequential(nn.Linear(3, 2))
    assert family_of(model) is None
    assert default_targets(model) == []
    assert block_linears(model) == "all-linear"
    assert classifier_names(model) == []


@pytest.mark.parametrize(
    "name",
    [
        "vit_small_patch16_dinov3",
        "eva02_base_patch14_224",
        "beit_base_patch16_224",
        "vit_base_patch16_siglip_224",
        "vit_small_patch14_reg4_dinov2",
    ],
)
def test_every_block_of_a_vit_has_all_parts_that_methods_adapt(name):
    with torch.device("meta"):
        model = timm.create_model(name, depth=2) if "beit" in name else timm.create_model(name)
    blocks = module_names(model, "block")
    for part in ("attn.module", "attn.qkv", "attn.proj", "attn_norm", "mlp.module", "mlp.fc1", "mlp.fc2", "mlp_norm"):
        names = module_names(model, part)
        assert all(any(found.startswith(f"{block}.") for found in names) for block in blocks), part


@pytest.mark.parametrize(
    ("config", "model"),
    [
        ("DINOv3ViTConfig", "DINOv3ViTModel"),
        ("SiglipVisionConfig", "SiglipVisionModel"),
        ("CLIPVisionConfig", "CLIPVisionModel"),
        ("Dinov2Config", "Dinov2Model"),
    ],
)
def test_every_block_of_transformers_vits_has_them_too(config, model):
    sizes = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 32}
    found = getattr(transformers, model)(getattr(transformers, config)(**sizes, intermediate_size=48))
    blocks = module_names(found, "block")
    assert len(blocks) == 2
    for part in ("attn.module", "attn.qkv", "attn.proj", "attn_norm", "mlp.module", "mlp.fc1", "mlp.fc2", "mlp_norm"):
        names = module_names(found, part)
        assert all(any(name.startswith(f"{block}.") for name in names) for block in blocks), part
