"""Weighted sums of adapters (supplement H)."""

import math

import pytest
import torch
from peft import PeftModel, get_peft_model
from timm.models.resnet import BasicBlock, ResNet
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from rlrr import RLRRConfig
from rlrr.errors import RLRRError
from rlrr.tuners.rlrr import RLRRLayer

NAMES = ["default", "flowers", "birds"]
MODELS = {
    "ViT": lambda: VisionTransformer(img_size=16, patch_size=8, embed_dim=12, depth=2, num_heads=2, num_classes=5),
    "ResNet": lambda: ResNet(BasicBlock, (1, 1, 1, 1), channels=(4, 6, 8, 8), num_classes=5),
}
VARIANTS = {
    "the paper's": {},
    "rank 2": {"rank": 2},
    "outputs alone": {"sides": "out"},
    "inputs alone": {"sides": "in"},
    "without W": {"multiply_weight": False},
    "without shifts": {"shift": False},
    "without the residual": {"residual": False},
    "from constant": {"init_weights": "constant"},
}
variants_of_models = pytest.mark.parametrize(
    ("kind", "variant"), [(kind, variant) for kind in MODELS for variant in VARIANTS]
)


def build(kind="ViT"):
    torch.manual_seed(0)
    return MODELS[kind]().double()


def adapted(kind="ViT", ranks=(1, 1, 1), **settings):
    """A model in double precision with an adapter for each of NAMES, as if trained."""
    base_rank = settings.pop("rank", 1)
    model = None
    for seed, (name, rank) in enumerate(zip(NAMES, ranks, strict=True)):
        torch.manual_seed(seed)
        config = RLRRConfig(rank=rank * base_rank, **settings)
        if model is None:
            model = get_peft_model(build(kind), config)
        else:
            model.add_adapter(name, config)
        model.set_adapter(name)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter.add_(torch.randn_like(parameter) * 0.1)
    model.set_adapter("default")
    return model.eval()


def images(kind="ViT"):
    size = 16 if kind == "ViT" else 32
    return torch.randn(3, 3, size, size, generator=torch.Generator().manual_seed(9)).double()


def frozen(model):
    return {
        (name, part): value
        for name, layer in model.named_modules()
        if isinstance(layer, RLRRLayer)
        for part, value in (("weight", layer.base_layer.weight), ("bias", layer.base_layer.bias))
    }


def changes(model, name):
    """What merging adapter `name` adds to each frozen weight and bias."""
    before = {key: None if value is None else value.detach().clone() for key, value in frozen(model).items()}
    model.merge_adapter([name])
    after = frozen(model)
    result = {
        key: value.detach() - (0 if before[key] is None else before[key])
        for key, value in after.items()
        if value is not None
    }
    model.unmerge_adapter()
    return result


def weights_for(variant, numbers):
    return [number / sum(numbers) for number in numbers] if variant == "without the residual" else numbers


@variants_of_models
def test_the_exact_combination_changes_each_weight_by_the_weighted_sum_of_the_changes(kind, variant):
    model = adapted(kind, **VARIANTS[variant])
    weights = weights_for(variant, [0.7, -0.4, 1.3])
    model.add_weighted_adapter(NAMES, weights, "sum")
    singles = [changes(model, name) for name in NAMES]
    combined = changes(model, "sum")
    assert combined
    for key, change in combined.items():
        expected = sum(weight * single[key] for weight, single in zip(weights, singles, strict=True))
        torch.testing.assert_close(change, expected, rtol=0, atol=1e-12, msg=lambda m, key=key: f"{key}: {m}")


def test_ranks_add_up_where_both_sides_are_rescaled():
    model = adapted(ranks=(1, 2, 3))
    model.add_weighted_adapter(NAMES, [1, 2, 3], "sum")
    assert model.peft_config["sum"].rank == 6
    layer = model.base_model.model.blocks[0].attn.qkv
    assert layer.rlrr_scale_out["sum"].shape == (36, 6)
    assert layer.rlrr_scale_in["sum"].shape == (3, 6, 12)


@variants_of_models
def test_the_average_is_of_each_vector(kind, variant):
    model = adapted(kind, **VARIANTS[variant])
    weights = weights_for(variant, [0.2, 0.5, 0.1])
    model.add_weighted_adapter(NAMES, weights, "sum", combination_type="average")
    assert model.peft_config["sum"].rank == model.peft_config["default"].rank
    counted = 0
    for layer in model.modules():
        if not isinstance(layer, RLRRLayer):
            continue
        for container in layer.adapter_layer_names:
            vectors = getattr(layer, container)
            if "default" in vectors:
                origin = 1 if container == "rlrr_scale" else 0
                expected = origin + sum(w * (vectors[n] - origin) for w, n in zip(weights, NAMES, strict=True))
                torch.testing.assert_close(vectors["sum"], expected)
                counted += 1
    assert counted > 5


@pytest.mark.parametrize("combination_type", ["exact", "average"])
def test_the_classifiers_are_summed(combination_type):
    model = adapted()
    model.add_weighted_adapter(NAMES[:2], [0.25, 2], "sum", combination_type)
    heads = model.base_model.model.head.modules_to_save
    for part in ("weight", "bias"):
        expected = 0.25 * getattr(heads["default"], part) + 2 * getattr(heads["flowers"], part)
        torch.testing.assert_close(getattr(heads["sum"], part), expected)


