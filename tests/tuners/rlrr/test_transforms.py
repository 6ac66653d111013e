"""RLRR's linear under torch.func, forward mode, second derivatives and checkpoints, against the plain formula."""

import itertools

import pytest
import torch
from peft import get_peft_model
from tests.tuners.cases import blocks
from torch import nn
from torch.autograd import forward_ad
from torch.func import functional_call, grad, hessian, jacfwd, jacrev, jvp, vjp, vmap
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from rlrr import RLRRConfig
from rlrr.errors import RLRRError
from rlrr.tuners.rlrr.functional import rescaled_linear, rescaling

# torch itself, when forward mode is first used
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:FutureWarning")

FORMS = [
    {"sides": sides, "blocks": blocks, "residual": residual, "multiply_weight": multiply}
    for sides, blocks, residual, multiply in [
        ("both", 1, True, True),
        ("both", 3, True, True),
        ("out", 1, True, True),
        ("in", 1, True, True),
        ("both", 1, False, True),
        ("both", 1, True, False),
        ("both", 1, False, False),
    ]
]


@pytest.fixture(params=FORMS, ids=lambda form: "-".join(map(str, form.values())))
def form(request):
    return dict(request.param)


def tensors(form):
    """An input and a layer's tensors, then the two functions of them, ours and the plain formula."""
    generator = torch.Generator().manual_seed(0)
    draw = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.double)  # noqa: E731
    sides, blocks = form.pop("sides"), form.pop("blocks")
    weight, bias = draw(6, 4), draw(6)
    trained = {"shift": draw(6)}
    if sides != "in":
        trained["scale_out"] = draw(6, 2)
    if sides != "out":
        trained["scale_in"] = draw(2, 4) if blocks == 1 else draw(blocks, 2, 4)
    names = list(trained)

    def ours(x, *values):
        given = dict(zip(names, values, strict=True))
        vectors = (given.get("scale_out"), given.get("scale_in"), given["shift"])
        return rescaled_linear(x, weight, bias, *vectors, **form)

    def plain(x, *values):
        given = dict(zip(names, values, strict=True))
        changed = weight + rescaling(weight, given.get("scale_out"), given.get("scale_in"), **form)
        return F.linear(x, changed, bias + given["shift"])

    return (draw(3, 5, 4), *trained.values()), ours, plain


def scalar(function):
    return lambda *values: function(*values).sin().sum()


TRANSFORMS = {
    "grad": lambda f, values: grad(scalar(f), argnums=tuple(range(len(values))))(*values),
    "grad of grad": lambda f, values: grad(lambda *v: grad(scalar(f), argnums=1)(*v).sin().sum(), argnums=2)(*values),
    "jvp": lambda f, values: jvp(f, values, tuple(torch.ones_like(value) for value in values)),
    "vjp": lambda f, values: vjp(f, *values)[1](torch.ones(3, 5, 6, dtype=torch.double)),
    "jacrev": lambda f, values: jacrev(f, argnums=1)(*values),
    "jacfwd": lambda f, values: jacfwd(f, argnums=1)(*values),
    "hessian": lambda f, values: hessian(scalar(f), argnums=1)(*values),
    "vmap over inputs": lambda f, values: vmap(f, (0, *[None] * (len(values) - 1)))(*values),
    "vmap over vectors": lambda f, values: vmap(f, (None, *[0] * (len(values) - 1)))(
        values[0], *(torch.stack([value, 2 * value]) for value in values[1:])
    ),
    "gradients of each sample": lambda f, values: vmap(
        grad(scalar(f), argnums=tuple(range(1, len(values)))), (0, *[None] * (len(values) - 1))
    )(*values),
}


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_a_transform_of_torch_func_gives_what_it_gives_of_the_plain_formula(transform, form):
    values, ours, plain = tensors(form)
    torch.testing.assert_close(TRANSFORMS[transform](ours, values), TRANSFORMS[transform](plain, values))


def test_forward_mode_gives_the_plain_formulas_tangent(form):
    values, ours, plain = tensors(form)
    with forward_ad.dual_level():
        duals = [forward_ad.make_dual(value, torch.ones_like(value)) for value in values]
        torch.testing.assert_close(*(forward_ad.unpack_dual(f(*duals)).tangent for f in (ours, plain)))


def test_gradients_can_be_differentiated_again(form):
    values, ours, plain = tensors(form)

    def second(function):
        leaves = [value.clone().requires_grad_() for value in values]
        first = torch.autograd.grad(scalar(function)(*leaves), leaves, create_graph=True)
        penalty = sum(gradient.square().sum() for gradient in first)
        return *first, *torch.autograd.grad(penalty, leaves)

    torch.testing.assert_close(second(ours), second(plain))


