"""Scale and shift of every kind of norm: the output itself is scaled, and merged is adapted."""

import pytest
import torch
from peft import get_peft_model
from torch import nn

from rlrr.backbones.kinds import CHANNELS_FIRST, NORMS, RMS_NORMS
from rlrr.tuners.rlrr import RLRRConfig
from rlrr.tuners.ssf import SSFConfig

METHODS = {"rlrr": RLRRConfig, "ssf": SSFConfig}


def adapted(norm, method, **settings):
    torch.manual_seed(0)
    module = norm(6, **settings)
    if module.weight is not None:
        nn.init.normal_(module.weight)
    model = get_peft_model(nn.Sequential(module), METHODS[method](target_modules="0", init_weights=False)).eval()
    return module, model, torch.randn(3, 6, 2, 2) if norm in CHANNELS_FIRST else torch.randn(3, 4, 6)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("norm", NORMS)
def test_the_output_of_a_norm_is_scaled_and_the_scale_folds_into_its_weight(norm, method):
    module, model, x = adapted(norm, method)
    layer = model.base_model.model[0]
    learned = layer.learned("default")
    assert learned.keys() == ({"scale"} if norm in RMS_NORMS else {"scale", "shift"})
    shape = (1, -1, 1, 1) if norm in CHANNELS_FIRST else (-1,)
    with torch.no_grad():
        expected = module(x) * learned["scale"].view(shape)
        if "shift" in learned:
            expected = expected + learned["shift"].view(shape)
        output = model(x)
        torch.testing.assert_close(output, expected, rtol=1e-5, atol=1e-5)
        frozen = dict(module.state_dict())
        plain = model.merge_and_unload()
        torch.testing.assert_close(plain(x), output, rtol=1e-5, atol=1e-5)
    assert frozen.keys() == module.state_dict().keys()


@pytest.mark.parametrize("norm", [norm for norm in NORMS if norm is not nn.RMSNorm and norm is not nn.LayerNorm])
def test_each_image_of_a_mixed_batch_has_its_own_scale(norm):
    _, model, x = adapted(norm, "rlrr")
    model.add_adapter("other", RLRRConfig(target_modules="0", init_weights=False))
    with torch.no_grad():
        together = model(x, adapter_names=["default", "other", "__base__"])
        for row, name in enumerate(("default", "other")):
            model.set_adapter(name)
            torch.testing.assert_close(together[row], model(x)[row], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("norm", RMS_NORMS)
def test_a_norm_without_weight_takes_a_scale_and_gives_it_back(norm):
    settings = {"elementwise_affine" if norm is nn.RMSNorm else "affine": False}
    module, model, x = adapted(norm, "ssf", **settings)
    with torch.no_grad():
        bare, output = module(x), model(x)
        assert not torch.allclose(bare, output)
        model.merge_adapter()
        torch.testing.assert_close(model(x), output, rtol=1e-5, atol=1e-5)
        model.unmerge_adapter()
        assert torch.equal(model.unload()(x), bare)


SHAPES = {
    "one dimension": (nn.LayerNorm(6), (5, 6)),
    "tokens and features": (nn.LayerNorm((5, 6)), (5, 6)),
    "channels, height and width": (nn.LayerNorm((2, 3, 4)), (2, 3, 4)),
    "no weight": (nn.LayerNorm((5, 6), elementwise_affine=False), (5, 6)),
    "no bias": (nn.LayerNorm((5, 6), bias=False), (5, 6)),
}


@pytest.mark.parametrize("config", [RLRRConfig, SSFConfig])
@pytest.mark.parametrize("kind", SHAPES)
def test_each_number_of_a_norm_over_any_dimensions_has_a_scale_and_a_shift(config, kind):
    norm, shape = SHAPES[kind]
    norm = type(norm)(norm.normalized_shape, elementwise_affine=norm.weight is not None, bias=norm.bias is not None)
    torch.manual_seed(0)
    base = nn.Sequential(norm).double()
    for parameter in base.parameters():
        nn.init.normal_(parameter)
    x = torch.randn(3, *shape, dtype=torch.double)
    with torch.no_grad():
        plain = base(x)
    model = get_peft_model(base, config(target_modules=["0"], init_weights=False)).double().eval()
    layer = model.base_model.model[0]
    learned = {name: value.detach().view(norm.normalized_shape) for name, value in layer.learned("default").items()}
    expected = plain * learned["scale"] + learned["shift"]
    torch.testing.assert_close(model(x), expected)
    change = torch.linalg.vector_norm(layer.get_delta_weight("default"))
    assert layer.weight_change() == pytest.approx(change.item())
    model.add_adapter("other", config(target_modules=["0"], init_weights=False))
    model.double()
    mixed = model(x, adapter_names=["default", "other", "__base__"])
    torch.testing.assert_close(mixed[0], expected[0])
    torch.testing.assert_close(mixed[2], plain[2])
    torch.testing.assert_close(model.merge_and_unload()(x), expected)
