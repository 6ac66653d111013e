"""Every variant of the method on a small ViT: what it computes, saves and learns."""

import pytest
import torch
from peft import PeftModel, get_peft_model
from timm.models.vision_transformer import VisionTransformer
from torch import nn
from torch.func import functional_call
from torch.nn import functional as F

from rlrr import RLRRConfig

pytestmark = pytest.mark.slow

VARIANTS = {
    "the paper's": {},
    "rank 3": {"rank": 3},
    "inputs alone": {"sides": "in"},
    "outputs alone": {"sides": "out"},
    "without the residual": {"residual": False},
    "inputs alone, without the residual": {"sides": "in", "residual": False},
    "outputs alone, without the residual": {"sides": "out", "residual": False},
    "rank 3, without the residual": {"rank": 3, "residual": False, "init_weights": "normal"},
    "without W": {"multiply_weight": False},
    "without W, rank 3": {"multiply_weight": False, "rank": 3},
    "without shifts": {"shift": False},
    "one input vector for q, k and v": {"fused_blocks": 1},
    "attention": {"parts": ["attn"]},
    "MLPs": {"parts": ["mlp"]},
    "norms": {"parts": ["norm"]},
    "the patch embedding": {"parts": ["patch_embed"]},
    "attention and MLPs": {"parts": ["attn", "mlp"]},
    "the first two blocks": {"layers_to_transform": [0, 1]},
    "attention of the last block": {"parts": ["attn"], "layers_to_transform": 2},
    "a kernel": {"convolutions": "rescale", "rank": 2},
    "from the identity": {"init_weights": "identity"},
    "from the identity, rank 3": {"init_weights": "identity", "rank": 3},
    "from the identity, without the residual": {"init_weights": "identity", "rank": 3, "residual": False},
    "from the identity, inputs alone": {"init_weights": "identity", "sides": "in"},
    "from normal": {"init_weights": "normal"},
    "from uniform": {"init_weights": "uniform", "rank": 3},
    "from constant": {"init_weights": "constant"},
    "from constant, without the residual": {"init_weights": "constant", "residual": False},
    "from normal, without W": {"init_weights": "normal", "multiply_weight": False},
    "from uniform, outputs alone, without the residual": {"init_weights": "uniform", "sides": "out", "residual": False},
}
every_variant = pytest.mark.parametrize("variant", VARIANTS)


def backbone(**sizes):
    torch.manual_seed(0)
    golden = {"img_size": 32, "patch_size": 8, "embed_dim": 48, "depth": 3, "num_heads": 4, "mlp_ratio": 2}
    model = VisionTransformer(num_classes=5, **{**golden, **sizes})
    for module in model.modules():
        if isinstance(module, nn.Linear):  # as large as after training: timm's own start hardly looks at the image
            nn.init.xavier_normal_(module.weight)
    return model


def adapted(variant, model=None, stirred=True):
    torch.manual_seed(1)
    model = get_peft_model(model or backbone(), RLRRConfig(**VARIANTS[variant]))
    if stirred:  # as if trained
        with torch.no_grad():
            for parameter in trained(model).values():
                parameter.add_(torch.randn_like(parameter) * 0.1)
    return model.eval()


def trained(model):
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def images(count=4, size=32):
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(2))


@every_variant
@torch.no_grad()
def test_what_is_saved_and_what_is_merged_computes_the_same(variant, tmp_path):
    x = images().double()
    model = adapted(variant, backbone().double())
    logits = model(x)
    assert (logits - backbone().double().eval()(x)).abs().max() > 1e-2
    model.save_pretrained(tmp_path, save_embedding_layers=False)
    assert torch.equal(PeftModel.from_pretrained(backbone().double(), tmp_path).eval()(x), logits)
    mixed = model(x, adapter_names=["default"] * len(x))
    merged = model.merge_and_unload()
    assert type(merged) is VisionTransformer
    for other in (mixed, merged(x)):
        torch.testing.assert_close(other, logits, rtol=1e-10, atol=1e-10)


@every_variant
def test_gradients_equal_finite_differences(variant):
    small = backbone(img_size=8, patch_size=4, embed_dim=8, num_heads=2).double()
    model = adapted(variant, small)
    vectors = {name: vector for name, vector in trained(model).items() if "rlrr_" in name}
    x = images(2, 8).double()

    def loss(flat):
        values = flat.split([vector.numel() for vector in vectors.values()])
        shaped = {name: value.view_as(vectors[name]) for name, value in zip(vectors, values, strict=True)}
        return functional_call(model, shaped, (x,)).square().sum()

    flat = torch.cat([vector.detach().flatten() for vector in vectors.values()]).requires_grad_()
    assert torch.autograd.gradcheck(loss, flat, fast_mode=True)


@every_variant
def test_it_trains_and_every_layer_of_it_gets_a_gradient(variant):
    model = adapted(variant, stirred=False).train()
    x, y = images(10), torch.arange(10) % 5
    optimizer = torch.optim.AdamW(trained(model).values(), lr=1e-2)
    losses = []
    for step in range(15):
        loss = F.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        if step == 1:  # a zero side gives the other none at first
            assert all(vector.grad.any() for vector in trained(model).values())
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]


@pytest.mark.parametrize(
    ("variant", "least", "most"),
    [
        ("inputs alone", 0.3, 1.7),
        ("outputs alone", 0.3, 1.7),  # the code's start of this side would be anything up to 1 ± 2.4
        ("without the residual", 0.8, 1.2),
        ("inputs alone, without the residual", 0.9, 1.1),
        ("outputs alone, without the residual", 0.9, 1.1),
        ("without W", 1.0, 1.0),
        ("without W, rank 3", 1.0, 1.0),
    ],
)
def test_variants_that_the_papers_code_has_not_start_near_the_pretrained_weights(variant, least, most):
    frozen = dict(backbone().named_parameters())
    merged = dict(adapted(variant, stirred=False).merge_and_unload().named_parameters())
    for name in ("blocks.0.attn.qkv.weight", "blocks.1.mlp.fc1.weight", "blocks.2.mlp.fc2.weight"):
        factor = merged[name] / frozen[name]
        assert factor.min() >= least - 1e-6
        assert factor.max() <= most + 1e-6
        assert least == most or factor.std() > 0.01


@pytest.mark.parametrize("variant", [name for name in VARIANTS if name.startswith("from the identity")])
def test_the_identity_is_the_plain_model_at_first(variant):
    x = images()
    torch.testing.assert_close(adapted(variant, stirred=False)(x), backbone().eval()(x))


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"parts": ["attn"]}, {"attn.qkv", "attn.proj"}),
        ({"parts": ["mlp"]}, {"mlp.fc1", "mlp.fc2"}),
        ({"parts": ["norm"]}, {"norm1", "norm2", "norm"}),
        ({"parts": ["patch_embed", "mlp"]}, {"mlp.fc1", "mlp.fc2", "patch_embed.proj"}),
    ],
)
def test_a_part_is_adapted_in_all_blocks_and_the_classifier_trained_with_it(settings, expected):
    model = get_peft_model(backbone(), RLRRConfig(**settings))
    paths = {name.removeprefix("base_model.model.").split(".rlrr_")[0] for name in trained(model) if "rlrr_" in name}
    per_block = {f"blocks.{index}.{part}" for index in range(3) for part in expected - {"norm", "patch_embed.proj"}}
    assert paths == per_block | (expected & {"norm", "patch_embed.proj"})
    assert model.peft_config["default"].modules_to_save == ["head"]
