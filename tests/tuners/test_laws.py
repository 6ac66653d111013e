"""Laws that hold for every method in `cases.CASES`, in double precision."""

import copy
import pickle
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from peft import PeftModel, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from tests.tuners.cases import CASES, COMPILED, Block, blocks
from tests.tuners.toys import TOYS
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.checkpoint import checkpoint

from rlrr import RLRRConfig
from rlrr.errors import RLRRError
from rlrr.tuners.layer import AdaptedLayer

COUNT = 4


@pytest.fixture(params=list(CASES), scope="module")
def case(request):
    return CASES[request.param]


def randomise(model: PeftModel, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += 0.3 * torch.randn(parameter.shape, generator=generator, dtype=torch.double)


def adapted(case, *names: str) -> PeftModel:
    """The case's model with adapters of random tensors, the first one active, in evaluation mode."""
    first, *others = names or ("default",)
    model = get_peft_model(case.model().double(), case.config(), adapter_name=first).double()
    for name in others:
        model.add_adapter(name, case.config())
        model.double()
    for seed, name in enumerate((first, *others)):
        model.set_adapter(name)
        randomise(model, seed)
    model.set_adapter(first)
    return model.eval()


def inputs(case, count: int = COUNT) -> torch.Tensor:
    return torch.randn(count, *case.shape, generator=torch.Generator().manual_seed(9), dtype=torch.double)


def layers(model: nn.Module) -> dict[str, AdaptedLayer]:
    return {name: module for name, module in model.named_modules() if isinstance(module, AdaptedLayer)}


def call_of(layer: nn.Module, model: nn.Module, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """What a layer of a model is given, and gives."""
    calls = []
    hook = layer.register_forward_hook(lambda layer, args, output: calls.append((args[0], output)))
    with torch.no_grad():
        model(x)
    hook.remove()
    return calls[0]


def needs(case, capability: str) -> None:
    if capability in case.denied:
        pytest.skip(f"the method cannot {capability}")


def test_what_it_is_denied_is_what_its_layers_say(case):
    said = list(layers(adapted(case)).values())
    assert said
    assert {layer.mergeable for layer in said} == {"merge" not in case.denied}
    assert {layer.combinable for layer in said} == {"combine" not in case.denied}
    assert {layer.mixable for layer in said} == {"mix" not in case.denied}
    assert {layer.splittable for layer in said} == {"split" not in case.denied}


def test_an_adapter_acts_and_disabled_it_does_not(case):
    model, x = adapted(case), inputs(case)
    plain = case.model().double().eval()(x)
    assert not torch.allclose(model(x), plain)
    with model.disable_adapter():
        assert torch.equal(model(x), plain)


def test_the_adapter_and_nothing_else_is_trained(case):
    model = adapted(case)
    trained = {id(p) for p in model.parameters() if p.requires_grad}
    learned = {id(p) for n, p in model.named_parameters() if model.base_model.prefix in n or ".modules_to_save." in n}
    assert trained == learned


def test_steps_with_decay_leave_every_frozen_bit_as_it_was(case):
    model, x = adapted(case), inputs(case)
    frozen = {name: p.detach().clone() for name, p in model.named_parameters() if not p.requires_grad}
    frozen |= {name: buffer.clone() for name, buffer in model.named_buffers()}
    trained = {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.5)
    model.train()
    for _ in range(2):
        optimizer.zero_grad()
        model(x).square().sum().backward()
        optimizer.step()
    after = model.state_dict()
    assert all(torch.equal(after[name], value) for name, value in frozen.items() if name in after)
    assert not any(torch.equal(after[name], value) for name, value in trained.items())


def test_under_bf16_autocast_outputs_are_near_and_gradients_finite(case):
    model, x = adapted(case).float(), inputs(case).float()
    exact = model(x)
    with torch.autocast("cpu", torch.bfloat16):
        output = model(x)
    assert (output.float() - exact).abs().max() < 0.1 * exact.abs().max()
    model.train()
    with torch.autocast("cpu", torch.bfloat16):
        loss = model(x).float().square().sum()
    loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)


def test_on_a_backbone_in_half_precision_what_is_learned_is_float32(case):
    model = get_peft_model(case.model().bfloat16(), case.config())
    trained = [p for p in model.parameters() if p.requires_grad]
    learned = {p.dtype for n, p in model.named_parameters() if p.requires_grad and model.base_model.prefix in n}
    assert learned == {torch.float32}
    x = inputs(case).bfloat16()
    assert model.eval()(x).dtype in (torch.bfloat16, torch.float32)
    model.train()(x).float().square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in trained)


