"""Weights that an adapter makes are kept for the next call, until anything that they are made of has changed."""

import pickle

import pytest
import torch
from peft import get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from tests.tuners.cases import WEIGHTS, shows
from tests.tuners.toys import TOYS
from torch import nn
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from rlrr.tuners.kept import KeptWeights
from rlrr.tuners.reweighted import ReweightedLayer
from rlrr.tuners.selection import SelectionConfig

CONFIGS = {name: lambda name=name: shows(name, ["0", "2"]) for name in WEIGHTS} | {
    "shared tensors": lambda: TOYS["shared"][0](target_modules=["0", "2"])
}


@pytest.fixture(params=CONFIGS)
def model(request):
    torch.manual_seed(0)
    made = get_peft_model(nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 8)), CONFIGS[request.param]())
    made.requested = CONFIGS[request.param]
    return made.eval()


def trained(model):
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def kept(model):
    return [layer._cached for layer in model.modules() if isinstance(layer, ReweightedLayer)]


def fresh(model, x):
    """What weights made in this call alone give."""
    for layer in model.modules():
        if isinstance(layer, ReweightedLayer):
            layer._cached = None
    return model(x)


def optimised(kind, **settings):
    def change(model):
        for parameter in trained(model):
            parameter.grad = torch.ones_like(parameter)  # set by hand, so that no call gives up what is kept
        kind(trained(model), lr=0.1, **settings).step()

    return change


def through_data(model):
    for parameter in trained(model):
        parameter.data.mul_(1.5)


def data_replaced(model):
    for parameter in trained(model):
        parameter.data = parameter.data * 1.5


def through_numpy(model):
    for parameter in trained(model):
        parameter.detach().numpy()[...] *= 1.5


def one_number_through_numpy(model):
    for parameter in trained(model):
        parameter.detach().numpy().flat[-1] += 1.0


def through_shared_memory(model):
    for parameter in trained(model):
        torch.from_numpy(parameter.detach().numpy()).mul_(1.5)


def through_a_storage(model):
    for parameter in trained(model):
        torch.tensor([], dtype=parameter.dtype).set_(parameter.untyped_storage()).mul_(1.5)


def loaded(assign):
    def change(model):
        state = {name: tensor * 1.5 for name, tensor in model.state_dict().items()}
        model.load_state_dict(state, assign=assign)

    return change


def loaded_by_peft(model):
    state = {name: tensor * 1.5 for name, tensor in get_peft_model_state_dict(model).items()}
    set_peft_model_state_dict(model, state)


def from_a_vector(model):
    with torch.no_grad():
        vector_to_parameters(parameters_to_vector(trained(model)) * 1.5, trained(model))


def through_a_vector_of_data(model):
    memory = parameters_to_vector([p.data for p in trained(model)]).clone()
    vector_to_parameters(memory, trained(model))
    model(torch.ones(1, 8))
    memory.mul_(1.5)


def base_through_data(model):
    for layer in model.modules():
        if isinstance(layer, ReweightedLayer):
            layer.base_layer.weight.data.mul_(1.5)


def base_replaced(model):
    for layer in model.modules():
        if isinstance(layer, ReweightedLayer):
            layer.base_layer.weight = nn.Parameter(layer.base_layer.weight.detach() * 1.5, requires_grad=False)


def base_swapped(model):
    for layer in model.modules():
        if isinstance(layer, ReweightedLayer):
            layer.base_layer.weight.data, other = torch.randn(8, 8), layer.base_layer.weight.data
            del other


def in_inference_mode(model):
    with torch.inference_mode():
        through_data(model)


def parameters_replaced(model):
    for parameter in list(trained(model)):
        for module in model.modules():
            for name, own in list(module._parameters.items()):
                if own is parameter:
                    setattr(module, name, nn.Parameter(own.detach() * 1.5))


def written_into_a_read_weight(model):
    for layer in model.modules():
        if isinstance(layer, ReweightedLayer):
            layer.weight.mul_(1.5)


