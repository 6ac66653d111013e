"""One adapted layer at a time: every form of the method against its formula, merged and in mixed batches."""

import copy
import itertools
import math
from collections import OrderedDict

import pytest
import torch
from peft import get_peft_model
from torch import nn
from torch.nn import functional as F

from rlrr import RLRRConfig
from rlrr.errors import RLRRError
from rlrr.tuners.rlrr.functional import scale_matrix

IN, OUT = 5, 6
FORMS = [
    {"rank": rank, "sides": sides, "residual": residual, "multiply_weight": multiply, "shift": shift, "fused_blocks": n}
    for rank, sides, residual, multiply, shift, n in itertools.product(
        (1, 3), ("both", "in", "out"), (True, False), (True, False), (True, False), (1, 3)
    )
    if (sides == "both" or (rank == 1 and multiply)) and (residual or multiply)
]


def identify(form):
    return "-".join(map(str, form.values()))


every_form = pytest.mark.parametrize("form", FORMS, ids=identify)


def adapted(base, names=("default",), **settings):
    """A model of one layer named `qkv`, with an adapter for each name, all drawn at random."""
    torch.manual_seed(0)
    config = {"target_modules": ["qkv"], "init_weights": False, **settings}
    model = get_peft_model(nn.Sequential(OrderedDict(qkv=base)), RLRRConfig(**config), adapter_name=names[0])
    for name in names[1:]:
        model.add_adapter(name, RLRRConfig(**config))
    return model.eval()


def linear(bias=True):
    torch.manual_seed(1)
    return nn.Linear(IN, OUT, bias=bias)


def images(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(2))


def by_formula(layer, name, form):
    """W' and b' of the adapter, element by element in double precision."""
    weight, bias = (
        None if p is None else p.detach().double() for p in (layer.base_layer.weight, layer.base_layer.bias)
    )
    scale_out, scale_in, shift = (
        vectors[name].detach().double() if name in vectors else None
        for vectors in (layer.rlrr_scale_out, layer.rlrr_scale_in, layer.rlrr_shift)
    )
    changed = torch.empty_like(weight)
    for i, j in itertools.product(range(OUT), range(IN)):
        scale = 0.0
        for k in range(form["rank"]):
            term = 1.0 if scale_out is None else scale_out[i, k]
            if scale_in is not None:
                of_block = scale_in if form["fused_blocks"] == 1 else scale_in[i * form["fused_blocks"] // OUT]
                term = term * of_block[k, j]
            scale = scale + term
        changed[i, j] = weight[i, j] * form["residual"] + scale * (weight[i, j] if form["multiply_weight"] else 1)
    bias = torch.zeros(OUT).double() if bias is None else bias
    return changed, bias if shift is None else bias + shift


@every_form
def test_forward_merged_and_mixed_are_the_formula(form):
    names = ("default", "other")
    model = adapted(linear(), names, **form)
    layer = model.base_model.model.qkv
    assert [bool(len(v)) for v in (layer.rlrr_scale_out, layer.rlrr_scale_in, layer.rlrr_shift)] == [
        form["sides"] != "in",
        form["sides"] != "out",
        form["shift"],
    ]
    x = images(3, 4, IN)
    expected = {}
    for name in names:
        weight, bias = by_formula(layer, name, form)
        expected[name] = F.linear(x.double(), weight, bias).float()
        model.set_adapter(name)
        torch.testing.assert_close(model(x), expected[name])
        model.merge_adapter([name])
        torch.testing.assert_close(layer.base_layer.weight, weight.float())
        torch.testing.assert_close(model(x), expected[name])
        model.unmerge_adapter()
    assert not torch.allclose(expected["default"], expected["other"])
    mixed = model(x, adapter_names=["other", "__base__", "default"])
    torch.testing.assert_close(mixed[0], expected["other"][0])
    torch.testing.assert_close(mixed[1], layer.base_layer(x[1]))
    torch.testing.assert_close(mixed[2], expected["default"][2])


@pytest.mark.parametrize("bias", [True, False])
@every_form
def test_the_identity_start_is_one_and_can_train(form, bias):
    base = linear(bias)
    x = images(3, IN)
    before = base(x)
    model = adapted(base, **form, init_weights=True)
    after = model(x)
    assert torch.equal(after, before)
    after.pow(3).sum().backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if "rlrr_scale" in name}
    assert any(gradient.any() for gradient in gradients.values())
    if form["rank"] > 1:  # its terms must not stay copies of each other
        scale_in = model.base_model.model.qkv.rlrr_scale_in["default"]
        assert scale_in.detach().unique(dim=-2).shape[-2] == form["rank"]


