"""After injection, exactly the adapter is trainable, and every adapted layer is called."""

import pytest
import torch
from peft import LoraConfig, PeftConfig, PeftModel, get_peft_model
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

from rlrr import RLRRConfig
from rlrr.errors import RLRRError
from rlrr.methods.capabilities import learned
from rlrr.methods.trainable import check_adapted


class Toy(nn.Module):
    """Two linears, of which one may be used behind its own back."""

    def __init__(self, bypass: bool) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
        self.bypass = bypass

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x)
        return nn.functional.linear(x, self.second.weight, self.second.bias) if self.bypass else self.second(x)


def toy(bypass: bool = False, config: type[PeftConfig] = RLRRConfig) -> PeftModel:
    return get_peft_model(Toy(bypass), config(target_modules=["first", "second"]))


def test_a_layer_that_never_acts_is_named():
    check_adapted(toy(config=LoraConfig), torch.zeros(1, 4))
    with pytest.raises(RLRRError, match=r"1 of 2 adapted layers are never called, such as \S*second: "):
        check_adapted(toy(bypass=True, config=LoraConfig), torch.zeros(1, 4))


def test_a_layer_whose_weight_alone_is_read_acts():
    check_adapted(toy(), torch.zeros(1, 4))
    check_adapted(toy(bypass=True), torch.zeros(1, 4))


def test_a_parameter_wrongly_trainable_or_frozen_is_named():
    for trainable in (True, False):
        model = toy()
        name, parameter = next((n, p) for n, p in model.named_parameters() if p.requires_grad != trainable)
        parameter.requires_grad_(trainable)
        with pytest.raises(RLRRError, match=f"1 parameters are wrongly trainable or frozen, such as .*{name}"):
            check_adapted(model, torch.zeros(1, 4))


@pytest.mark.parametrize("training", [True, False])
def test_the_check_leaves_the_model_as_it_was(training):
    model = toy().train(training)
    check_adapted(model, torch.zeros(1, 4))
    assert model.training is training
    assert not any(module._forward_pre_hooks for module in model.modules())


class Beside(nn.Module, BaseTunerLayer):
    """An adapted layer that wraps a module of several linears and holds a branch beside it."""

    adapter_layer_names = ("rlrr_branch",)

    def __init__(self, base_layer: nn.Module) -> None:
        super().__init__()
        self.base_layer, self.rlrr_branch = base_layer, nn.ModuleDict({"default": nn.Linear(4, 4)})

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.base_layer(x) + self.rlrr_branch["default"](x)


def with_shared(**shared: bool) -> PeftModel:
    """A tuner that holds tensors for all of its layers, by adapter and whether they are trainable."""
    model = toy()
    tensors = {name: nn.Parameter(torch.zeros(2), requires_grad=trainable) for name, trainable in shared.items()}
    model.base_model.rlrr_shared = nn.ParameterDict(tensors)
    model.add_adapter("other", RLRRConfig(target_modules=["first", "second"]))
    return model


def test_tensors_that_the_tuner_holds_for_all_layers_are_trained_with_the_active_adapter():
    check_adapted(with_shared(default=True, other=False), torch.zeros(1, 4))
    for wrong, name in (({"default": False, "other": False}, "default"), ({"default": True, "other": True}, "other")):
        with pytest.raises(RLRRError, match=f"1 parameters .* such as .*rlrr_shared.{name}"):
            check_adapted(with_shared(**wrong), torch.zeros(1, 4))
    tensors = learned(with_shared(default=True, other=False))
    assert tensors[""].keys() == {"shared"}
    assert tensors.keys() == {"", "first", "second"}


def test_a_tensor_of_the_tuner_without_its_prefix_is_wrongly_trainable():
    model = toy()
    model.base_model.basis = nn.Parameter(torch.zeros(2))
    with pytest.raises(RLRRError, match=r"1 parameters .* such as .*basis"):
        check_adapted(model, torch.zeros(1, 4))


def test_a_layer_that_wraps_a_whole_module_is_known_by_its_containers():
    model = get_peft_model(nn.Sequential(nn.Linear(4, 4), Toy(bypass=False)), RLRRConfig(target_modules=["0"]))
    plain = model.get_base_model()
    plain[1] = Beside(plain[1])
    check_adapted(model, torch.zeros(1, 4))
    assert learned(model)["1"].keys() == {"branch.weight", "branch.bias"}
    plain[1].base_layer.second.weight.requires_grad_(True)
    with pytest.raises(RLRRError, match=r"1 parameters .* such as .*second"):
        check_adapted(model, torch.zeros(1, 4))
