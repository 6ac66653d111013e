"""Convolutions as matrices (supplement G), and the ResNets whose convolutions are all rescaled."""

import itertools

import pytest
import timm
import torch
from peft import PeftModel, get_peft_model
from timm.models.resnet import BasicBlock, Bottleneck, ResNet
from torch import nn
from torch.nn import functional as F

from rlrr import RLRRConfig
from rlrr.errors import RLRRError
from rlrr.tuners.rlrr import Convolution, RLRRLayer

CONVOLUTIONS = {
    "plain": (lambda: nn.Conv2d(3, 4, 3, stride=2, padding=1), 1),
    "not square, without bias": (lambda: nn.Conv2d(3, 4, (2, 5), bias=False), 1),
    "pointwise": (lambda: nn.Conv2d(3, 4, 1), 1),
    "in groups": (lambda: nn.Conv2d(6, 4, 3, groups=2), 2),
    "depthwise": (lambda: nn.Conv2d(4, 8, 3, groups=4, padding=1), 4),
}


def adapted(base, **settings):
    """A model of one convolution with a random adapter."""
    torch.manual_seed(0)
    config = RLRRConfig(target_modules=["0"], convolutions="rescale", init_weights=False, **settings)
    return get_peft_model(nn.Sequential(base), config).eval()


def by_formula(layer, residual, multiply):
    """The kernel of the adapter "default", element by element."""
    kernel = layer.base_layer.weight.detach()
    scale_out, scale_in = (
        vectors["default"].detach() if "default" in vectors else None
        for vectors in (layer.rlrr_scale_out, layer.rlrr_scale_in)
    )
    out, _, height, width = kernel.shape
    groups = layer.base_layer.groups
    changed = torch.empty_like(kernel)
    for o, i, a, b in itertools.product(*map(range, kernel.shape)):
        vectors_in = None if scale_in is None else scale_in if groups == 1 else scale_in[o // (out // groups)]
        rank = len(scale_out.T if vectors_in is None else vectors_in)
        scale = sum(
            (1 if scale_out is None else scale_out[o * height + a, k])
            * (1 if vectors_in is None else vectors_in[k, i * width + b])
            for k in range(rank)
        )
        weight = kernel[o, i, a, b]
        changed[o, i, a, b] = weight * residual + scale * (weight if multiply else 1)
    return changed


@pytest.mark.parametrize(
    "settings",
    [{}, {"rank": 3}, {"sides": "in"}, {"sides": "out"}, {"residual": False}, {"multiply_weight": False, "rank": 2}],
    ids=str,
)
@pytest.mark.parametrize("kind", CONVOLUTIONS)
def test_the_kernel_is_rescaled_as_a_matrix_of_its_rows_and_columns(kind, settings):
    build, groups = CONVOLUTIONS[kind]
    base = build().double()
    model = adapted(base, **settings)
    layer = model.base_model.model[0]
    assert isinstance(layer, Convolution)
    rank, (height, width) = settings.get("rank", 1), base.kernel_size
    if settings.get("sides") != "in":
        assert layer.rlrr_scale_out["default"].shape == (base.out_channels * height, rank)
    if settings.get("sides") != "out":
        columns = base.in_channels // groups * width
        assert layer.rlrr_scale_in["default"].shape == ((groups, rank, columns) if groups > 1 else (rank, columns))
    x = torch.randn(2, base.in_channels, 7, 7, dtype=torch.double)
    kernel = by_formula(layer, settings.get("residual", True), settings.get("multiply_weight", True))
    expected = base(x) + F.conv2d(x, kernel - base.weight, None, base.stride, base.padding, base.dilation, base.groups)
    expected = expected + layer.rlrr_shift["default"].view(-1, 1, 1)
    torch.testing.assert_close(model(x), expected)
    torch.testing.assert_close(model.merge_and_unload()(x), expected)


def test_gradients_of_a_kernel_equal_finite_differences():
    model = adapted(nn.Conv2d(4, 6, (2, 3), groups=2).double(), rank=2)
    x = torch.randn(2, 4, 5, 5, dtype=torch.double)
    names, vectors = zip(*((n, p) for n, p in model.named_parameters() if p.requires_grad), strict=True)

    def output(*values):
        return torch.func.functional_call(model, dict(zip(names, values, strict=True)), (x,))

    assert torch.autograd.gradcheck(output, vectors)


def test_stacked_blocks_and_groups_have_input_vectors_of_their_own():
    layer = adapted(nn.Conv2d(4, 12, 3, groups=2), fused_blocks={"0": 3}).base_model.model[0]
    assert layer.rlrr_scale_in["default"].shape == (6, 1, 6)
    with pytest.raises(RLRRError, match="fused_blocks=5 does not divide the 12 outputs"):
        adapted(nn.Conv2d(4, 12, 3), fused_blocks={"0": 5})


def test_adapters_that_scale_and_that_rescale_do_not_share_a_layer():
    model = adapted(nn.Conv2d(3, 4, 3))
    with pytest.raises(RLRRError, match="adapts 0 in another form"):
        model.add_adapter("other", RLRRConfig(target_modules=["0"], convolutions="scale"))


# ResNets

RESNETS = {
    "ResNet-18": {"block": BasicBlock, "layers": (1, 1, 1, 1)},
    "ResNet-50": {"block": Bottleneck, "layers": (1, 2, 1, 1)},
    "ResNet-50-D": {
        "block": Bottleneck,
        "layers": (1, 1, 1, 1),
        "stem_width": 8,
        "stem_type": "deep",
        "avg_down": True,
    },
    "ResNeXt": {"block": Bottleneck, "layers": (1, 1, 1, 1), "cardinality": 2, "base_width": 32},
}
every_resnet = pytest.mark.parametrize("kind", RESNETS)


def resnet(kind):
    torch.manual_seed(0)
    model = ResNet(num_classes=5, channels=(8, 16, 24, 32), **RESNETS[kind])
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):  # statistics as after training
                module.running_mean.normal_(std=0.1)
                module.running_var.uniform_(0.5, 1.5)
                module.weight.uniform_(0.5, 1.5)
    return model