def test_an_adapter_that_is_added_in_evaluation_mode_is_in_it(case):
    model = adapted(case)
    model.add_adapter("two", case.config())
    model.set_adapter("two")
    assert not any(module.training for module in model.modules())


def test_every_trained_tensor_gets_the_gradient_of_finite_differences(case):
    model, x = adapted(case), inputs(case)
    model.train()
    trained = [p for p in model.parameters() if p.requires_grad]
    gradients = torch.autograd.grad(model(x).square().sum(), trained)
    assert all(gradient is not None and gradient.any() for gradient in gradients)
    generator = torch.Generator().manual_seed(1)
    directions = [torch.randn(p.shape, generator=generator, dtype=torch.double) for p in trained]

    def moved(step):
        with torch.no_grad():
            for parameter, direction in zip(trained, directions, strict=True):
                parameter += step * direction
            value = model(x).square().sum()
            for parameter, direction in zip(trained, directions, strict=True):
                parameter -= step * direction
        return value

    slope = sum((gradient * direction).sum() for gradient, direction in zip(gradients, directions, strict=True))
    torch.testing.assert_close(slope, (moved(1e-5) - moved(-1e-5)) / 2e-5, rtol=1e-5, atol=1e-6)


def test_delta_is_what_it_adds_to_the_base_output(case):
    needs(case, "split")
    model, x = adapted(case), inputs(case)
    with torch.no_grad():
        for layer in layers(model).values():
            given, output = call_of(layer, model, x)
            torch.testing.assert_close(layer.base_layer(given) + layer.delta(given), output)


def test_merging_gives_the_same_outputs_and_unmerging_the_same_bits(case):
    needs(case, "merge")
    model, x = adapted(case), inputs(case)
    before, frozen = model(x), copy.deepcopy(model.state_dict())
    model.merge_adapter()
    torch.testing.assert_close(model(x), before)
    model.unmerge_adapter()
    assert all(torch.equal(tensor, frozen[name]) for name, tensor in model.state_dict().items())
    assert torch.equal(model(x), before)
    plain = model.merge_and_unload()
    assert not layers(plain)
    torch.testing.assert_close(plain(x), before)


@pytest.mark.parametrize("call", ["merge_adapter", "merge_and_unload"])
def test_a_safe_merge_merges_all_layers_or_none(case, call):
    needs(case, "merge")
    model = adapted(case)
    last = list(layers(model).values())[-1]
    with torch.no_grad():
        next(iter(last.learned("default").values())).fill_(torch.inf)
    frozen = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(ValueError, match="broken"):
        getattr(model, call)(safe_merge=True)
    assert layers(model)
    assert not any(layer.merged for layer in layers(model).values())
    assert all(torch.equal(tensor, frozen[name]) for name, tensor in model.state_dict().items())


def test_a_method_that_cannot_merge_says_so_and_leaves_the_model_as_it_was(case):
    if "merge" not in case.denied:
        pytest.skip("the method merges")
    model, x = adapted(case), inputs(case)
    before = model(x)
    for call in (model.merge_adapter, model.merge_and_unload):
        with pytest.raises(NotImplementedError, match=r"cannot be written|no weight can hold"):
            call()
    assert torch.equal(model(x), before)


