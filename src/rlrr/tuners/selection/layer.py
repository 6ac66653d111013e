"""Layers whose own weight and bias an adapter holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from rlrr.tuners.reweighted import ReweightedLayer, Weights
from rlrr.tuners.selection.config import SelectionConfig


class SelectionLayer(ReweightedLayer):
    """A linear, norm or convolution with another weight and bias for each adapter.

    They are `selection_weight` and `selection_bias`; either is absent where it is not trained.
    """

    prefix = "selection_"
    adapter_layer_names = ("selection_weight", "selection_bias")

    def start(self, config: SelectionConfig) -> Mapping[str, Tensor | None]:
        weight, bias = self.frozen
        chosen = {"selection_weight": weight if config.tensors == "all" else None, "selection_bias": bias}
        noise = 0.0 if config.init_weights else 0.1
        return {
            name: None if tensor is None else tensor.detach() + noise * torch.randn_like(tensor)
            for name, tensor in chosen.items()
        }

    def reweight(
        self, weight: Tensor | None, bias: Tensor | None, config: Any, learned: Mapping[str, Tensor]
    ) -> Weights:
        return learned.get("weight", weight), learned.get("bias", bias)

    def _merged(self, names: Sequence[str], safe: bool) -> Weights:
        weight, bias = super()._merged(names, safe)  # which are what is learned, not made of it
        return None if weight is None else weight.clone(), None if bias is None else bias.clone()


class SelectionOfScale(SelectionLayer):
    """A LayerScale, whose one tensor has other names than weight."""

    def describe(self, base_layer: nn.Module, **options: Any) -> None:
        ((self.tensor, _),) = base_layer.named_parameters()

    @classmethod
    def check_base(cls, base_layer: nn.Module, name: str) -> None:
        """Take a LayerScale, which has neither weight nor bias to check."""

    def call_base(self, x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
        assert weight is not None, "the module has a tensor"
        return functional_call(self.get_base_layer(), {self.tensor: weight}, (x,))

    def _held(self) -> tuple[nn.Parameter | None, nn.Parameter | None]:
        return self.get_base_layer()._parameters[self.tensor], None

    def _set_base(self, weight: nn.Parameter | None, bias: nn.Parameter | None) -> None:
        self._cached = None
        setattr(self.get_base_layer(), self.tensor, weight)
