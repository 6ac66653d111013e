"""Both estimates of the scales' gradient, in an adapted layer: right in the mean, and not exact."""

from collections import OrderedDict

import pytest
import torch
from peft import get_peft_model
from torch import nn

from rlrr import RLRRConfig


@pytest.fixture
def estimates(script):
    return script("estimates")


@pytest.mark.parametrize("kind", ["tokens", "sketch"])
def test_the_mean_of_the_estimates_is_the_exact_gradient(estimates, kind):
    torch.manual_seed(0)
    config = RLRRConfig(target_modules=["linear"], init_weights=False)
    model = get_peft_model(nn.Sequential(OrderedDict(linear=nn.Linear(5, 6))), config)
    x = torch.randn(4, 7, 5)

    def gradient():
        model.zero_grad()
        (model(x).square().sum()).backward()
        return model.base_model.model.linear.rlrr_scale_in["default"].grad.clone()

    exact = gradient()
    with estimates.estimated(kind, 0.5):
        draws = torch.stack([gradient() for _ in range(1000)])
    error = draws.std(0) / len(draws) ** 0.5
    assert (error > 0).all()
    assert ((draws.mean(0) - exact).abs() < 4.5 * error).all()
    assert torch.equal(gradient(), exact)