def test_unloading_gives_the_plain_model(case):
    model, x = adapted(case), inputs(case)
    heads = [name for name, _ in model.named_parameters() if ".modules_to_save." in name]
    plain, untouched = model.unload(), case.model().double().eval()
    assert not layers(plain)
    if heads:  # PEFT leaves the trained one in its place
        plain.head = untouched.head
    assert torch.equal(plain(x), untouched(x))
    assert not any(module._forward_pre_hooks for module in plain.modules())


def test_what_is_saved_and_loaded_is_the_same(case):
    model, x = adapted(case), inputs(case)
    state = {name: tensor.clone() for name, tensor in get_peft_model_state_dict(model).items()}
    learned = [p.numel() for p in model.parameters() if p.requires_grad]
    learned += [b.numel() for name, b in model.named_buffers() if model.base_model.prefix in name]
    assert sum(tensor.numel() for tensor in state.values()) == sum(learned)
    other = get_peft_model(case.model().double(), case.config()).double().eval()
    assert not torch.allclose(other(x), model(x))
    result = set_peft_model_state_dict(other, state)
    assert not result.unexpected_keys
    assert torch.equal(other(x), model(x))
    assert not [name for name in state if ".default" in name]
    other.add_adapter("another", case.config())
    other.double().set_adapter("another")
    assert not set_peft_model_state_dict(other, state, adapter_name="another").unexpected_keys
    assert torch.equal(other.eval()(x), model(x))


def test_a_mixed_batch_gives_what_each_sample_gives_alone(case):
    needs(case, "mix")
    model = adapted(case, "one", "two", "three")
    order = ["three", "__base__", "one", "three", "two", "one"]
    x = inputs(case, len(order))
    mixed = model(x, adapter_names=order)
    for row, name in enumerate(order):
        if name == "__base__":
            with model.disable_adapter():
                alone = model(x[row : row + 1])
        else:
            model.set_adapter(name)
            alone = model(x[row : row + 1])
        torch.testing.assert_close(mixed[row : row + 1], alone)


def test_rows_of_stacked_tensors_give_what_adapters_by_name_give(case):
    needs(case, "mix")
    model = adapted(case, "one", "two", "three")
    rows, slots = torch.tensor([2, 0, 2, 1]), ("one", "two", "three")
    for layer in layers(model).values():
        given, _ = call_of(layer, model, inputs(case, 4))
        by_name = layer(given, adapter_names=[slots[row] for row in rows])
        by_row = layer.forward_per_sample(given, layer.stacked(slots), rows, layer.configs["one"])
        torch.testing.assert_close(by_row, by_name)


def test_two_adapters_act_side_by_side(case):
    needs(case, "split")
    model, x = adapted(case, "one", "two"), inputs(case)
    for layer in layers(model).values():
        given, _ = call_of(layer, model, x)
        both, one, two = (layer.delta(given, names) for names in (["one", "two"], ["one"], ["two"]))
        if getattr(layer, "where", "") != "before":  # the frozen module is not linear in its input
            torch.testing.assert_close(both, one + two)


def test_an_adapter_that_is_deleted_leaves_nothing(case):
    model, x = adapted(case, "one", "two"), inputs(case)
    one = model(x)
    model.delete_adapter("two")
    assert not [name for name in model.state_dict() if ".two" in name]
    assert torch.equal(model(x), one)


def test_copies_and_pickles_are_the_same(case):
    model, x = adapted(case), inputs(case)
    before = model(x)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(other(x), before)
        randomise(other, 5)
        other.eval()
        assert not torch.allclose(other(x), before)
        assert torch.equal(model(x), before)


def test_the_change_of_a_weight_is_its_norm(case):
    needs(case, "merge")
    for layer in layers(adapted(case)).values():
        change = torch.linalg.vector_norm(layer.get_delta_weight("default")).item()
        assert layer.weight_change() == pytest.approx(change, rel=1e-9)


