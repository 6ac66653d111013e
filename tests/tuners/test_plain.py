"""Modules that only look like a known class, and weights made of others: refused, before anything is changed."""

import warnings
from collections import OrderedDict

import pytest
import torch
from peft import get_peft_model
from tests.tuners.cases import METHODS, WEIGHTS, shows
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, parametrize, prune

from rlrr.errors import RLRRError


class One(nn.Module):
    """A module under a name."""

    def __init__(self, module):
        super().__init__()
        self.inner = module

    def forward(self, x):
        return self.inner(x)


class Quantised(nn.Parameter):
    """A parameter that holds its numbers in another form, as those of bitsandbytes."""


class TensorOfItsOwn(torch.Tensor):
    """A subclass of tensor, as torchao's."""


class Double(nn.Module):
    def forward(self, weight):
        return 2 * weight


def old(function, *args):
    def wrap(module):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return function(module, *args)

    return wrap


def as_buffer(module):
    weight = module.weight.detach()
    del module.weight
    module.register_buffer("weight", weight)


def as_attribute(module):
    weight = module.weight.detach()
    del module.weight
    module.weight = weight


def quantise(module):
    module.weight = Quantised(module.weight.detach(), requires_grad=False)


def of_its_own(module):
    module.weight = nn.Parameter(module.weight.detach().as_subclass(TensorOfItsOwn), requires_grad=False)


MADE = {
    "weight norm": parametrizations.weight_norm,
    "weight norm of old": old(nn.utils.weight_norm),
    "spectral norm": parametrizations.spectral_norm,
    "spectral norm of old": old(nn.utils.spectral_norm),
    "orthogonal": parametrizations.orthogonal,
    "a parametrization": lambda module: parametrize.register_parametrization(module, "weight", Double()),
    "a parametrized bias": lambda module: parametrize.register_parametrization(module, "bias", Double()),
    "pruning": lambda module: prune.l1_unstructured(module, "weight", 0.5),
    "a pruned bias": lambda module: prune.random_unstructured(module, "bias", 0.5),
    "a buffer": as_buffer,
    "a plain attribute": as_attribute,
    "quantised": quantise,
    "a tensor of its own": of_its_own,
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", MADE)
def test_a_weight_made_of_others_is_refused_by_methods_that_change_it(kind, method):
    torch.manual_seed(0)
    model = nn.Sequential(OrderedDict(first=nn.Linear(6, 6), second=nn.Linear(6, 6)))
    MADE[kind](model.second)
    modules, x = dict(model.named_modules()), torch.randn(3, 6)
    plain = model.eval()(x)
    config = shows(method, ["first", "second"])
    if method in WEIGHTS:
        with pytest.raises(RLRRError, match=r"The (weight|bias) of second is .*leave second out"):
            get_peft_model(model, config)
        assert dict(model.named_modules()) == modules
        assert torch.equal(model(x), plain)
    else:
        adapted = get_peft_model(model, config).eval()
        assert not torch.allclose(adapted(x), plain)
        with adapted.disable_adapter():
            assert torch.equal(adapted(x), plain)


@pytest.mark.parametrize("method", WEIGHTS)
def test_a_weight_that_is_not_made_yet_is_refused(method):
    with pytest.raises(RLRRError, match=r"0"):
        get_peft_model(nn.Sequential(nn.LazyLinear(6)), shows(method, ["0"]))


@pytest.mark.parametrize("method", WEIGHTS)
@pytest.mark.parametrize("kind", ["weight norm", "a parametrization", "pruning"])
def test_a_weight_that_is_made_of_others_after_adapting_is_not_merged(kind, method):
    model = get_peft_model(nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 6)), shows(method, ["0", "1"])).eval()
    MADE[kind](model.base_model.model[1].base_layer)
    x = torch.randn(3, 6)
    with torch.no_grad():
        before = model(x)
        for call in (model.merge_adapter, model.merge_and_unload):
            with pytest.raises(RLRRError, match="The weight of 1 is"):
                call(safe_merge=True)
            torch.testing.assert_close(model(x), before)