CHANGES = {
    "SGD": optimised(torch.optim.SGD, foreach=False),
    "SGD, foreach": optimised(torch.optim.SGD, foreach=True),
    "SGD, fused": optimised(torch.optim.SGD, fused=True),
    "AdamW, fused": optimised(torch.optim.AdamW, fused=True),
    "AdamW, foreach": optimised(torch.optim.AdamW, foreach=True),
    ".data": through_data,
    "another .data": data_replaced,
    "NumPy": through_numpy,
    "one number through NumPy": one_number_through_numpy,
    "another tensor of the memory": through_shared_memory,
    "its storage": through_a_storage,
    "load_state_dict": loaded(False),
    "load_state_dict, assign": loaded(True),
    "set_peft_model_state_dict": loaded_by_peft,
    "vector_to_parameters": from_a_vector,
    "the vector of vector_to_parameters": through_a_vector_of_data,
    "inference mode": in_inference_mode,
    "other parameters": parameters_replaced,
    "the base, .data": base_through_data,
    "the base, another parameter": base_replaced,
    "the base, another .data": base_swapped,
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_is_noticed_at_the_next_call(model, change):
    x = torch.randn(3, 8)
    with torch.no_grad():
        before = model(x)
        assert torch.equal(model(x), before)
    CHANGES[change](model)
    with torch.no_grad():
        after = model(x)
        assert not torch.allclose(after, before)
        assert torch.equal(after, fresh(model, x))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_a_model_that_is_cast_makes_its_weights_again(model, dtype):
    x = torch.randn(3, 8)
    with torch.no_grad():
        before = model(x)
        model.to(dtype)
        after = model(x.to(dtype))
        assert after.dtype == dtype
        assert torch.equal(after, fresh(model, x.to(dtype)))
        model.float()
        torch.testing.assert_close(model(x), before, rtol=0.1, atol=0.1)


def test_weights_are_kept_and_the_same_objects_serve_again(model):
    x = torch.randn(3, 8)
    with torch.no_grad():
        model(x)
        first = [one.weights for one in kept(model)]
        model(x)
        assert all(one.weights is weights for one, weights in zip(kept(model), first, strict=True))
        model.disable_adapter_layers()
        model(x)
        model.enable_adapter_layers()
        model(x)
        assert all(one.weights is weights for one, weights in zip(kept(model), first, strict=True))


def test_a_call_with_gradients_gives_up_what_is_kept(model):
    x = torch.randn(3, 8)
    with torch.no_grad():
        model(x)
    model(x)
    assert kept(model) == [None, None]


def test_another_adapter_has_weights_of_its_own(model):
    x = torch.randn(3, 8)
    model.add_adapter("other", model.requested())
    model.eval()
    with torch.no_grad():
        one = model(x)
        model.set_adapter("other")
        other = model(x)
        assert torch.equal(other, fresh(model, x))
        model.delete_adapter("other")
        model.set_adapter("default")
        assert torch.equal(model(x), one)
    assert not torch.allclose(one, other)


def test_merging_and_unmerging_leave_nothing_kept_that_is_wrong(model):
    x = torch.randn(3, 8)
    with torch.no_grad():
        before = model(x)
        model.merge_adapter()
        through_data(model)  # the merged weights stay as they are
        torch.testing.assert_close(model(x), before)
        model.unmerge_adapter()
        assert torch.equal(model(x), fresh(model, x))
        assert not torch.allclose(model(x), before)


def test_inference_mode_and_no_grad_follow_each_other(model):
    x = torch.randn(3, 8)
    with torch.inference_mode():
        first = model(x)
    with torch.no_grad():
        assert torch.equal(model(x), first)
    through_data(model)
    with torch.inference_mode():
        second = model(x)
    assert not torch.allclose(first, second)
    assert torch.allclose(model(x), second, atol=1e-6)
    model(x).sum().backward()


def test_a_model_made_in_inference_mode_has_its_changes_noticed():
    for name in WEIGHTS:
        with torch.inference_mode():
            model = get_peft_model(nn.Sequential(nn.Linear(8, 8)), shows(name, ["0"])).eval()
            x = torch.randn(3, 8)
            first = model(x)
            through_data(model)
            assert not torch.allclose(model(x), first)


def test_a_weight_that_is_written_into_where_it_is_read_is_made_again(model):
    if isinstance(model.peft_config["default"], SelectionConfig):
        pytest.skip("nothing is made: as in a plain model, what is read is the weight itself")
    x = torch.randn(3, 8)
    with torch.no_grad():
        before = model(x)
        written_into_a_read_weight(model)
        assert torch.equal(model(x), before)


def keeping(frozen, learned):
    one = KeptWeights(["a"], frozen, learned)
    one.keep(torch.ones(2, 2), None)
    return one


def test_what_is_kept_is_not_pickled():
    assert pickle.loads(pickle.dumps(keeping([torch.ones(2)], []))) is None


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", [(), (3,), (70, 3), (64, 64)])
def test_samples_of_a_frozen_tensor_show_that_it_was_scaled(shape, dtype):
    frozen, learned = torch.ones(shape, dtype=dtype), torch.ones(3, dtype=dtype)
    one = keeping([frozen], [learned])
    assert one.fit(["a"], [frozen], [learned])
    assert not one.fit(["b"], [frozen], [learned])
    assert not one.fit(["a"], [frozen.clone()], [learned])
    frozen.data.mul_(2)
    assert not one.fit(["a"], [frozen], [learned])


def test_tensors_of_any_layout_are_described():
    learned = torch.arange(12.0).reshape(3, 4).t()[1:]
    expanded = torch.ones(1).expand(200)
    columns = torch.ones(100, 100)[:, ::2]
    one = keeping([expanded, columns], [learned])
    assert one.fit(["a"], [expanded, columns], [learned])
    learned.data[-1, -1] += 1
    assert not one.fit(["a"], [expanded, columns], [learned])
    for empty in (torch.ones(0), torch.ones(3, 0)):
        assert keeping([empty], [empty]).fit(["a"], [empty], [empty])
