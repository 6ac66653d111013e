"""Weights that another module reads past their layer: every method acts there as in a call, or refuses by name."""

import pytest
import torch
from peft import get_peft_model
from tests.tuners.cases import METHODS, WEIGHTS, shows
from torch import nn
from transformers import SiglipVisionConfig, SiglipVisionModel

from rlrr.errors import RLRRError


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, tokens):
        return self.attention(tokens, tokens, tokens)[0]


def encoder():
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
    return nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)


class Siglip(nn.Module):
    def __init__(self):
        super().__init__()
        sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
        self.vision = SiglipVisionModel(SiglipVisionConfig(image_size=16, patch_size=8, **sizes))

    def forward(self, images):
        return self.vision(images).pooler_output


MODELS = {
    "nn.MultiheadAttention": (Attention, (5, 8), r".*out_proj"),
    "nn.TransformerEncoder": (encoder, (5, 8), r".*(out_proj|linear[12])"),
    "norms of nn.TransformerEncoder": (encoder, (5, 8), r".*norm[12]"),
    "SigLIP's pooling head": (Siglip, (3, 16, 16), r".*head\.attention\.out_proj"),
}
CASES = [(name, method) for name in MODELS for method in METHODS if "norms" not in name or method == "ssf"]
MODES = {
    "inference": (False, torch.no_grad),
    "inference mode": (False, torch.inference_mode),
    "evaluation": (False, torch.enable_grad),
    "training": (True, torch.enable_grad),
}


def adapted(kind, method, *names):
    build, shape, targets = MODELS[kind]
    torch.manual_seed(0)
    model = get_peft_model(build().eval(), shows(method, targets), adapter_name="one")
    for name in names:
        model.add_adapter(name, shows(method, targets))
    return model.eval(), torch.randn(4, *shape, generator=torch.Generator().manual_seed(1))


def ways(call):
    """What a call gives, or that it was refused by name."""
    try:
        return call()
    except RLRRError as error:
        if "another module reads the weight" not in str(error).lower():
            raise
        return None


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("kind", "method"), CASES)
def test_an_adapter_acts_on_a_weight_that_is_read_or_is_refused(kind, method, mode):
    training, grad = MODES[mode]
    model, x = adapted(kind, method)
    with torch.no_grad(), model.disable_adapter():
        plain = model.train()(x)  # which takes no fast path
    model.train(training)
    with grad():
        found = ways(lambda: model(x))
    if found is None:
        assert method not in WEIGHTS
        return
    assert not torch.allclose(found, plain, atol=1e-4)
    if method in WEIGHTS:
        model.merge_adapter()
    with torch.no_grad():
        torch.testing.assert_close(model.train()(x), found, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("kind", "method"), [case for case in CASES if case[1] in WEIGHTS])
def test_a_weight_that_is_read_is_trained(kind, method):
    model, x = adapted(kind, method)
    model.train()(x).square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in model.parameters() if p.requires_grad)
    trained = [p for p in model.parameters() if p.requires_grad]
    directions = [torch.randn_like(p) for p in trained]
    slope = sum((p.grad * d).sum() for p, d in zip(trained, directions, strict=True))
    values = []
    with torch.no_grad():
        for step in (1e-2, -2e-2):
            for parameter, direction in zip(trained, directions, strict=True):
                parameter += step * direction
            values.append(model(x).double().square().sum())
    torch.testing.assert_close((values[0] - values[1]).float() / 2e-2, slope, rtol=0.05, atol=0.05)


@pytest.mark.parametrize(("kind", "method"), CASES)
def test_a_mixed_batch_acts_there_or_is_refused(kind, method):
    model, x = adapted(kind, method, "two")
    with torch.no_grad():
        for names in (["one", "two", "two", "one"], ["one"] * 4, ["two"] * 4, ["__base__"] * 4):
            mixed = ways(lambda names=names: model(x, adapter_names=names))
            if mixed is None:
                assert len(set(names)) > 1 or method not in WEIGHTS
                continue
            for row, name in enumerate(names):
                model.set_adapter("one" if name == "__base__" else name)
                if name == "__base__":
                    with model.disable_adapter():
                        alone = model(x[row : row + 1])
                else:
                    alone = model(x[row : row + 1])
                torch.testing.assert_close(mixed[row : row + 1], alone, rtol=1e-4, atol=1e-5)
            model.set_adapter("one")


@pytest.mark.parametrize("method", WEIGHTS)
def test_a_merged_weight_that_is_read_takes_no_mixed_batch(method):
    model, x = adapted("nn.MultiheadAttention", method, "two")
    model.merge_adapter(["one"])
    with torch.no_grad(), pytest.raises(ValueError, match="merged"):
        model(x, adapter_names=["one", "two", "two", "one"])


@pytest.mark.parametrize("method", WEIGHTS)
def test_a_weight_that_is_read_is_made_again_when_something_has_changed(method):
    model, x = adapted("nn.MultiheadAttention", method)
    with torch.no_grad():
        before = model(x)
        assert torch.equal(model(x), before)
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.data.mul_(2)
        after = model(x)
        model.merge_adapter()
        torch.testing.assert_close(model(x), after)
    assert not torch.allclose(before, after)


@pytest.mark.parametrize("method", METHODS)
def test_a_module_may_always_ask_for_facts_of_a_weight(method):
    class Casting(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(8, 8)

        def forward(self, x):
            weight = self.linear.weight
            assert weight.shape == (8, 8)
            assert weight.ndim == weight.dim() == 2
            assert not weight.is_cuda
            assert self.linear.bias is not None
            return self.linear(x.to(dtype=weight.dtype, device=weight.device))

    model = get_peft_model(Casting(), shows(method, ["linear"]), adapter_name="one")
    model.add_adapter("two", shows(method, ["linear"]))
    x = torch.randn(2, 8, dtype=torch.double)
    model.eval()(x)
    model(x, adapter_names=["one", "two"])
    model.train()(x)


@pytest.mark.parametrize("method", METHODS)
def test_a_weight_that_is_read_acts_in_an_exported_model_or_is_refused(method):
    model, x = adapted("nn.MultiheadAttention", method)
    base = model.base_model.model
    with torch.no_grad():
        exported = ways(lambda: torch.export.export(base, (x,)).module()(x))
        if exported is None:
            assert method not in WEIGHTS
        else:
            torch.testing.assert_close(exported, model(x))
