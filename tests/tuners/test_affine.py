"""A scale and a shift of an output, on every kind of module that has features."""

import pytest
import torch
from peft import get_peft_model
from torch import nn

from rlrr import RLRRConfig
from rlrr.tuners.ssf import SSFConfig

NORMS = {
    "one dimension": (nn.LayerNorm(6), (5, 6)),
    "tokens and features": (nn.LayerNorm((5, 6)), (5, 6)),
    "channels, height and width": (nn.LayerNorm((2, 3, 4)), (2, 3, 4)),
    "no weight": (nn.LayerNorm((5, 6), elementwise_affine=False), (5, 6)),
    "no bias": (nn.LayerNorm((5, 6), bias=False), (5, 6)),
}


@pytest.mark.parametrize("config", [RLRRConfig, SSFConfig])
@pytest.mark.parametrize("kind", NORMS)
def test_each_number_of_a_norm_over_any_dimensions_has_a_scale_and_a_shift(config, kind):
    norm, shape = NORMS[kind]
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