def test_neutral_values_leave_the_model_as_it_was(case):
    model, x = adapted(case), inputs(case)
    neutral = {(name, tensor) for layer in layers(model).values() for name, tensor in layer.neutral.items()}
    if not neutral:
        pytest.skip("a branch has no neutral tensor of its own")
    with torch.no_grad():
        for layer in layers(model).values():
            for name, value in layer.neutral.items():
                if (tensor := layer.learned("default").get(name)) is not None:
                    tensor.fill_(value)
    model.train().eval()
    with model.disable_adapter():
        base = {n: p for n, p in model.named_parameters() if ".modules_to_save." in n}
        plain = model(x)
    if not base:
        torch.testing.assert_close(model(x), plain)


@pytest.mark.slow
@pytest.mark.parametrize("name", COMPILED)
def test_a_compiled_model_gives_the_same_and_has_the_same_gradients(name):
    case = CASES[name]
    model, x = adapted(case), inputs(case)
    trained = [p for p in model.parameters() if p.requires_grad]

    def run(call):
        output = call(x)
        return [output, *torch.autograd.grad(output.square().sum(), trained)]

    expected = run(model.train())
    torch.compiler.reset()
    torch.testing.assert_close(run(torch.compile(model, backend="aot_eager")), expected)
    torch.compiler.reset()


def test_dropout_inside_an_update_acts_in_training_alone():
    case = CASES["shared tensors"]
    model, x = adapted(case), inputs(case)
    for layer in layers(model).values():
        layer.configs["default"].dropout = 0.5
    torch.manual_seed(0)
    assert torch.equal(model(x), model(x))
    model.train()
    assert not torch.allclose(model(x), model(x))


def test_tensors_that_all_layers_share_are_held_and_saved_once():
    model = adapted(CASES["shared tensors"], "one", "two")
    saved = get_peft_model_state_dict(model, adapter_name="two")
    assert len([name for name in saved if "shared_up" in name]) == 1
    assert len({id(layer.shared_up) for layer in layers(model).values()}) == 1
    model.set_adapter("two")
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert {name for name in trained if "shared_up" in name} == {"base_model.shared_up.two"}
    model.delete_adapter("two")
    assert "two" not in model.base_model.shared_up


def test_an_adapter_that_is_refused_leaves_no_tensor_behind():
    model = adapted(CASES["shared tensors"])
    before = set(model.state_dict())
    with pytest.raises(RLRRError, match="nonsense"):
        model.add_adapter("two", TOYS["shared"][0](target_modules=["attn", "nonsense"]))
    assert set(model.state_dict()) == before


def test_without_an_adapter_nothing_is_added(case):
    needs(case, "split")
    model, x = adapted(case), inputs(case)
    for layer in layers(model).values():
        given, _ = call_of(layer, model, x)
        assert not layer.delta(given, []).any()


def test_a_model_is_copied_after_a_training_step_and_while_an_adapter_is_off(case):
    model, x = adapted(case, "one", "two"), inputs(case)
    model.train()(x).square().sum().backward()
    with model.disable_adapter():
        model(x)
    assert torch.equal(copy.deepcopy(model).eval()(x), model.eval()(x))


@pytest.mark.parametrize("method", ["stream", "beside"])
def test_adapters_with_other_settings_are_not_stacked(method):
    config = TOYS[method][0]
    targets = ["0", "1"] if method == "stream" else ["mlp"]
    model = get_peft_model(blocks().double(), config(target_modules=targets, scale=1.0), adapter_name="one")
    model.add_adapter("two", config(target_modules=targets, scale=5.0))
    model.double()
    x = torch.randn(2, 5, 8, dtype=torch.double)
    mixed = model.eval()(x, adapter_names=["one", "two"])
    for row, name in enumerate(("one", "two")):
        model.set_adapter(name)
        torch.testing.assert_close(mixed[row : row + 1], model(x[row : row + 1]))