def tuned(kind, **settings):
    torch.manual_seed(1)
    model = get_peft_model(resnet(kind), RLRRConfig(**settings))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.05)
    return model


def images(count=4):
    return torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(2))


@every_resnet
def test_all_convolutions_are_rescaled_and_nothing_else_but_the_classifier_is_trained(kind):
    plain = resnet(kind)
    convolutions = {name for name, module in plain.named_modules() if isinstance(module, nn.Conv2d)}
    model = get_peft_model(plain, RLRRConfig())
    layers = {name: module for name, module in model.base_model.model.named_modules() if isinstance(module, RLRRLayer)}
    assert set(layers) == convolutions
    assert all(isinstance(layer, Convolution) for layer in layers.values())
    assert model.peft_config["default"].modules_to_save == ["fc"]
    others = [n for n, p in model.named_parameters() if p.requires_grad and "rlrr_" not in n and ".fc.mod" not in n]
    assert others == []


@every_resnet
@torch.no_grad()
def test_a_resnet_merges_saves_and_mixes(kind, tmp_path):
    x = images()
    model = tuned(kind, rank=2).eval()
    logits = model(x)
    model.save_pretrained(tmp_path, save_embedding_layers=False)
    assert torch.equal(PeftModel.from_pretrained(resnet(kind), tmp_path).eval()(x), logits)
    mixed = model(x, adapter_names=["default", "__base__"] * 2)
    plain = resnet(kind).eval()(x)
    close = {"rtol": 0, "atol": 2e-5 * logits.abs().max().item()}
    torch.testing.assert_close(mixed[::2], logits[::2], **close)
    torch.testing.assert_close(mixed[1::2], plain[1::2], **close)
    merged = model.merge_and_unload()
    assert merged.layer1[0].conv1.bias is not None  # the shift
    torch.testing.assert_close(merged(x), logits, **close)


@pytest.mark.parametrize("kind", ["ResNet-18", "ResNeXt"])
def test_a_resnet_trains_and_its_statistics_stay(kind):
    torch.manual_seed(1)
    model = get_peft_model(resnet(kind), RLRRConfig()).train()
    kept = {name: buffer.clone() for name, buffer in model.named_buffers()}
    x, y = images(10), torch.arange(10) % 5
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=5e-3)
    losses = []
    for _ in range(8):
        loss = F.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert all(parameter.grad.abs().max() > 1e-7 for parameter in trained)  # the shifts too
    assert losses[-1] < 0.9 * losses[0]
    assert all(torch.equal(buffer, kept[name]) for name, buffer in model.named_buffers())


def test_a_batch_norm_that_is_trained_whole_is_left_to_train():
    model = get_peft_model(resnet("ResNet-18"), RLRRConfig(parts=["conv"], modules_to_save=["bn1", "fc"])).train()
    modes = {name: m.training for name, m in model.named_modules() if isinstance(m, nn.BatchNorm2d)}
    assert modes["base_model.model.bn1.modules_to_save.default"]
    assert not modes["base_model.model.bn1.original_module"]
    model.eval()
    assert not any(module.training for module in model.modules())


@pytest.mark.parametrize(
    ("parts", "adapted_there"),
    [
        (["stem"], {"conv1.0", "conv1.3", "conv1.6"}),
        (["downsample"], {f"layer{stage}.0.downsample.1" for stage in range(1, 5)}),
        (["conv"], {f"layer{stage}.0.conv{index}" for stage in range(1, 5) for index in (1, 2, 3)}),
    ],
)
def test_a_resnet_has_parts(parts, adapted_there):
    model = get_peft_model(resnet("ResNet-50-D"), RLRRConfig(parts=parts))
    found = {name for name, module in model.base_model.model.named_modules() if isinstance(module, RLRRLayer)}
    assert found == adapted_there


def test_a_resnets_convolutions_can_be_scaled_instead():
    model = get_peft_model(resnet("ResNet-18"), RLRRConfig(convolutions="scale"))
    assert not any("scale_out" in name for name, _ in model.named_parameters())


# Table 12 prints 0.08 M and 0.29 M for ResNet-18 with the 100 classes of CIFAR-100. `docs/methods/rlrr.md` has the ways
# to count that agree and those that do not; for ResNet-50 we know of no printed count.
HEAD = {"resnet18": 51_300, "resnet50": 204_900}
TABLE_12 = {
    ("resnet18", 1): (79_609, "0.08"),
    ("resnet18", 10): (291_190, "0.29"),
    ("resnet50", 1): (296_057, None),
    ("resnet50", 10): (877_430, None),
}


@pytest.mark.parametrize(("name", "rank"), TABLE_12)
def test_a_resnet_trains_as_many_parameters_as_table_12_prints(name, rank):
    with torch.device("meta"):
        model = get_peft_model(timm.create_model(name, num_classes=100), RLRRConfig(rank=rank))
    trained = model.get_nb_trainable_parameters()[0]
    expected, printed = TABLE_12[name, rank]
    assert trained == expected
    assert printed in (None, f"{trained / 1e6:.2f}")
    vectors = sum(p.numel() for n, p in model.named_parameters() if "rlrr_" in n)
    assert trained - vectors == HEAD[name]
