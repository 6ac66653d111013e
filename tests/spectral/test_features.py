"""Changes of features: known answers on models made for them, and the families of real ones."""

import math

import pytest
import timm
import torch
from peft import get_peft_model
from timm.models.swin_transformer import SwinTransformer
from torch import nn
from transformers import ViTConfig, ViTForImageClassification

from rlrr.backbones.families import block_names
from rlrr.errors import RLRRError
from rlrr.spectral.features import _features, cka, feature_changes
from rlrr.tuners import RLRRConfig

ANGLE = math.radians(30)


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class Block(nn.Module):
    """One linear map."""

    def __init__(self, matrix):
        super().__init__()
        self.linear = nn.Linear(*matrix.shape[::-1], bias=False)
        self.linear.weight.data = matrix

    def forward(self, x):
        return self.linear(x)


def blocks(*matrices) -> nn.Module:
    """A model of one token of three features: the three colours of an image of one pixel."""
    return nn.Sequential(nn.Unflatten(1, (1, 3)), nn.Flatten(2), nn.Sequential(*map(Block, matrices)))


def turn(angle):
    """In the plane of the second and third feature."""
    matrix = torch.eye(3, dtype=torch.float64)
    matrix[1:, 1:] = torch.tensor([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    return matrix


@pytest.fixture
def pixels():
    """Images of one pixel whose first two colours vary, the first one more."""
    images = random(20, 3, 1, 1)
    images[:, 0] *= 3
    images[:, 2] = 0
    return images


def test_a_turn_of_the_features_is_a_change_of_directions_and_not_of_similarities(pixels):
    same, turned = torch.eye(3, dtype=torch.float64), turn(ANGLE)
    first, second = feature_changes(blocks(same, same), blocks(same, turned), pixels, directions=2)
    assert (first.layer, first.name, first.cka) == (0, "2.0", pytest.approx(1))
    assert first.subspace_angle == pytest.approx(0, abs=1e-5)
    assert first.relative_change == 0
    assert (second.layer, second.name, second.cka) == (1, "2.1", pytest.approx(1))
    assert second.subspace_angle == pytest.approx(30 / 2, abs=0.01)  # one of the two directions stays
    features = pixels.flatten(1)
    moved = (features @ turned.T - features).norm() / features.norm()
    assert second.relative_change == pytest.approx(moved.item(), rel=1e-5)


def test_directions_in_which_nothing_varies_are_not_compared(pixels):
    same = torch.eye(3, dtype=torch.float64)
    change = feature_changes(blocks(same, same), blocks(same, same), pixels, directions=16)[0]
    assert change.subspace_angle == pytest.approx(0, abs=1e-5)


def test_features_that_are_the_same_for_all_images_have_no_similarity(pixels):
    zero, same = torch.zeros(3, 3, dtype=torch.float64), torch.eye(3, dtype=torch.float64)
    for before, after in ((zero, same), (same, zero)):
        change = feature_changes(blocks(before, same), blocks(after, same), pixels)[0]
        assert change.cka is None
        assert change.subspace_angle is None
    assert feature_changes(blocks(same, same), blocks(same, same), pixels[:1].expand(8, 3, 1, 1))[0].cka is None


def test_features_of_another_width_have_a_similarity_alone(pixels):
    same, wide = torch.eye(3, dtype=torch.float64), random(5, 3)
    change = feature_changes(blocks(same, same), blocks(same, wide), pixels)[1]
    assert 0 < change.cka < 1
    assert change.subspace_angle is change.relative_change is None


def hsic(one, other):
    """The unbiased estimate written out, Eq. 3 of Nguyen et al., but for its factor."""
    n = len(one)
    k, l = ((features @ features.T).fill_diagonal_(0) for features in (one, other))  # noqa: E741
    means = k.sum() * l.sum() / ((n - 1) * (n - 2))
    return torch.trace(k @ l) + means - 2 / (n - 2) * (k @ l).sum()


def test_cka_is_the_ratio_of_unbiased_estimates():
    one, other = random(7, 5), random(7, 3, seed=1) + random(7, 5)[:, :3]
    expected = hsic(one, other) / (hsic(one, one) * hsic(other, other)).sqrt()
    assert cka(one, other) == pytest.approx(expected.item(), rel=1e-9)


def test_cka_is_blind_to_turns_one_scale_and_shifts():
    features = random(12, 6)
    turned = features @ torch.linalg.qr(random(6, 6, seed=1)).Q * 5 + random(6, seed=2)
    assert cka(features, turned) == pytest.approx(1)
    stretched = features * torch.arange(1, 7)
    assert cka(features, stretched) == pytest.approx(cka(turned, stretched))
    assert cka(features, stretched) < 0.99


def test_features_that_have_nothing_in_common_are_not_alike_also_on_few_images():
    one, other = random(32, 700), random(32, 700, seed=1)
    grams = [centred @ centred.T for centred in (features - features.mean(0) for features in (one, other))]
    plain = (grams[0] * grams[1]).sum() / (grams[0].norm() * grams[1].norm())
    assert plain > 0.9
    assert abs(cka(one, other)) < 0.1


HF = {"image_size": 32, "patch_size": 8, "hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2}


def vit(**changes):
    sizes = {"img_size": 32, "patch_size": 8, "depth": 3, "embed_dim": 16, "num_heads": 2, "num_classes": 3}
    return timm.create_model("vit_tiny_patch16_224", **sizes | changes)


def swin():
    return SwinTransformer(
        img_size=32, patch_size=4, window_size=4, embed_dim=16, depths=(1, 2), num_heads=(2, 2), num_classes=3
    )


def transformers_vit():
    return ViTForImageClassification(ViTConfig(intermediate_size=32, **HF))


@pytest.fixture
def images():
    return random(40, 3, 32, 32).float()


@pytest.mark.parametrize(
    ("build", "names"),
    [
        (vit, [f"blocks.{index}" for index in range(3)]),
        (lambda: vit(class_token=False, global_pool="avg"), [f"blocks.{index}" for index in range(3)]),
        (lambda: vit(reg_tokens=4), [f"blocks.{index}" for index in range(3)]),
        (transformers_vit, [f"vit.layers.{index}" for index in range(3)]),
        (swin, ["layers.0.blocks.0", "layers.1.blocks.0", "layers.1.blocks.1"]),
        (lambda: timm.create_model("test_resnet", num_classes=3), None),
    ],
    ids=["ViT", "ViT, averaged", "ViT, registers", "transformers ViT", "Swin", "ResNet"],
)
def test_every_family_is_compared_block_by_block(build, names, images):
    torch.manual_seed(0)
    before, after = build(), build()
    after.load_state_dict(before.state_dict())
    last = names[-1] if names else "layer4.0"
    with torch.no_grad():
        for parameter in after.get_submodule(last).parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    changes = feature_changes(before, after, images, directions=4)
    assert [change.layer for change in changes] == list(range(len(changes)))
    assert names is None or [change.name for change in changes] == names
    *untouched, changed = changes
    assert changed.name == last
    for change in untouched:
        assert change.cka == pytest.approx(1)
        assert change.relative_change == 0
    assert changed.cka < 0.999
    assert 1 < changed.subspace_angle <= 90
    assert changed.relative_change > 0.01


@pytest.mark.parametrize("registers", [0, 4])
def test_the_features_of_a_vit_are_its_class_token_beside_the_mean_of_its_patches(registers, images):
    torch.manual_seed(0)
    before, after = vit(reg_tokens=registers), vit(reg_tokens=registers)
    change = feature_changes(before, after, images)[-1]
    outputs = []
    for model in (before, after):
        model.blocks.register_forward_hook(lambda module, inputs, output: outputs.append(output))
        with torch.inference_mode():
            model.eval()(images)
    old, new = (torch.cat([tokens[:, 0], tokens[:, 1 + registers :].mean(1)], 1).double() for tokens in outputs)
    assert change.relative_change == pytest.approx(((new - old).norm() / old.norm()).item(), rel=1e-5)
    assert change.cka == pytest.approx(cka(old, new), abs=1e-5)


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("vit_tiny_patch16_224", {"patch_size": 8}),
        ("deit_tiny_distilled_patch16_224", {"patch_size": 8}),
        ("vit_small_patch14_reg4_dinov2", {"patch_size": 8}),
        ("beit_base_patch16_224", {"patch_size": 8}),
        ("eva02_tiny_patch14_224", {"patch_size": 8}),
    ],
)
def test_features_are_those_that_timm_gives(name, changes, images):
    model = timm.create_model(name, img_size=32, depth=2, embed_dim=16, num_heads=2, **changes).eval()
    with torch.inference_mode():
        outputs = model.forward_intermediates(
            images, return_prefix_tokens=True, output_fmt="NLC", intermediates_only=True
        )
    features = _features(model, block_names(model), images)
    for ours, (patches, prefix) in zip(features, outputs, strict=True):
        torch.testing.assert_close(ours, torch.cat([prefix[:, 0], patches.mean(1)], dim=1))


def test_maps_are_averaged_over_their_pixels(images):
    torch.manual_seed(0)
    for build, block, dimensions in (
        (swin, "layers.1.blocks.1", (1, 2)),
        (lambda: timm.create_model("test_resnet", num_classes=3), "layer4.0", (2, 3)),
    ):
        before, after = build(), build()
        change = feature_changes(before, after, images)[-1]
        outputs = []
        for model in (before, after):
            model.get_submodule(block).register_forward_hook(lambda *args: outputs.append(args[2]))  # noqa: B023
            with torch.inference_mode():
                model.eval()(images)
        old, new = (output.mean(dimensions) for output in outputs)
        assert change.relative_change == pytest.approx(((new - old).norm() / old.norm()).item(), rel=1e-5)


def test_prompts_act_and_are_not_themselves_compared(images):
    torch.manual_seed(0)
    before, after = vit(), vit()
    after.load_state_dict(before.state_dict())
    prompts = torch.randn(1, 5, 16)

    def insert(block, inputs):
        (tokens,) = inputs
        return torch.cat([tokens[:, :1], prompts.expand(len(tokens), -1, -1), tokens[:, 1:]], dim=1)

    after.blocks[1].register_forward_pre_hook(insert)
    first, second, third = feature_changes(before, after, images)
    assert first.relative_change == 0
    assert second.relative_change > 0
    assert third.cka < 1


def test_an_adapter_at_the_pre_trained_function_changes_nothing_and_the_models_are_left_as_they_were(images):
    torch.manual_seed(0)
    before, plain = vit(), vit()
    plain.load_state_dict(before.state_dict())
    after = get_peft_model(plain, RLRRConfig(init_weights="identity")).train()
    for change in feature_changes(before, after, images):
        assert change.relative_change == pytest.approx(0, abs=1e-6)
    assert after.training
    assert after.base_model.training
    assert before.training
    for model in (before, after):
        assert not any(module._forward_hooks for module in model.modules())


def test_what_cannot_be_compared_is_said_in_a_sentence(images):
    model = vit()
    for before, after, some, message in (
        (model, model, images[:3], "compared on 4 images or more, not 3"),
        (model, vit(depth=2), images, "the models have 3 and 2"),
        (nn.Linear(3, 3), nn.Linear(3, 3), images, "the models have 0 and 0"),
    ):
        with pytest.raises(RLRRError, match=message):
            feature_changes(before, after, some)
    broken = vit()
    with torch.no_grad():
        broken.blocks[1].mlp.fc1.weight[0, 0] = torch.nan
    with pytest.raises(RLRRError, match=r"The features after blocks\.1 are not finite"):
        feature_changes(model, broken, images)
    assert not any(module._forward_hooks for module in broken.modules())