def test_threads_do_not_take_each_others_stream():
    case = CASES["stream"]
    model = adapted(case)
    batches = [torch.randn(4, 5, 8, generator=torch.Generator().manual_seed(i), dtype=torch.double) for i in range(8)]
    with torch.no_grad():
        expected = [model(batch) for batch in batches]

        def run(batch):
            with torch.no_grad():
                return [model(batch) for _ in range(20)]

        with ThreadPoolExecutor(4) as pool:
            for outputs, alone in zip(pool.map(run, batches), expected, strict=True):
                assert all(torch.equal(output, alone) for output in outputs)


def test_a_stream_whose_gradient_is_lost_is_refused():
    class Checkpointed(Block):
        def forward(self, x):
            return checkpoint(super().forward, x, use_reentrant=True)

    torch.manual_seed(0)
    config, _ = TOYS["stream"]
    adapted_model = get_peft_model(nn.Sequential(Checkpointed(), Checkpointed()), config(target_modules=["0", "1"]))
    x = torch.randn(2, 5, 8, requires_grad=True)
    with pytest.raises(RLRRError, match="use_reentrant"):
        adapted_model.train()(x)
    with torch.no_grad():
        adapted_model(x)


def test_a_mixed_batch_casts_its_input_as_any_call_does():
    model = get_peft_model(blocks().bfloat16(), RLRRConfig(target_modules=["mlp"]), adapter_name="one").eval()
    layer = model.base_model.model[0].mlp
    x = torch.randn(2, 5, 8)
    assert layer(x, adapter_names=["one", "__base__"]).dtype == layer(x).dtype == torch.bfloat16
    assert layer.delta(x).dtype == torch.bfloat16


def beside_in_place(case, in_place: bool) -> PeftModel:
    """A model whose adapted layers are followed by an operation in place, or by the same in a tensor of its own."""
    model = adapted(case)

    def after(module, args, output):
        if not in_place:
            return (output * 0.5).relu()
        if torch.is_grad_enabled():
            return output.mul_(0.5).relu_()
        return torch.relu_(torch.mul(output, 0.5, out=output))

    for layer in layers(model).values():
        layer.register_forward_hook(after)
    return model


def test_operations_in_place_after_a_layer_change_neither_outputs_nor_gradients(case):
    found = []
    for in_place in (False, True):
        model, x = beside_in_place(case, in_place), inputs(case)
        with torch.no_grad():
            outputs = [model(x) for _ in range(3)]
        model.train()(x).square().sum().backward()
        found.append((outputs, {name: p.grad for name, p in model.named_parameters() if p.requires_grad}))
    assert any(gradient is not None and gradient.any() for gradient in found[0][1].values())
    torch.testing.assert_close(found[1], found[0])


@pytest.mark.parametrize("reentrant", [True, False])
def test_a_checkpoint_changes_no_gradient(case, reentrant):
    found = []
    for checkpointed in (False, True):
        model, x = adapted(case).train(), inputs(case).requires_grad_()
        output = checkpoint(model, x, use_reentrant=reentrant) if checkpointed else model(x)
        output.square().sum().backward()
        found.append({"x": x.grad} | {name: p.grad for name, p in model.named_parameters() if p.requires_grad})
    torch.testing.assert_close(found[1], found[0])


def test_gradients_can_be_differentiated_again(case):
    # torch's quick attention on a CPU has no second derivative
    with sdpa_kernel(SDPBackend.MATH):
        check_second_derivatives(case)


def check_second_derivatives(case):
    model, x = adapted(case), inputs(case, 2)
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    direction = {name: torch.ones_like(parameter) for name, parameter in trained.items()}

    def loss(values):
        return torch.func.functional_call(model, values, (x,)).square().sum()

    first = torch.autograd.grad(model(x).square().sum(), trained.values(), create_graph=True)
    twice = torch.autograd.grad(sum(gradient.sum() for gradient in first), trained.values())
    values = {name: parameter.detach() for name, parameter in trained.items()}
    gradients, along = torch.func.vjp(torch.func.grad(loss), values)
    torch.testing.assert_close(dict(zip(trained, first, strict=True)), gradients)
    torch.testing.assert_close(dict(zip(trained, twice, strict=True)), along(direction)[0])
