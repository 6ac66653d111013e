"""The product form: W' = diag(1 + a) W diag(1 + b), which is two other forms of RLRR in disguise."""

import copy

import pytest
import timm
import torch
from peft import get_peft_model
from torch.nn import functional as F

from rlrr import RLRRConfig
from rlrr.errors import RLRRError
from rlrr.methods.trainable import parameter_counts
from rlrr.tuners.layer import AdaptedLayer
from rlrr.tuners.rlrr.layer import Rescaled

IMAGES = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(3), dtype=torch.double)
LABELS = torch.tensor([0, 1, 2, 0])


def vit(**settings):
    torch.manual_seed(0)
    sizes = {"img_size": 16, "patch_size": 8, "depth": 2, "embed_dim": 24, "num_heads": 2, "num_classes": 3}
    model = timm.create_model("vit_tiny_patch16_224", **sizes).double()
    torch.manual_seed(1)
    return get_peft_model(model, RLRRConfig(**settings)).double()


def randomise(model, seed=0):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".rlrr_" in name:
                parameter += 0.3 * torch.randn(parameter.shape, generator=generator, dtype=torch.double)
    return model


def rescaled(model):
    return [layer for layer in model.modules() if isinstance(layer, Rescaled)]


@pytest.mark.parametrize("sides", ["both", "in", "out"])
def test_the_weight_is_the_product(sides):
    model = randomise(vit(form="product", sides=sides))
    for layer in rescaled(model):
        learned, weight = layer.learned("default"), layer.base_layer.weight
        expected = weight.clone()
        if "scale_out" in learned:
            expected = torch.diag(1 + learned["scale_out"][:, 0]) @ expected
        if "scale_in" in learned:
            blocks = learned["scale_in"].view(-1, weight.shape[1])
            assert len(blocks) == (3 if layer.module_name.endswith("qkv") else 1)
            rows = expected.chunk(len(blocks))
            expected = torch.cat([row @ torch.diag(1 + block) for row, block in zip(rows, blocks, strict=True)])
        torch.testing.assert_close(layer.effective(["default"])[0], expected)
        torch.testing.assert_close(layer.effective(["default"])[1], layer.base_layer.bias + learned["shift"])


@torch.no_grad()
def test_it_starts_at_the_pre_trained_function_where_both_vectors_get_a_gradient():
    model = vit(form="product").eval()
    with model.disable_adapter():
        plain = model(IMAGES)
    torch.testing.assert_close(model(IMAGES), plain)
    with torch.enable_grad():
        F.cross_entropy(model.train()(IMAGES), LABELS).backward()
    for layer in rescaled(model):
        assert all(vector.grad.abs().max() > 0 for vector in layer.learned("default").values())


@pytest.mark.parametrize("sides", ["both", "in", "out"])
def test_without_decay_it_trains_step_for_step_as_the_form_without_a_residual_started_at_ones(sides):
    product = vit(form="product", sides=sides)
    other = vit(residual=False, sides=sides, init_weights="identity")
    assert parameter_counts(product) == parameter_counts(other)
    losses = []
    for model in (product, other):
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2, weight_decay=0)
        found = []
        for _ in range(5):
            loss = F.cross_entropy(model.train()(IMAGES), LABELS)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            found.append(loss.item())
        losses.append(found)
    assert losses[0] == pytest.approx(losses[1], rel=1e-9)
    assert losses[0][-1] < losses[0][0]
    for one, two in zip(rescaled(product), rescaled(other), strict=True):
        for name, vector in one.learned("default").items():
            shifted = vector if name == "shift" else 1 + vector
            torch.testing.assert_close(shifted, two.learned("default")[name])