@pytest.mark.parametrize("combination_type", ["exact", "average"])
def test_an_adapter_alone_with_weight_one_is_itself(combination_type):
    model = adapted(rank=2)
    x = images()
    model.add_weighted_adapter(["flowers"], [1.0], "again", combination_type)
    model.set_adapter("flowers")
    expected = model(x)
    model.set_adapter("again")
    torch.testing.assert_close(model(x), expected)


@pytest.mark.filterwarnings("ignore:Adapter sum was active")
def test_the_new_adapter_is_added_but_not_made_active_and_the_others_stay():
    model = adapted()
    x = images()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    trainable = {name for name, p in model.named_parameters() if p.requires_grad}
    logits = model(x)
    model.add_weighted_adapter(NAMES, [1, 1, 1], "sum")
    assert model.active_adapters == ["default"]
    assert torch.equal(model(x), logits)
    assert {name for name, p in model.named_parameters() if p.requires_grad} == trainable
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters() if name in before)
    model.set_adapter("sum")
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert len(trained) == len(trainable)
    assert all("sum" in name.split(".") for name in trained)
    model.delete_adapter("sum")
    assert not [name for name in model.state_dict() if "sum" in name]


@variants_of_models
def test_a_combination_is_saved_and_comes_back(kind, variant, tmp_path):
    model = adapted(kind, **VARIANTS[variant])
    model.add_weighted_adapter(NAMES, weights_for(variant, [1, 0.5, 0.25]), "sum")
    model.set_adapter("sum")
    x = images(kind)
    model.save_pretrained(tmp_path, selected_adapters=["sum"], save_embedding_layers=False)
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == ["sum"]
    again = PeftModel.from_pretrained(build(kind), tmp_path / "sum").eval()
    torch.testing.assert_close(again(x), model(x))


def test_adapters_without_a_classifier_are_combined():
    model = get_peft_model(build(), RLRRConfig(target_modules=["qkv"]))
    model.add_adapter("other", RLRRConfig(target_modules=["qkv"]))
    model.add_weighted_adapter(["default", "other"], [0.5, 0.5], "sum")
    assert model.peft_config["sum"].modules_to_save is None


REFUSED = {
    "default, flowers, birds, not 'flower'. Did you mean flowers": {"adapters": ["default", "flower"]},
    "There are 2 adapters and 1 weights": {"weights": [1.0]},
    "There are 0 adapters and 0 weights": {"adapters": [], "weights": []},
    "must be finite numbers, not [1.0, nan]": {"weights": [1.0, math.nan]},
    "must be finite numbers, not [1.0, inf]": {"weights": [1.0, math.inf]},
    "exact, average, not 'linear'": {"combination_type": "linear"},
    "There is an adapter 'birds' already": {"adapter_name": "birds"},
    "'a.b' cannot be the name of an adapter": {"adapter_name": "a.b"},
    "'attn' cannot be the name of an adapter": {"adapter_name": "attn"},
}
CALL = {"adapters": ["default", "flowers"], "weights": [0.5, 0.5], "adapter_name": "sum"}


def check_refused(model, sentence, **call):
    before = set(model.state_dict())
    with pytest.raises(RLRRError) as error:
        model.add_weighted_adapter(**{**CALL, **call})
    assert sentence in str(error.value)
    assert set(model.state_dict()) == before
    assert list(model.peft_config) == NAMES


@pytest.mark.parametrize("sentence", REFUSED)
def test_what_cannot_be_combined_is_refused_and_nothing_is_left(sentence):
    check_refused(adapted(), sentence, **REFUSED[sentence])


@pytest.mark.parametrize(
    ("one", "other", "differing"),
    [
        ({}, {"sides": "in"}, "sides"),
        ({}, {"residual": False, "shift": False}, "residual, shift"),
        ({}, {"multiply_weight": False}, "multiply_weight"),
        ({}, {"parts": ["attn"]}, "target_modules"),
        ({}, {"fused_blocks": 1}, "fused_blocks"),
        ({}, {"layers_to_transform": 0}, "target_modules"),
        ({"target_modules": ["qkv"]}, {"target_modules": ["qkv"], "modules_to_save": ["head"]}, "modules_to_save"),
    ],
)
def test_adapters_of_different_settings_are_refused(one, other, differing):
    model = get_peft_model(build(), RLRRConfig(**one))
    model.add_adapter("flowers", RLRRConfig(**other))
    model.add_adapter("birds", RLRRConfig(**one))
    check_refused(model, f"'default' and 'flowers' cannot be combined: they differ in {differing}.")


def test_an_average_needs_equal_ranks():
    model = adapted(ranks=(1, 2, 1))
    check_refused(model, "they differ in rank", combination_type="average")


def test_without_the_residual_weights_must_add_up_to_one():
    model = adapted(residual=False)
    check_refused(model, "The weights add up to 1.5: with residual=False they must add up to 1", weights=[1.0, 0.5])


def test_classifiers_of_different_shape_are_refused():
    model = adapted()
    model.base_model.model.head.modules_to_save["flowers"] = nn.Linear(12, 7).double()
    check_refused(model, "Classifiers of different shape cannot be combined: their weight are [(5, 12), (7, 12)].")