class OwnForward(nn.Linear):
    def forward(self, x):
        return 2 * super().forward(x)


class OwnCall(nn.Linear):
    def __call__(self, x):
        return 2 * super().__call__(x)


class OwnConvolution(nn.Conv2d):
    def _conv_forward(self, x, weight, bias):
        return super()._conv_forward(x, 2 * weight, bias)


class Cosine(nn.LayerNorm):
    def forward(self, x):
        return F.normalize(x, dim=-1)


def patched(module, name):
    inner = getattr(module, name)
    setattr(module, name, lambda *args: 2 * inner(*args))
    return module


LOOKALIKES = {
    "a linear with a forward of its own": (lambda: OwnForward(6, 6), (4, 6)),
    "a linear that is called otherwise": (lambda: OwnCall(6, 6), (4, 6)),
    "a linear with a patched forward": (lambda: patched(nn.Linear(6, 6), "forward"), (4, 6)),
    "a convolution of its own": (lambda: OwnConvolution(3, 6, 1), (2, 3, 4, 4)),
    "a convolution with a patched forward": (lambda: patched(nn.Conv2d(3, 6, 1), "forward"), (2, 3, 4, 4)),
    "a convolution patched inside": (lambda: patched(nn.Conv2d(3, 6, 1), "_conv_forward"), (2, 3, 4, 4)),
    "a norm with a forward of its own": (lambda: Cosine(6), (4, 6)),
    "a norm with a patched forward": (lambda: patched(nn.LayerNorm(6), "forward"), (4, 6)),
}


@pytest.mark.parametrize("method", WEIGHTS)
@pytest.mark.parametrize("kind", LOOKALIKES)
def test_a_module_that_computes_something_else_than_its_class_is_refused(kind, method):
    build, _ = LOOKALIKES[kind]
    model = One(build())
    with pytest.raises(RLRRError, match="cannot adapt inner"):
        get_peft_model(model, shows(method, ["inner"]))
    assert isinstance(model.inner, (nn.Linear, nn.Conv2d, nn.LayerNorm))


@pytest.mark.parametrize("kind", [kind for kind in LOOKALIKES if "linear" in kind])
def test_a_branch_beside_such_a_module_leaves_it_what_it_computes(kind):
    build, shape = LOOKALIKES[kind]
    torch.manual_seed(0)
    model, x = One(build()), torch.randn(shape)
    plain = model(x)
    adapted = get_peft_model(model, shows("adaptformer", ["inner"])).eval()
    layer = adapted.base_model.model.inner
    torch.testing.assert_close(adapted(x), plain + layer.adaptformer_branch["default"](x))


@pytest.mark.parametrize("method", METHODS)
def test_hooks_of_a_module_act_while_it_is_adapted_and_after(method):
    model, x, seen = One(nn.Linear(6, 6)), torch.randn(2, 6), []
    handle = model.inner.register_forward_hook(lambda module, args, output: seen.append(output) or 2 * output)
    adapted = get_peft_model(model, shows(method, ["inner"])).eval()
    with torch.no_grad():
        doubled = adapted(x)
        assert len(seen) == 1
        handle.remove()
        if method in WEIGHTS:
            torch.testing.assert_close(2 * adapted(x), doubled)
        assert len(seen) == 1
        second = adapted.base_model.model.inner.register_forward_hook(lambda module, args, output: seen.append(output))
        adapted(x)
        assert len(seen) == 2
        plain = adapted.unload()
        if method in WEIGHTS:
            plain(x)
            assert len(seen) == 3
            second.remove()
        plain(x)
        assert len(seen) == (3 if method in WEIGHTS else 2)


def test_a_model_with_a_module_that_peft_takes_for_an_adapters_says_that_it_cannot_be_unloaded():
    model = nn.Sequential(OrderedDict(base_layer=nn.Linear(4, 4), head=nn.Linear(4, 2)))  # as timm's DLA names its stem
    adapted = get_peft_model(model, shows("rlrr", ["head"]))
    with pytest.raises(RLRRError, match="base_layer of Sequential"):
        adapted.merge_and_unload()