def test_it_is_the_residual_form_of_rank_two():
    product = randomise(vit(form="product"))
    residual = vit(rank=2)
    with torch.no_grad():
        for one, two in zip(rescaled(product), rescaled(residual), strict=True):
            given, taken = one.learned("default"), two.learned("default")
            a, b = given["scale_out"], given["scale_in"]
            taken["scale_out"].copy_(torch.cat([1 + a, -torch.ones_like(a)], -1))
            taken["scale_in"].copy_(torch.cat([1 + b, torch.ones_like(b)], -2))
            taken["shift"].copy_(given["shift"])
            assert one.weight_change() == pytest.approx(two.weight_change(), rel=1e-9)

    affine = [
        (one, two)
        for one, two in zip(adapted(product), adapted(residual), strict=True)
        if not isinstance(one, Rescaled)
    ]
    with torch.no_grad():
        for one, two in affine:
            for name, vector in one.learned("default").items():
                two.learned("default")[name].copy_(vector)
        head = product.base_model.model.head.modules_to_save["default"]
        residual.base_model.model.head.modules_to_save["default"].load_state_dict(head.state_dict())
    torch.testing.assert_close(residual.eval()(IMAGES), product.eval()(IMAGES))


def adapted(model):
    return [layer for layer in model.modules() if isinstance(layer, AdaptedLayer)]


@pytest.mark.parametrize("sides", ["both", "in", "out"])
@torch.no_grad()
def test_a_weighted_sum_of_products_is_exact_in_residual_form(sides):
    model = randomise(vit(form="product", sides=sides))
    model.add_adapter("two", RLRRConfig(form="product", sides=sides))
    model.double()
    model.set_adapter("two")
    randomise(model, 1)
    model.base_model.add_weighted_adapter(["default", "two"], [0.3, 0.6], "sum")
    model.double()
    config = model.peft_config["sum"]
    assert (config.form, config.rank) == ("residual", 4 if sides == "both" else 1)
    for layer in rescaled(model):
        expected = 0.3 * layer.get_delta_weight("default") + 0.6 * layer.get_delta_weight("two")
        torch.testing.assert_close(layer.get_delta_weight("sum"), expected)
    model.base_model.add_weighted_adapter(["default", "two"], [0.5, 0.5], "mean", combination_type="average")
    assert model.peft_config["mean"].form == "product"
    for layer in rescaled(model):
        for name, vector in layer.learned("mean").items():
            torch.testing.assert_close(
                vector.double(), (layer.learned("default")[name] + layer.learned("two")[name]) / 2
            )


@torch.no_grad()
def test_adapters_of_both_forms_share_a_batch():
    model = randomise(vit(form="product"))
    model.add_adapter("residual", RLRRConfig())
    model.double().eval()
    mixed = model(IMAGES[:2], adapter_names=["default", "residual"])
    for row, name in enumerate(("default", "residual")):
        model.set_adapter(name)
        torch.testing.assert_close(mixed[row], model(IMAGES[row : row + 1])[0])


def test_decay_pulls_to_the_frozen_weight():
    model = randomise(vit(form="product"))
    optimizer = torch.optim.AdamW(
        [p for n, p in model.named_parameters() if ".rlrr_scale_" in n], lr=0.1, weight_decay=9
    )
    for _ in range(200):
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                parameter.grad = torch.zeros_like(parameter)
        optimizer.step()
    for layer in rescaled(model):
        torch.testing.assert_close(layer.effective(["default"])[0], layer.base_layer.weight)


def test_a_rescaled_convolution_has_it_too():
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Conv2d(4, 6, 3, padding=1, groups=2)).double()
    plain = copy.deepcopy(model)
    adapted = get_peft_model(model, RLRRConfig(form="product", target_modules=["0"], convolutions="rescale")).double()
    x = torch.randn(2, 4, 8, 8, dtype=torch.double)
    torch.testing.assert_close(adapted(x), plain(x))
    randomise(adapted)
    adapted.train()(x).square().sum().backward()
    before = adapted.eval()(x)
    assert not torch.allclose(before, plain(x))
    torch.testing.assert_close(adapted.merge_and_unload()(x), before)


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"rank": 2}, "rank"),
        ({"residual": False}, "residual=False"),
        ({"multiply_weight": False}, "multiply_weight=False"),
        ({"gradient_tokens": 0.5}, "gradient_tokens"),
        ({"init_weights": "normal"}, "init_weights"),
        ({"form": "sum"}, "form must be one of residual, product"),
    ],
)
def test_what_does_not_go_with_it_is_refused_with_the_reason(settings, reason):
    with pytest.raises(RLRRError, match=reason):
        RLRRConfig(**{"form": "product"} | settings)
