"""After injection, exactly the adapter is trainable, and every adapted layer is called."""

import pytest
import torch
from peft import PeftModel, get_peft_model
from torch import nn

from rlrr import RLRRConfig
from rlrr.errors import RLRRError
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


def toy(bypass: bool = False) -> PeftModel:
    return get_peft_model(Toy(bypass), RLRRConfig(target_modules=["first", "second"]))


def test_a_layer_that_is_never_called_is_named():
    check_adapted(toy(), torch.zeros(1, 4))
    with pytest.raises(RLRRError, match=r"1 of 2 adapted layers are never called, such as \S*second: "):
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
