"""Mixed batches: rows that are no images, other threads, classifiers of several kinds, and no images at all."""

import copy
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from peft import get_peft_model
from tests.tuners.cases import CASES, METHODS, WEIGHTS, shows
from torch import nn
from torch.utils.checkpoint import checkpoint

from rlrr.errors import RLRRError
from rlrr.tuners.layer import AdaptedLayer
from rlrr.tuners.mixed import mixed_batch
from rlrr.tuners.reading import MIXED


class Plain(nn.Module):
    """Tokens of each image, one after the other: (images, tokens, features)."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(8, 8)

    def forward(self, x):
        return self.inner(x)


class Windows(Plain):
    def forward(self, x):
        return self.inner(x.unflatten(1, (2, 6)).flatten(0, 1)).unflatten(0, (len(x), 2)).flatten(1, 2)


class Flat(Plain):
    def forward(self, x):
        return self.inner(x.flatten(0, 1)).view_as(x)


class TokensFirst(Plain):
    def forward(self, x):
        return self.inner(x.transpose(0, 1)).transpose(0, 1)


class FlatTokensFirst(Plain):
    def forward(self, x):
        return self.inner(x.transpose(0, 1).flatten(0, 1)).unflatten(0, (x.shape[1], len(x))).transpose(0, 1)


class WindowsOfAllImages(Plain):
    """The first windows of all images, then the second ones."""

    def forward(self, x):
        windows = x.unflatten(1, (2, 6)).transpose(0, 1).flatten(0, 1)
        return self.inner(windows).unflatten(0, (2, len(x))).transpose(0, 1).flatten(1, 2)


class Backwards(Plain):
    def forward(self, x):
        return self.inner(x.flip(0)).flip(0)


class Positions(Plain):
    """Rows of a table of positions, of which there are 12 whatever the batch, as in the bias of Swin V2."""

    def __init__(self):
        super().__init__()
        self.register_buffer("table", torch.randn(12, 8))

    def forward(self, x):
        return x * self.inner(self.table)


class Prompt(Positions):
    """Learned tokens that all images share."""

    def forward(self, x):
        return x + self.inner(self.table[None].expand(len(x), -1, -1))


class OneForAll(Plain):
    """A gate of the whole batch."""

    def forward(self, x):
        return x * self.inner(x.mean((0, 1))[None])


class Expert(Plain):
    """Only some tokens are given, those of all images one after the other."""

    def forward(self, x):
        chosen = x[..., 0] > 0
        return x.masked_scatter(chosen[..., None], self.inner(x[chosen]))


class Twice(Plain):
    """By image in its first call, by position in the second."""

    def forward(self, x):
        return self.inner(self.inner(x).transpose(0, 1)).transpose(0, 1)


RIGHT = {"plain": Plain, "windows": Windows, "flat": Flat, "prompt": Prompt}
OTHERWISE = {
    "tokens first": TokensFirst,
    "flat, tokens first": FlatTokensFirst,
    "windows of all images": WindowsOfAllImages,
    "backwards": Backwards,
    "positions": Positions,
    "one for all": OneForAll,
    "expert": Expert,
    "twice": Twice,
}
SIZES = (2, 3, 4, 5, 6, 12)


def mixable(build, method):
    torch.manual_seed(0)
    model = get_peft_model(build().double(), shows(method, ["inner"]), adapter_name="one")
    model.add_adapter("two", shows(method, ["inner"]))
    return model.double().eval()


def images(count):
    return torch.randn(count, 12, 8, generator=torch.Generator().manual_seed(count), dtype=torch.double)


def names_of(count):
    return [("one", "two", "__base__")[index % 3] for index in range(count)]


def alone(model, x, names):
    """Each image in a batch of one."""
    rows = []
    for row, name in enumerate(names):
        if name == "__base__":
            with model.disable_adapter():
                rows.append(model(x[row : row + 1]))
        else:
            model.set_adapter(name)
            rows.append(model(x[row : row + 1]))
    return torch.cat(rows)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", RIGHT)
def test_rows_of_images_in_their_order_are_told_apart_at_any_size(kind, method):
    model = mixable(RIGHT[kind], method)
    with torch.no_grad():
        for count in SIZES:
            x, names = images(count), names_of(count)
            torch.testing.assert_close(model(x, adapter_names=names), alone(model, x, names))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", OTHERWISE)
@pytest.mark.parametrize("count", SIZES)
def test_rows_that_are_no_images_are_refused_at_any_size(count, kind, method):
    model = mixable(OTHERWISE[kind], method)
    x, names = images(count), names_of(count)
    with torch.no_grad():
        before = model(x)
        with pytest.raises(RLRRError, match="inner got"):
            model(x, adapter_names=names)
        torch.testing.assert_close(model(x, adapter_names=["one"] * count), before)
        model.set_adapter("two")
        torch.testing.assert_close(model(x, adapter_names=["two"] * count), model(x))
        with model.disable_adapter():
            torch.testing.assert_close(model(x), model(x, adapter_names=["__base__"] * count))


def test_whose_rows_are_whose_is_found_out_once_and_changes_nothing():
    calls = []

    class Counting(Plain):
        def forward(self, x):
            calls.append(len(x))
            return super().forward(x) + 0 * torch.rand(1, dtype=x.dtype)

    model = mixable(Counting, "rlrr")
    torch.manual_seed(5)
    with torch.no_grad():
        model(images(6), adapter_names=names_of(6))
        drawn = torch.rand(3)
        assert calls == [2, 2, 6]
        model(images(4), adapter_names=names_of(4))
        assert calls == [2, 2, 6, 4]
    torch.manual_seed(5)
    torch.rand(1, dtype=torch.double)
    assert torch.equal(torch.rand(3), drawn)
    assert not [module for module in model.modules() if module._forward_pre_hooks or module._forward_hooks]


@pytest.mark.parametrize("given", ["by name", "as integers", "with a mask", "in a dict"])
def test_it_is_found_out_for_any_kind_of_input(given):
    class Reading(nn.Module):
        def __init__(self, right):
            super().__init__()
            self.embed, self.inner, self.right = nn.Embedding(5, 8), nn.Linear(8, 8), right

        def forward(self, x, mask=None, more=None):
            x = more["x"][0] if x is None else x
            x = x if x.is_floating_point() else self.embed(x)
            x = x if mask is None else x * mask[..., None]
            x = self.inner(x if self.right else x.transpose(0, 1))
            return x if self.right else x.transpose(0, 1)

    x = images(4)
    tokens = torch.randint(0, 5, (4, 12), generator=torch.Generator().manual_seed(0))
    args, kwargs = {
        "by name": ((), {"x": x}),
        "as integers": ((tokens,), {}),
        "with a mask": ((x, torch.ones(4, 12, dtype=torch.double)), {}),
        "in a dict": ((None,), {"more": {"x": [x]}}),
    }[given]
    names = names_of(4)
    with torch.no_grad():
        model = mixable(lambda: Reading(True), "rlrr")
        mixed = model(*args, **kwargs, adapter_names=names)
        model.set_adapter("one")
        torch.testing.assert_close(mixed[0], model(*args, **kwargs)[0])
        with pytest.raises(RLRRError, match="inner got"):
            mixable(lambda: Reading(False), "rlrr")(*args, **kwargs, adapter_names=names)


@pytest.mark.parametrize("kind", ["a list of words", "a batch of four"])
def test_it_is_found_out_for_a_model_that_takes_no_fewer_samples(kind):
    class Fixed(TokensFirst):
        def forward(self, x, words=()):
            assert len(x) == (len(words) or 4)
            return super().forward(x)

    more = {"words": ["a"] * 4} if kind == "a list of words" else {}
    with torch.no_grad(), pytest.raises(RLRRError, match="inner got"):
        mixable(Fixed, "rlrr")(images(4), **more, adapter_names=names_of(4))


class Gate(nn.Module):
    """A place in a model at which a thread can be held."""

    held = None

    def forward(self, x):
        if self.held is not None:
            self.held()
        return x


def gated():
    return nn.Sequential(nn.Linear(8, 8), Gate(), nn.Linear(8, 8), nn.Linear(8, 3))


@pytest.mark.parametrize("other", ["no names", "other names"])
@pytest.mark.parametrize("method", METHODS)
def test_a_call_of_another_thread_inside_a_mixed_batch_is_right_and_so_is_the_batch(method, other):
    torch.manual_seed(0)
    config = lambda: shows(method, ["0", "2"], modules_to_save=["3"])  # noqa: E731
    model = get_peft_model(gated().double(), config(), adapter_name="one")
    model.add_adapter("two", config())
    model.double().eval()
    with torch.no_grad():
        for name in ("one", "two"):
            model.base_model.model[3].modules_to_save[name].weight.normal_()
    x, names = images(4), names_of(4)
    given = {"other names": {"adapter_names": names[::-1]}}.get(other, {})
    with torch.no_grad():
        mixed, theirs = model(x, adapter_names=names), model(x, **given)
    gate = next(module for module in model.modules() if isinstance(module, Gate))
    inside, go_on, first = threading.Event(), threading.Event(), threading.get_ident

    def run():
        mine = first()

        def hold():
            if first() == mine:
                inside.set()
                assert go_on.wait(10)

        gate.held = hold
        with torch.no_grad():
            return model(x, adapter_names=names)

    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(run)
        assert inside.wait(10)
        try:
            with torch.no_grad():
                found = model(x, **given)
        finally:
            go_on.set()
        assert torch.equal(found, theirs)
        assert torch.equal(future.result(), mixed)
    assert MIXED.get() is None
    assert not [module for module in model.modules() if module._forward_pre_hooks or module._forward_hooks]


def test_many_threads_with_and_without_names_do_not_meet():
    model = mixable(lambda: nn.Sequential(Plain(), Plain()), "rlrr")
    batches = [images(count) for count in (2, 3, 4, 5, 6)] * 3
    with torch.no_grad():
        model.set_adapter("one")
        expected = [model(x, adapter_names=names_of(len(x))) if row % 2 else model(x) for row, x in enumerate(batches)]

    def run(job):
        row, x = job
        with torch.no_grad():
            return [model(x, adapter_names=names_of(len(x))) if row % 2 else model(x) for _ in range(5)]

    other = copy.deepcopy(model)  # which finds out anew, in several threads at once
    for module in other.modules():
        module.__dict__.pop("rows_by_sample", None)
    model = other
    with ThreadPoolExecutor(4) as pool:
        for outputs, one in zip(pool.map(run, enumerate(batches)), expected, strict=True):
            for output in outputs:
                torch.testing.assert_close(output, one)


def test_a_batch_that_fails_leaves_nothing_behind():
    class Failing(Plain):
        fails = False

        def forward(self, x):
            if self.fails:
                raise KeyError("inside")
            return super().forward(x)

    model = mixable(Failing, "rlrr")
    x = images(4)
    with torch.no_grad():
        before = model(x)
        model.base_model.model.fails = True
        with pytest.raises(KeyError):
            model(x, adapter_names=names_of(4))
        model.base_model.model.fails = False
        assert MIXED.get() is None
        assert not [module for module in model.modules() if module._forward_pre_hooks or module._forward_hooks]
        assert torch.equal(model(x), before)
        torch.testing.assert_close(model(x, adapter_names=["one"] * 4), before)


class TwoHeads(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner, self.head, self.head_dist = nn.Linear(8, 8), nn.Linear(8, 3), nn.Linear(8, 3)

    def forward(self, x):
        x = self.inner(x)
        return (self.head(x[:, 0]) + self.head_dist(x[:, 1])) / 2


class Composite(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(8, 8)
        self.head = nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 4), nn.ReLU(inplace=True), nn.Linear(4, 3))

    def forward(self, x):
        return self.head(self.inner(x).mean(1))


class ByName(Composite):
    def forward(self, x):
        return self.head(input=self.inner(x).mean(1))


HEADS = {"two heads": (TwoHeads, ["head", "head_dist"]), "of several modules": (Composite, ["head"])}


def with_heads(kind, method, classes=(3, 3)):
    build, heads = HEADS[kind]
    torch.manual_seed(0)
    model = get_peft_model(build().double(), shows(method, ["inner"], modules_to_save=heads), adapter_name="one")
    model.add_adapter("two", shows(method, ["inner"], modules_to_save=heads))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".modules_to_save." in name:
                parameter.normal_()
    if classes[1] != 3:
        for head in heads:
            copies = getattr(model.base_model.model, head).modules_to_save
            copies["two"] = (
                nn.Linear(8, classes[1])
                if isinstance(copies["one"], nn.Linear)
                else nn.Sequential(nn.LayerNorm(8), nn.Linear(8, classes[1]))
            )
    return model.double().eval()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", HEADS)
def test_every_sample_has_the_classifiers_of_its_adapter(kind, method):
    model, x, names = with_heads(kind, method), images(6), names_of(6)
    with torch.no_grad():
        mixed = model(x, adapter_names=names)
        torch.testing.assert_close(mixed, alone(model, x, names))
        model.set_adapter("one")
        with model.disable_adapter():
            plain = model(x)
            torch.testing.assert_close(model(x, adapter_names=names), plain)
        if method in WEIGHTS:
            one = model(x)
            torch.testing.assert_close(model.merge_and_unload()(x), one)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", HEADS)
def test_classifiers_of_different_numbers_of_classes_are_refused_in_one_batch(kind, method):
    model, x = with_heads(kind, method, classes=(3, 5)), images(4)
    with torch.no_grad():
        with pytest.raises(RLRRError, match="different shapes"):
            model(x, adapter_names=["one", "two", "one", "two"])
        assert model(x, adapter_names=["two"] * 4).shape == (4, 5)
        assert model(x, adapter_names=["one"] * 4).shape == (4, 3)


def test_a_classifier_that_is_given_its_input_by_name_is_refused_in_a_mixed_batch_alone():
    HEADS["by name"] = (ByName, ["head"])
    try:
        model, x = with_heads("by name", "rlrr"), images(4)
    finally:
        del HEADS["by name"]
    with torch.no_grad():
        with pytest.raises(RLRRError, match="give a batch one adapter"):
            model(x, adapter_names=names_of(4))
        torch.testing.assert_close(model(x, adapter_names=["one"] * 4), model(x))


@pytest.mark.parametrize("name", CASES)
def test_a_batch_of_no_images_gives_no_outputs_in_every_mode(name):
    case = CASES[name]
    model = get_peft_model(case.model(), case.config(), adapter_name="one")
    model.add_adapter("two", case.config())
    one, none = torch.randn(1, *case.shape), torch.randn(0, *case.shape)
    for grad in (torch.no_grad, torch.enable_grad):
        with grad():
            model.eval()
            shape = (0, *model(one).shape[1:])
            assert model(none).shape == model(none, adapter_names=[]).shape == shape
            with model.disable_adapter():
                assert model(none).shape == model(none, adapter_names=[]).shape == shape
            assert model.train()(none).shape == shape
    output = model(none.requires_grad_())
    output.sum().backward()
    assert all(not p.grad.any() for p in model.parameters() if p.requires_grad and p.grad is not None)
    for layer in model.eval().modules():
        if isinstance(layer, AdaptedLayer) and case.shape == (5, 8):
            assert layer(none, adapter_names=[]).shape == (0, 5, 8)
            assert layer.delta(none).shape == (0, 5, 8)
    with pytest.raises(ValueError, match="adapter_names"):
        model(none, adapter_names=["one"])
    with pytest.raises(ValueError, match="adapter_names"):
        model(one, adapter_names=[])


def test_estimated_gradients_of_no_images_are_zero():
    model = get_peft_model(Plain(), shows("rlrr", ["inner"], gradient_tokens=0.5)).train()
    model(torch.randn(0, 12, 8)).sum().backward()
    assert all(not p.grad.any() for p in model.parameters() if p.requires_grad)


@pytest.mark.parametrize("method", METHODS)
def test_a_compiled_model_takes_no_mixed_batch(method):
    model = mixable(lambda: nn.Sequential(Plain()), method)
    model.base_model.model[0].compile(backend="eager")
    with pytest.raises(RLRRError, match="compiled"):
        model(images(4), adapter_names=names_of(4))


def test_parts_that_run_in_other_threads_take_no_mixed_batch():
    model = mixable(lambda: nn.DataParallel(Plain()), "rlrr")
    with pytest.raises(RLRRError, match="DataParallel"):
        model(images(4), adapter_names=names_of(4))


@pytest.mark.parametrize("flag", [True, False])
def test_a_thread_that_sees_the_hook_of_a_classifier_half_put_on_is_not_disturbed(flag):
    model, x, names = with_heads("two heads", "rlrr"), images(4), names_of(4)
    with torch.no_grad():
        plain = model(x)
        with ThreadPoolExecutor(1) as pool, mixed_batch(model, names):
            for module in model.modules():
                if not flag:  # as between the two steps in which torch puts a hook on
                    module._forward_hooks_with_kwargs.clear()
            torch.testing.assert_close(pool.submit(model, x).result().detach(), plain)


@pytest.mark.parametrize("method", METHODS)
def test_a_mixed_batch_is_not_run_again_in_a_backward_pass(method):
    class Checkpointing(Plain):
        grad_checkpointing = True

        def forward(self, x):
            return (
                checkpoint(super().forward, x, use_reentrant=False) if torch.is_grad_enabled() else super().forward(x)
            )

    model = mixable(Checkpointing, method)
    x, names = images(4), names_of(4)
    with pytest.raises(RLRRError, match="checkpointing"):
        model(x, adapter_names=names)
    with torch.no_grad():
        torch.testing.assert_close(model(x, adapter_names=names), alone(model, x, names))
