"""Merging and unmerging layers whose weights stand in several places of a model."""

import pytest
import torch
from peft import get_peft_model
from tests.tuners.cases import METHODS, WEIGHTS, shows
from torch import nn


def tied(kind, method, targets):
    """A model in which two places share a weight, or a module; its input, and what it gives without an adapter."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 6))
    if kind == "weight":
        model[2].weight = model[0].weight
    elif kind == "weight and bias":
        model[2].weight, model[2].bias = model[0].weight, model[0].bias
    else:
        model[2] = model[0]
    x = torch.randn(4, 6)
    with torch.no_grad():
        plain = model(x)
    return get_peft_model(model, shows(method, targets)).eval(), x, plain


TIED = [(kind, targets) for kind in ("weight", "weight and bias") for targets in ("0", "2", "02", "024")]
TIED += [("module", "0"), ("module", "04")]  # one in two places has the name of the first


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("kind", "targets"), TIED)
def test_tied_weights_are_merged_and_given_back_to_the_bit(kind, targets, method):
    model, x, plain = tied(kind, method, list(targets))
    with torch.no_grad():
        before = model(x)
        assert not torch.allclose(before, plain)
        with model.disable_adapter():
            assert torch.equal(model(x), plain)
        if method not in WEIGHTS:
            assert torch.equal(model.unload()(x), plain)
            return
        frozen = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        for _ in range(2):
            model.merge_adapter()
            torch.testing.assert_close(model(x), before)
            model.unmerge_adapter()
            assert all(torch.equal(tensor, frozen[name]) for name, tensor in model.state_dict().items())
            assert torch.equal(model(x), before)
        model.merge_adapter()
        with model.disable_adapter():
            assert torch.equal(model(x), plain)
        torch.testing.assert_close(model(x), before)
        torch.testing.assert_close(model.merge_and_unload()(x), before)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", ["weight", "weight and bias", "module"])
def test_a_model_with_tied_weights_is_unloaded_as_it_was(kind, method):
    model, x, plain = tied(kind, method, ["0"] if kind == "module" else ["0", "2"])
    with torch.no_grad():
        base = model.unload()
        assert torch.equal(base(x), plain)
    assert base[0].weight is base[2].weight
    assert type(base[0]) is type(base[2]) is nn.Linear