def test_a_fused_linear_is_three_linears_with_vectors_of_their_own():
    torch.manual_seed(0)
    names = ("default", "other")
    fused = adapted(nn.Linear(IN, 3 * OUT), names, fused_blocks=3, rank=2)
    layer = fused.base_model.model.qkv
    x = images(4, 7, IN)
    order = ["other", "default", "__base__", "other"]
    alone, mixed = [], []
    for block in range(3):
        rows = slice(block * OUT, (block + 1) * OUT)
        part = linear()
        part.weight.data, part.bias.data = layer.base_layer.weight[rows].clone(), layer.base_layer.bias[rows].clone()
        one = adapted(part, names, fused_blocks=1, rank=2)
        for name in names:
            target = one.base_model.model.qkv
            target.rlrr_scale_out[name].data = layer.rlrr_scale_out[name][rows].detach()
            target.rlrr_scale_in[name].data = layer.rlrr_scale_in[name][block].detach()
            target.rlrr_shift[name].data = layer.rlrr_shift[name][rows].detach()
        alone.append(one(x))
        mixed.append(one(x, adapter_names=order))
    torch.testing.assert_close(fused(x), torch.cat(alone, -1))
    torch.testing.assert_close(fused(x, adapter_names=order), torch.cat(mixed, -1))


def test_adapters_of_different_forms_share_a_batch():
    model = adapted(linear(), rank=3)
    others = {
        "thin": {"rank": 1},
        "one_side": {"sides": "out"},
        "no_shift": {"rank": 3, "shift": False},
        "without_w": {"rank": 3, "multiply_weight": False},
    }
    for name, settings in others.items():
        model.add_adapter(name, RLRRConfig(target_modules=["qkv"], init_weights=False, **settings))
    order = ["thin", "default", "without_w", "one_side", "no_shift", "default"]
    x = images(len(order), 2, IN)
    mixed = model(x, adapter_names=order)
    for row, name in enumerate(order):
        model.set_adapter(name)
        torch.testing.assert_close(mixed[row], model(x)[row])


@pytest.fixture(params=["together", "one by one"])
def way(request, monkeypatch):
    """How a linear runs the adapters of a mixed batch, which it chooses by their tokens."""
    monkeypatch.setattr(
        "rlrr.tuners.rlrr.layer.TOKENS_FOR_OWN_WEIGHT", 0 if request.param == "one by one" else math.inf
    )
    monkeypatch.setattr(
        "rlrr.tuners.rlrr.layer.TOKENS_WHERE_PRODUCTS_ARE_QUICK", 0 if request.param == "one by one" else math.inf
    )
    return request.param


@every_form
def test_a_mixed_batch_gives_what_its_samples_give_alone_and_so_do_its_gradients(form, way):
    names = ("default", "other", "third")
    model = adapted(linear(), names, **form)
    layer = model.base_model.model.qkv
    order = ["third", "__base__", "default", "third", "other"]
    x = images(len(order), 4, IN)
    vectors = [vector for name, vector in layer.named_parameters() if "rlrr_" in name]
    for vector in vectors:
        vector.requires_grad_(True)

    def gradients(outputs):
        loss = sum(output.square().sum() for output in outputs)
        return torch.autograd.grad(loss, vectors)

    alone = []
    for row, name in enumerate(order):
        output = F.linear(x[row], layer.base_layer.weight, layer.base_layer.bias)
        if name != "__base__":
            output = layer.call_base(x[row], *layer.effective([name]))
        alone.append(output)
    mixed = model(x, adapter_names=order)
    torch.testing.assert_close(mixed, torch.stack(alone))
    torch.testing.assert_close(gradients(mixed), gradients(alone), rtol=1e-4, atol=1e-4)


