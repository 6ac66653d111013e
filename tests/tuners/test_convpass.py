"""Convpass on grids of any shape, and refused where there is none."""

import math

import pytest
import timm
import torch
from peft import get_peft_model
from torch import nn

from rlrr.errors import RLRRError
from rlrr.tuners.convpass import ConvpassConfig
from rlrr.tuners.convpass.layer import ConvBottleneck, Grid

SMALL = {"img_size": 32, "patch_size": 8, "depth": 2, "embed_dim": 24, "num_heads": 2, "num_classes": 3}


def vit(**settings):
    torch.manual_seed(0)
    return timm.create_model("vit_tiny_patch16_224", **SMALL | settings)


def image(height, width):
    return torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(height))


@pytest.mark.parametrize("leading", [0, 1, 5])
@torch.no_grad()
def test_the_branch_is_a_convolution_over_the_grid_and_over_each_leading_token_alone(leading):
    torch.manual_seed(0)
    grid = Grid()
    grid.size = (3, 4)
    branch = ConvBottleneck(6, 6, leading, grid, ConvpassConfig(bottleneck=2, init_weights=False, scale=0.5))
    nn.init.normal_(branch.conv.weight)
    h = torch.randn(2, leading + 12, 6)
    found = branch.eval()(h)
    gelu = lambda x: x * torch.sigmoid(1.702 * x)  # noqa: E731
    down = gelu(branch.down(h))
    grids = [down[:, :leading].reshape(2 * leading, 1, 1, 2), down[:, leading:].reshape(2, 3, 4, 2)]
    outputs = [
        branch.conv(grid.permute(0, 3, 1, 2)).permute(0, 2, 3, 1).reshape(2, -1, 2) for grid in grids if len(grid)
    ]
    torch.testing.assert_close(found, 0.5 * branch.up(gelu(torch.cat(outputs, 1))))


@torch.no_grad()
def test_images_of_equally_many_patches_have_grids_of_their_own():
    model = get_peft_model(vit(dynamic_img_size=True), ConvpassConfig(init_weights=False, convolution="xavier")).eval()
    branch = model.base_model.model.blocks[0].attn.convpass_branch["default"]
    for size, grid in (((16, 64), (2, 8)), ((64, 16), (8, 2)), ((32, 32), (4, 4)), ((24, 40), (3, 5))):
        model(image(*size))
        assert branch.grid.size == grid
    wide, high = model(image(16, 64)), model(image(64, 16))
    assert torch.equal(model(image(16, 64)), wide)
    assert torch.equal(model(image(64, 16)), high)


@torch.no_grad()
def test_unloading_leaves_no_hook():
    model = vit()
    adapted = get_peft_model(model, ConvpassConfig())
    assert model.patch_embed.proj._forward_hooks
    assert not adapted.unload().patch_embed.proj._forward_hooks


def test_it_starts_as_the_code_does():
    torch.manual_seed(0)
    model = get_peft_model(timm.create_model("vit_tiny_patch16_224", depth=1), ConvpassConfig(bottleneck=64))
    branch = model.base_model.model.blocks[0].mlp.convpass_branch["default"]
    bound = math.sqrt(6 / (192 + 64))
    assert 0.98 * bound < branch.down.weight.abs().max() <= bound
    assert branch.down.weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.03)
    identity = torch.zeros(64, 64, 3, 3)
    identity[torch.arange(64), torch.arange(64), 1, 1] = 1
    assert torch.equal(branch.conv.weight, identity)
    assert not any(t.any() for t in (branch.up.weight, branch.up.bias, branch.down.bias, branch.conv.bias))
    other = get_peft_model(vit(), ConvpassConfig(bottleneck=64, convolution="xavier"))
    kernel = other.base_model.model.blocks[0].mlp.convpass_branch["default"].conv.weight
    assert kernel.std().item() == pytest.approx(math.sqrt(2 / (2 * 64 * 9)), rel=0.03)


@pytest.mark.parametrize("name", ["swin_tiny_patch4_window7_224", "resnet18", "cait_xxs24_224"])
def test_a_model_without_the_grid_of_patches_is_refused_by_name(name):
    with torch.device("meta"):
        model = timm.create_model(name)
    with pytest.raises(RLRRError, match=type(model).__name__):
        get_peft_model(model, ConvpassConfig())


def test_tokens_that_are_no_grid_are_refused():
    model = get_peft_model(vit(patch_drop_rate=0.5, dynamic_img_size=True), ConvpassConfig())
    model.eval()(image(16, 32))  # whose eight patches are as many as are left of the next image's
    with pytest.raises(RLRRError, match="patch dropout"):
        model.train()(image(32, 32))


@pytest.mark.parametrize("settings", [{"bottleneck": 0}, {"dropout": -1.0}, {"convolution": "ones"}])
def test_settings_that_make_no_sense_are_refused_by_name(settings):
    with pytest.raises(RLRRError, match=next(iter(settings))):
        ConvpassConfig(**settings)
