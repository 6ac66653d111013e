"""Where each matrix is in a model, told by the names that timm and transformers give its tensors."""

from __future__ import annotations

import pytest
import timm
import torch

from rlrr.spectral.matrices import MatrixInfo, matrices, matrix_infos
from rlrr.tuners.rlrr.functional import kernel_matrix


@pytest.mark.parametrize(
    ("name", "layer", "kind"),
    [
        ("blocks.0.attn.proj", 0, "proj"),
        ("blocks.0.mlp.fc1", 0, "fc1"),
        ("blocks.0.attn.q_proj", 0, "q"),
        ("blocks.0.mlp.fc1_g", 0, "fc1_g"),
        ("timm_model.blocks.0.mlp.fc2", 0, "fc2"),
        ("patch_embed.proj", None, "patch_embed"),
        ("vit.layers.0.attention.k_proj", 0, "k"),
        ("vit.layers.0.attention.o_proj", 0, "proj"),
        ("vit.encoder.layer.0.attention.attention.value", 0, "v"),
        ("vit.encoder.layer.0.attention.output.dense", 0, "proj"),
        ("vit.encoder.layer.0.intermediate.dense", 0, "fc1"),
        ("vit.encoder.layer.0.output.dense", 0, "fc2"),
        ("vit.embeddings.patch_embeddings.projection", None, "patch_embed"),
        ("layers.1.downsample.reduction", None, "reduction"),
        ("swin.encoder.layers.0.downsample.reduction", None, "reduction"),
        ("layer2.0.conv2", 0, "conv2"),
        ("layer2.0.downsample.0", 0, "downsample"),
        ("conv1", None, "stem"),
        ("conv1.3", None, "stem"),
        ("stages.1.blocks.0.conv_dw", 0, "conv_dw"),
        ("0", None, "0"),
    ],
)
def test_a_name_tells_block_and_kind(name, layer, kind):
    assert matrix_infos([f"{name}.weight"]) == (MatrixInfo(name, layer, kind, f"{name}.weight"),)


def test_blocks_are_counted_through_the_stages():
    names = [f"layers.{stage}.blocks.{block}.mlp.fc1.weight" for stage in (0, 1) for block in (0, 1)]
    assert [info.layer for info in matrix_infos(names)] == [0, 1, 2, 3]


@pytest.mark.parametrize("module", ["blocks.2.attn.qkv", "layers.1.blocks.0.attn.qkv", "timm_model.blocks.2.attn.qkv"])
def test_a_fused_projection_is_three_matrices(module):
    weight = torch.arange(24.0).view(6, 4)
    infos = matrix_infos([f"{module}.weight"])
    assert [(info.name, info.kind) for info in infos] == [(f"{module}.{letter}", letter) for letter in "qkv"]
    assert torch.equal(torch.cat([info.take({f"{module}.weight": weight}) for info in infos]), weight)


def test_a_projection_that_is_stacked_head_by_head_stays_whole():
    assert [info.kind for info in matrix_infos(["stages.2.blocks.0.attn.qkv.weight"])] == ["qkv"]


@pytest.mark.parametrize(
    ("architecture", "sizes", "blocks", "kinds"),
    [
        ("vit_tiny_patch16_224", {"depth": 2}, 2, {"q", "k", "v", "proj", "fc1", "fc2", "patch_embed"}),
        ("beit_base_patch16_224", {"depth": 2}, 2, {"q", "k", "v", "proj", "fc1", "fc2", "patch_embed"}),
        ("eva02_tiny_patch14_224", {"depth": 2}, 2, {"q", "k", "v", "proj", "fc1", "fc2", "patch_embed"}),
        (
            "swin_tiny_patch4_window7_224",
            {"depths": (1, 2), "num_heads": (1, 2)},
            3,
            {"q", "k", "v", "proj", "fc1", "fc2", "patch_embed", "reduction"},
        ),
        ("resnet18", {}, 8, {"stem", "conv1", "conv2", "downsample"}),
    ],
)
def test_all_matrices_of_a_timm_model_have_a_place(architecture, sizes, blocks, kinds):
    with torch.device("meta"):
        model = timm.create_model(architecture, num_classes=3, **sizes)
    infos = matrix_infos(matrices(model.state_dict()))
    assert {info.kind for info in infos} == kinds
    assert {info.layer for info in infos} - {None} == set(range(blocks))
    linear = {name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear | torch.nn.Conv2d)}
    heads = {name for name in linear if name.startswith(("head", "fc"))}
    assert heads
    assert {info.tensor.removesuffix(".weight") for info in infos} == linear - heads


def test_classifiers_positions_and_vectors_are_no_matrices():
    shapes = {
        "head.weight": (3, 4),
        "head.fc.weight": (3, 4),
        "classifier.weight": (3, 4),
        "my_head.weight": (3, 4),
        "embeddings.position_embedding.weight": (9, 4),
        "pos_embed": (1, 9, 4),
        "cls_token": (1, 1, 4),
        "norm.weight": (4,),
        "fc_norm.weight": (4,),
        "blocks.0.mlp.fc1.weight": (8, 4),
        "blocks.0.mlp.fc1.bias": (8,),
    }
    tensors = {name: torch.zeros(shape) for name, shape in shapes.items()}
    assert list(matrices(tensors, ["my_head"])) == ["blocks.0.mlp.fc1.weight"]


def test_a_convolution_is_the_matrix_of_the_supplement():
    kernel = torch.randn(5, 3, 2, 4, dtype=torch.bfloat16)
    (info,) = matrix_infos(["patch_embed.proj.weight"])
    matrix = info.take({"patch_embed.proj.weight": kernel})
    assert (matrix.shape, matrix.dtype) == ((10, 12), torch.float32)
    assert torch.equal(matrix, kernel_matrix(kernel.float()))