def test_a_linear_runs_adapters_one_by_one_if_each_has_tokens_enough(monkeypatch):
    model = adapted(linear(), ("default", "other"))
    ways = []
    for way in ("forward_per_sample", "call_anew"):
        original = getattr(model.base_model.model.qkv, way)
        spy = lambda *args, way=way, original=original: ways.append(way) or original(*args)  # noqa: E731
        monkeypatch.setattr(model.base_model.model.qkv, way, spy)
    for tokens in (2, 500):
        model(images(2, tokens, IN), adapter_names=["default", "other"])
    assert ways == ["forward_per_sample", "call_anew", "call_anew"]
    ways.clear()
    with torch.autocast("cpu", torch.bfloat16):  # where a product is quick
        model(images(2, 500, IN), adapter_names=["default", "other"])
    assert ways == ["forward_per_sample"]


@pytest.mark.parametrize("kind", ["linear", "norm"])
def test_a_sample_may_be_several_rows_that_follow_each_other(kind, way):
    build, (_, *shape), settings = BASES[kind]
    model = adapted(build(), ("default", "other"), **settings)
    x = images(6, *shape)
    for second in ("other", "__base__"):
        order = ["default", second, "default"]
        windows = [name for name in order for _ in range(2)]
        torch.testing.assert_close(model.base_model.model.qkv(x, adapter_names=order), model(x, adapter_names=windows))


@pytest.mark.parametrize("kind", ["linear", "norm", "convolution", "kernel"])
def test_a_mixed_batch_under_autocast_is_its_samples_under_autocast(kind, way):
    build, shape, settings = BASES[kind]
    model = adapted(build(), ("default", "other"), **settings)
    x = images(*shape)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = model(x, adapter_names=["other", "default", "other"])
        for rows, name in ([0, 2], "other"), ([1], "default"):
            model.set_adapter(name)
            alone = model(x)
            assert mixed.dtype == alone.dtype
            torch.testing.assert_close(mixed[rows], alone[rows], rtol=0.05, atol=0.05)


# Layers with something missing, and those of other kinds

RESCALED = {"convolutions": "rescale"}
# the layer, the shape of its images, settings
BASES = {
    "linear": (linear, (3, 4, IN), {}),
    "linear without bias": (lambda: linear(bias=False), (3, 4, IN), {}),
    "norm": (lambda: nn.LayerNorm(IN), (3, 4, IN), {}),
    "norm without bias": (lambda: nn.LayerNorm(IN, bias=False), (3, 4, IN), {}),
    "norm without weight": (lambda: nn.LayerNorm(IN, elementwise_affine=False), (3, 4, IN), {}),
    "convolution": (lambda: nn.Conv2d(2, 4, 3, stride=2, padding=1, padding_mode="reflect"), (3, 2, 6, 6), {}),
    "convolution in groups, without bias": (lambda: nn.Conv2d(4, 6, 3, groups=2, bias=False), (3, 4, 6, 6), {}),
    "kernel": (lambda: nn.Conv2d(2, 4, 3, stride=2, padding=1, padding_mode="reflect"), (3, 2, 6, 6), RESCALED),
    "kernel in groups, without bias": (lambda: nn.Conv2d(4, 6, 3, groups=2, bias=False), (3, 4, 6, 6), RESCALED),
    "kernel, dilated and not square": (lambda: nn.Conv2d(2, 4, (1, 3), dilation=2), (3, 2, 6, 6), RESCALED),
}


def kept(base):
    return {name: p.detach().clone() for name, p in base.state_dict().items()}