def test_several_gradients_at_once_are_those_of_the_plain_formula(form):
    values, ours, plain = tensors(form)
    rows = torch.eye(6, dtype=torch.double)

    def batched(function):
        leaves = [value.clone().requires_grad_() for value in values]
        return torch.autograd.grad(function(*leaves).sum((0, 1)), leaves, rows, is_grads_batched=True)

    torch.testing.assert_close(batched(ours), batched(plain))


@pytest.mark.parametrize("reentrant", [True, False])
def test_a_checkpoint_gives_the_same_gradients(reentrant, form):
    values, ours, plain = tensors(form)

    def gradients(function):
        leaves = [value.clone().requires_grad_() for value in values]
        return torch.autograd.grad(scalar(function)(*leaves), leaves)

    def checkpointed():
        leaves = [value.clone().requires_grad_() for value in values]
        checkpoint(lambda *v: scalar(ours)(*v), *leaves, use_reentrant=reentrant).backward()
        return tuple(leaf.grad for leaf in leaves)

    torch.testing.assert_close(checkpointed(), gradients(plain))


def test_estimated_gradients_are_not_differentiated_again():
    values, ours, _ = tensors({"sides": "both", "blocks": 1, "tokens": 0.5})
    leaves = [value.requires_grad_() for value in values]
    with pytest.raises(RLRRError, match="gradient_tokens"):
        torch.autograd.grad(ours(*leaves).sum(), leaves, create_graph=True)


def model_and_tensors():
    torch.manual_seed(0)
    model = get_peft_model(blocks().double(), RLRRConfig(target_modules=["attn", "mlp", "norm"], init_weights=False))
    model.double()
    trained = {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}
    x = torch.randn(3, 5, 8, generator=torch.Generator().manual_seed(1), dtype=torch.double)
    return model, trained, x


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_a_model_is_called_with_other_tensors_and_its_kept_weights_stay_its_own(mode):
    model, trained, x = model_and_tensors()
    model.train(mode == "train")
    other = {name: tensor + 0.5 for name, tensor in trained.items()}
    with torch.no_grad():
        before = model(x)
        there = functional_call(model, other, (x,))
        assert torch.equal(model(x), before)
        model.load_state_dict(other, strict=False)
        torch.testing.assert_close(model(x), there)
    assert not torch.allclose(before, there)


@pytest.mark.parametrize("no_grad", [True, False])
def test_an_ensemble_of_adapters_runs_in_one_vmap(no_grad):
    model, trained, x = model_and_tensors()
    model.eval()
    many = {name: torch.stack([tensor, tensor + 0.5]) for name, tensor in trained.items()}
    with torch.set_grad_enabled(not no_grad):
        found = vmap(lambda values: functional_call(model, values, (x,)))(many)
        for row, outputs in enumerate(found):
            alone = functional_call(model, {name: tensor[row] for name, tensor in many.items()}, (x,))
            torch.testing.assert_close(outputs, alone)


def test_gradients_of_each_sample_are_those_of_a_loop():
    model, trained, x = model_and_tensors()

    def loss(values, sample):
        return functional_call(model, values, (sample[None],)).square().sum()

    each = vmap(grad(loss), (None, 0))(trained, x)
    for row, sample in enumerate(x):
        model.zero_grad()
        model(sample[None]).square().sum().backward()
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                torch.testing.assert_close(each[name][row], parameter.grad)


def change_in_place(y, kind):
    if kind == "relu":
        return nn.ReLU(inplace=True)(y)
    if kind == "addition":
        y += 1
    elif kind == "slice":
        y[..., 0] = 0
    else:
        y.mul_(y.detach().clone())
    return y


@pytest.mark.parametrize(
    ("kind", "where"), itertools.product(["relu", "addition", "slice", "product"], ["before", "after"])
)
def test_gradients_are_right_beside_operations_in_place(kind, where, form):
    values, ours, plain = tensors(form)

    def gradients(function):
        x, *leaves = (value.clone().requires_grad_() for value in values)
        given = change_in_place(x * 1, kind) if where == "before" else x
        output = function(given, *leaves)
        output = change_in_place(output, kind) if where == "after" else output
        return torch.autograd.grad(output.square().sum(), [x, *leaves])

    torch.testing.assert_close(gradients(ours), gradients(plain))


def test_an_input_that_is_written_into_after_its_layer_is_refused_as_autograd_does(form):
    values, ours, _ = tensors(form)
    x, *leaves = (value.clone().requires_grad_() for value in values)
    given = x * 1
    output = ours(given, *leaves)
    given += 1
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        output.sum().backward()
