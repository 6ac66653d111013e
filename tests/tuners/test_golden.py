"""Logits, gradients, training steps and dropout of the authors' own code, for every method in `cases.GOLDEN`."""

import json
from pathlib import Path

import pytest
import timm
import torch
from peft import get_peft_model, get_peft_model_state_dict
from safetensors import safe_open
from tests.tuners.cases import GOLDEN
from torch.nn import functional as F

FOLDER = Path(__file__).parents[1] / "golden" / "methods"
EXACT = 1e-6  # of the largest value: computed in double precision there and here, stored in single


class Numbers:
    """A golden file, and the model it tells of."""

    def __init__(self, method: str) -> None:
        self.golden = GOLDEN[method]
        with safe_open(FOLDER / f"{method}.safetensors", "pt") as file:
            self.facts = file.metadata()
            self.tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118

    def __getitem__(self, name: str) -> torch.Tensor:
        tensor = self.tensors[name]
        return tensor.double() if tensor.is_floating_point() else tensor

    def of(self, prefix: str) -> dict[str, torch.Tensor]:
        return {name.removeprefix(prefix): self[name] for name in self.tensors if name.startswith(prefix)}

    def fact(self, name: str):
        return json.loads(self.facts[name])

    def model(self):
        """The adapted model with the authors' tensors, in double precision and training mode."""
        facts = {name: self.fact(name) for name in ("img_size", "patch_size", "num_heads", "num_classes")}
        facts |= {"embed_dim": self.fact("hidden_size"), "depth": self.fact("num_layers")}
        facts["mlp_ratio"] = self.fact("mlp_dim") / self.fact("hidden_size")
        backbone = timm.create_model("vit_tiny_patch16_224", **facts).double()
        backbone.load_state_dict(self.of("base."))
        assert close(backbone.eval()(self["x"]), self["plain.logits"])
        model = get_peft_model(backbone, self.golden.config).double()
        parameters = self.parameters(model)
        official = {name: value for name, value in self.of("official.").items() if value.is_floating_point()}
        assert parameters.keys() == {self.golden.rename(name) for name in official}
        with torch.no_grad():
            for name, value in official.items():
                parameter = parameters[self.golden.rename(name)]
                parameter.copy_(value.reshape(parameter.shape))  # theirs may be of a convolution of size 1
        return model.train()

    def parameters(self, model) -> dict[str, torch.nn.Parameter]:
        """All that is trained, by its name in a saved adapter."""
        saved = get_peft_model_state_dict(model)
        by_address = {tensor.data_ptr(): name.removeprefix("base_model.model.") for name, tensor in saved.items()}
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        return {by_address[parameter.data_ptr()]: parameter for parameter in trained}


def close(found: torch.Tensor, expected: torch.Tensor, tolerance: float = EXACT) -> bool:
    return (found - expected).abs().max() <= tolerance * expected.abs().max()


@pytest.fixture(params=list(GOLDEN), scope="module")
def numbers(request) -> Numbers:
    return Numbers(request.param)


@pytest.fixture
def without_dropout(monkeypatch):
    monkeypatch.setattr(F, "dropout", lambda x, *args, **kwargs: x)
    monkeypatch.setattr(torch.Tensor, "bernoulli_", lambda kept, share: kept.fill_(share))  # as drop path draws


@torch.no_grad()
def test_logits_are_those_of_the_authors_code(numbers):
    model = numbers.model().eval()
    assert close(model(numbers["x"]), numbers["eval.logits"])
    assert close(model.float()(numbers["x"].float()).double(), numbers["eval.logits"], 1e-5)


def test_loss_and_gradients_are_those_of_the_authors_code(numbers, without_dropout):
    model = numbers.model()
    loss = F.cross_entropy(model(numbers["x"]), numbers["y"])
    assert close(loss, numbers["train.loss"])
    loss.backward()
    parameters = numbers.parameters(model)
    gradients = {numbers.golden.rename(name): value for name, value in numbers.of("grad.").items()}
    assert gradients.keys() == parameters.keys()
    for name, gradient in gradients.items():
        found = parameters[name].grad
        assert close(found, gradient.reshape(found.shape)), name


def test_three_steps_are_those_of_the_authors_code(numbers, without_dropout):
    model = numbers.model()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=numbers.fact("lr"), weight_decay=numbers.fact("weight_decay"))
    for expected in numbers["train.losses"]:
        loss = F.cross_entropy(model(numbers["x"]), numbers["y"])
        assert close(loss, expected)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert close(model.eval()(numbers["x"]), numbers["trained.logits"])


def test_dropout_is_where_the_authors_have_it(numbers, monkeypatch):
    if "dropout.logits" not in numbers.tensors:
        pytest.skip("the method has no dropout")
    masks = [numbers[f"dropout.mask.{k}"] for k in range(len(numbers.of("dropout.mask.")))]
    probabilities = [probability for _, probability in numbers.fact("dropout")["calls"]]
    given = list(zip(masks, probabilities, strict=True))

    def drop(x, p=0.5, training=True, inplace=False):
        if not (training and p):
            return x
        mask, probability = given.pop(0)
        assert p == probability
        mask = mask if mask.shape == x.shape else mask.transpose(-1, -2)  # a convolution of theirs has channels first
        return x * mask / (1 - p)

    model = numbers.model()
    monkeypatch.setattr(F, "dropout", drop)
    logits = model(numbers["x"])
    assert not given
    assert close(logits, numbers["dropout.logits"])
    assert close(F.cross_entropy(logits, numbers["y"]), numbers["dropout.loss"])


@torch.no_grad()
def test_merged_weights_are_those_of_the_authors_code(numbers):
    merged = numbers.of("merged.")
    if not merged:
        pytest.skip("the authors' code merges nothing")
    model = numbers.model().eval().merge_and_unload()
    assert close(model(numbers["x"]), merged.pop("logits"))
    state = model.state_dict()
    assert all(close(state[name], value) for name, value in merged.items())