@pytest.mark.filterwarnings("ignore:Already following adapters were merged")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", BASES)
def test_merging_changes_no_output_and_unmerging_leaves_no_trace(kind, dtype):
    build, shape, settings = BASES[kind]
    base = build().to(dtype)
    x = images(*shape).to(dtype)
    before, plain = kept(base), base(x)
    model = adapted(base, ("default", "other"), **settings)
    output = model(x)
    assert not torch.allclose(output.float(), plain.float(), atol=1e-3)
    assert all(p.dtype == torch.float32 for name, p in model.named_parameters() if "rlrr_" in name)

    model.merge_adapter()
    torch.testing.assert_close(model(x).float(), output.float(), rtol=0, atol=1e-5 if dtype == torch.float32 else 0.02)
    model.unmerge_adapter()
    assert kept(base).keys() == before.keys()
    assert all(torch.equal(value, before[name]) for name, value in base.state_dict().items())

    model.merge_adapter(["default"])
    model.merge_adapter(["other"])
    one_by_one = kept(base)
    model.unmerge_adapter()
    model.merge_adapter(["default", "other"])
    assert all(torch.equal(value, one_by_one[name]) for name, value in base.state_dict().items())
    with model.disable_adapter():  # also takes them out
        assert torch.equal(model(x), plain)
    assert torch.equal(model(x).to(dtype), output.to(dtype))


@pytest.mark.parametrize("kind", BASES)
def test_a_mixed_batch_is_its_samples_one_by_one(kind):
    build, shape, settings = BASES[kind]
    base = build()
    x = images(*shape)
    plain = base(x)
    model = adapted(base, ("default", "other"), **settings)
    mixed = model(x, adapter_names=["other", "__base__", "default"])
    torch.testing.assert_close(mixed[1], plain[1])
    torch.testing.assert_close(mixed[2], model(x)[2])
    model.set_adapter("other")
    torch.testing.assert_close(mixed[0], model(x)[0])


@pytest.mark.parametrize("kind", ["norm", "norm without weight", "convolution"])
def test_norms_and_convolutions_gain_a_scale_and_a_shift_of_their_output(kind):
    build, shape, _ = BASES[kind]
    base = build()
    x = images(*shape)
    model = adapted(base)
    layer = model.base_model.model.qkv
    scale, shift = layer.rlrr_scale["default"], layer.rlrr_shift["default"]
    broadcast = (-1, 1, 1) if kind == "convolution" else (-1,)
    torch.testing.assert_close(model(x), base(x) * scale.view(broadcast) + shift.view(broadcast))


def test_weights_merged_in_one_precision_come_back_in_the_one_they_have_now():
    base = linear()
    before = kept(base)
    model = adapted(base)
    model.merge_adapter()
    model.to(torch.bfloat16)
    model.unmerge_adapter()
    assert all(torch.equal(value, before[name].bfloat16()) for name, value in base.state_dict().items())


def test_a_merge_that_is_not_finite_is_refused_if_asked_to_be_safe():
    base = linear()
    model = adapted(base)
    model.base_model.model.qkv.rlrr_scale_in["default"].data[0, 0] = math.nan
    before = kept(base)
    with pytest.raises(ValueError, match="broken"):
        model.merge_adapter(safe_merge=True)
    assert all(torch.equal(value, before[name]) for name, value in base.state_dict().items())


# The start of the paper's code


@pytest.mark.parametrize("rank", [1, 4])
def test_linears_start_as_in_the_papers_code(rank):
    features = 3 * 1024
    model = adapted(nn.Linear(features, features), init_weights="paper", rank=rank, fused_blocks=3)
    layer = model.base_model.model.qkv
    for vectors, bound in ((layer.rlrr_scale_out, math.sqrt(6 / rank)), (layer.rlrr_scale_in, math.sqrt(6 / features))):
        values = vectors["default"].detach() / bound  # uniform in ±1
        assert 0.99 < values.abs().max() <= 1
        assert values.mean().abs() < 0.05
        assert values.var().item() == pytest.approx(1 / 3, rel=0.05)
    assert not layer.rlrr_shift["default"].any()


@pytest.mark.parametrize("base", [nn.LayerNorm(4096), nn.Conv2d(1, 4096, 1)], ids=["norm", "convolution"])
def test_norms_and_convolutions_start_as_in_the_papers_code(base):
    layer = adapted(base, init_weights="paper").base_model.model.qkv
    for vectors, mean in ((layer.rlrr_scale, 1), (layer.rlrr_shift, 0)):
        values = vectors["default"].detach()
        assert values.mean().item() == pytest.approx(mean, abs=0.002)
        assert values.std().item() == pytest.approx(0.02, rel=0.05)


# The other starts of Table 10

WIDE_IN, WIDE_OUT = 512, 768
KURTOSIS = {"normal": 3, "uniform": 9 / 5, "constant": 1}  # of the fourth moment to the square of the second


def started(**settings):
    layer = adapted(nn.Linear(WIDE_IN, WIDE_OUT), **settings).base_model.model.qkv
    return [v["default"].detach() if "default" in v else None for v in (layer.rlrr_scale_out, layer.rlrr_scale_in)]


@pytest.mark.parametrize(
    ("start", "rank", "sides"),
    [
        (start, rank, sides)
        for start, rank, sides in itertools.product(KURTOSIS, (1, 4), ("both", "in", "out"))
        if rank == 1 or (start != "constant" and sides == "both")
    ],
)
def test_the_distribution_alone_differs_from_the_papers_start(start, rank, sides):
    scales = started(init_weights=start, rank=rank, sides=sides)
    for vectors in scales:
        if vectors is not None:
            square = vectors.square().mean()
            assert (vectors**4).mean() / square**2 == pytest.approx(KURTOSIS[start], rel=0.25)
    assert scale_matrix(*scales).square().mean().sqrt() == pytest.approx(2 / math.sqrt(WIDE_IN), rel=0.1)
    if sides == "both":  # evenly shared
        assert scales[0].square().mean() == pytest.approx(scales[1].square().mean().item(), rel=0.2)


@pytest.mark.parametrize("rank", [1, 4])
@pytest.mark.parametrize("start", ["normal", "uniform"])
def test_without_the_residual_the_rescaling_starts_near_one(start, rank):
    scale_out, scale_in = started(init_weights=start, rank=rank, residual=False)
    for vectors in (scale_out.T, scale_in):
        spread = vectors - torch.eye(rank)[:, :1]
        assert spread.std(-1).numpy() == pytest.approx(0.02, rel=0.15)
        assert spread.abs().max() <= 0.02 * (math.sqrt(3) if start == "uniform" else 6)
    assert (scale_out @ scale_in - 1).abs().mean() < 0.03


def test_without_the_residual_the_constant_start_is_one_exactly():
    assert all((vectors == 1).all() for vectors in started(init_weights="constant", residual=False))


@pytest.mark.parametrize("start", ["normal", "uniform", "constant", "identity"])
def test_shifts_start_at_zero_and_norms_as_in_the_paper_or_exactly_at_one(start):
    assert not adapted(linear(), init_weights=start).base_model.model.qkv.rlrr_shift["default"].any()
    norm = adapted(nn.LayerNorm(4096), init_weights=start).base_model.model.qkv
    spread = 0 if start in ("constant", "identity") else 0.02
    assert norm.rlrr_scale["default"].std().item() == pytest.approx(spread, rel=0.05)
    assert norm.rlrr_scale["default"].mean().item() == pytest.approx(1, abs=0.05 * spread)
    assert norm.rlrr_shift["default"].std().item() == pytest.approx(spread, rel=0.05)


# What cannot be


def test_blocks_that_do_not_divide_the_outputs_are_refused():
    with pytest.raises(RLRRError, match="fused_blocks=4 does not divide the 6 outputs"):
        adapted(linear(), fused_blocks=4)


class ChannelsFirst(nn.LayerNorm):
    def forward(self, x):
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)


class Standardised(nn.Conv2d):
    def forward(self, x):
        return self._conv_forward(x, F.normalize(self.weight), self.bias)


@pytest.mark.parametrize(
    "base",
    [
        nn.GELU(),
        nn.Identity(),
        ChannelsFirst(4),
        Standardised(2, 2, 1),
        nn.Conv1d(1, 1, 1),
        nn.ConvTranspose2d(1, 1, 1),
    ],
)
def test_a_layer_that_computes_something_else_is_refused_by_name(base):
    for convolutions in ("scale", "rescale"):
        with pytest.raises(RLRRError, match=f"cannot adapt qkv, a {type(base).__name__}"):
            adapted(base, convolutions=convolutions)


def count_builds(layer, monkeypatch):
    builds = []
    make = layer.effective
    monkeypatch.setattr(layer, "effective", lambda names: builds.append(names) or make(names))
    return builds


@torch.no_grad()
def test_without_gradients_the_weight_is_made_once(monkeypatch):
    model = adapted(nn.Linear(IN, OUT))
    builds = count_builds(model.base_model.model.qkv, monkeypatch)
    x = torch.randn(2, IN)
    torch.testing.assert_close(model(x), model(x), rtol=0, atol=0)
    assert len(builds) == 1


def change_a_vector(model):
    model.base_model.model.qkv.rlrr_scale_in["default"].add_(1)


def replace_a_vector(model):
    model.base_model.model.qkv.rlrr_shift["default"].data = torch.ones(OUT)


def load_other_vectors(model):
    model.load_state_dict({name: tensor + 1 for name, tensor in model.state_dict().items()})


def choose_another_adapter(model):
    model.set_adapter("other")


def change_behind_torchs_back(model):
    model.base_model.model.qkv.rlrr_shift["default"].data += 1
    model.eval()


def change_precision(model):
    model.double()


@pytest.mark.parametrize(
    "change",
    [
        change_a_vector,
        replace_a_vector,
        load_other_vectors,
        choose_another_adapter,
        change_behind_torchs_back,
        change_precision,
    ],
)
@torch.no_grad()
def test_it_is_made_again_when_what_it_depends_on_has_changed(change):
    model = adapted(nn.Linear(IN, OUT), names=("default", "other"))
    x = torch.randn(2, IN)
    before = model(x)
    change(model)
    x = x.to(model.base_model.model.qkv.weight.dtype)
    after = model(x)
    assert not torch.equal(before, after)
    layer = model.base_model.model.qkv
    torch.testing.assert_close(after, F.linear(x, *layer.effective(layer.active_adapters)))


def test_training_forgets_the_weight():
    model = adapted(nn.Linear(IN, OUT))
    with torch.no_grad():
        model(torch.randn(2, IN))
    assert model.base_model.model.qkv._cached is not None
    model.train()
    assert model.base_model.model.qkv._cached is None


def test_gradients_are_estimated_in_training_alone():
    x = torch.randn(4, 50, IN)
    base = nn.Linear(IN, OUT)
    found = {}
    for tokens in (1.0, 0.2):
        model = adapted(copy.deepcopy(base), gradient_tokens=tokens)
        for mode in (True, False):
            model.train(mode).zero_grad()
            model(x).square().sum().backward()
            found[tokens, mode] = model.base_model.model.qkv.rlrr_scale_in["default"].grad.clone()
    assert torch.equal(found[1.0, False], found[0.2, False])
    assert not torch.equal(found[1.0, True], found[0.2, True])


def test_the_weight_is_made_in_the_vectors_dtype_under_autocast_even_of_tensors_whose_changes_are_not_counted():
    base = nn.Linear(IN, OUT)
    counted = adapted(copy.deepcopy(base), rank=3)
    x = torch.randn(2, IN)
    with torch.inference_mode():
        uncounted = adapted(copy.deepcopy(base), rank=3)
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(uncounted(x), counted(x))
