"""Methods that no folder holds: the least of each base, and what no shipped method of ours does yet."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import torch
from torch import nn
from torch.nn import functional as F

from rlrr.tuners.base import VisionTuner, is_plain
from rlrr.tuners.branch import BranchLayer, BranchTuner
from rlrr.tuners.config import TunerConfig
from rlrr.tuners.registration import register
from rlrr.tuners.reweighted import ReweightedLayer


class ToyType(StrEnum):
    SHARED = "SHARED"
    BESIDE = "BESIDE"
    BEHIND = "BEHIND"
    BEFORE = "BEFORE"
    STREAM = "STREAM"


class ToyConfig(TunerConfig):
    @classmethod
    def tuner_type(cls):
        return ToyType(cls.method.upper())


@dataclass
class SharedConfig(ToyConfig):
    """W + V M U with U and V shared by all layers, as in FacT; dropout stands inside the update."""

    method = "shared"
    rank: int = 2
    dropout: float = 0.0
    width: int = 8


class SharedLayer(ReweightedLayer):
    prefix = "shared_"
    adapter_layer_names = ("shared_core", "shared_down", "shared_up")
    neutral = {"core": 0}  # noqa: RUF012
    trains_by_delta = True

    def start(self, config):
        return {"shared_core": torch.randn(config.rank, config.rank)}

    def reweight(self, weight, bias, config, learned):
        return weight + learned["up"] @ learned["core"] @ learned["down"], bias

    def call_base(self, x, weight, bias):
        return F.linear(x, weight, bias)

    def delta(self, x, adapter_names=None):
        if not self.training:
            return super().delta(x, adapter_names)
        total = 0
        for name in self._present(adapter_names):
            learned, dropout = self.learned(name), self.configs[name].dropout
            hidden = F.dropout(x.to(learned["down"].dtype) @ learned["down"].T @ learned["core"].T, dropout)
            total = total + (hidden @ learned["up"].T).to(x.dtype)
        return total


class SharedModel(VisionTuner):
    prefix = "shared_"
    tuner_layer_cls = SharedLayer
    uses_shared_state = True
    shared_containers = ("shared_down", "shared_up")

    def layer_class(self, base_layer, name, config):
        square = is_plain(base_layer, nn.Linear) and base_layer.in_features == base_layer.out_features == config.width
        return SharedLayer if square else None

    def start_shared(self, config, modules):
        shapes = {"shared_down": (config.rank, config.width), "shared_up": (config.width, config.rank)}
        return {name: torch.randn(shape) for name, shape in shapes.items()}


class Bottleneck(nn.Module):
    def __init__(self, inputs, outputs, scale):
        super().__init__()
        self.down, self.up, self.scale = nn.Linear(inputs, 3), nn.Linear(3, outputs), scale
        self.register_buffer("offset", torch.rand(3))

    def forward(self, x):
        return self.scale * self.up((self.down(x) + self.offset).relu())


def _branch(place: str):
    fields = {"method": place, "scale": 0.5, "__annotations__": {"scale": float}, "__module__": __name__}
    config = dataclass(type(f"{place}Config", (ToyConfig,), fields))
    members = {
        "__module__": __name__,
        "prefix": f"{place}_",
        "where": place,
        "adapter_layer_names": (f"{place}_branch",),
        "make_branch": lambda self, settings: Bottleneck(
            self.out_features if place == "behind" else self.in_features,
            self.in_features if place == "before" else self.out_features,
            settings.scale,
        ),
    }
    layer = type(f"{place}Layer", (BranchLayer,), members)
    options = lambda self, base_layer, name: {"reads": "norm"} if place == "stream" else {}  # noqa: E731
    model = type(
        f"{place}Model",
        (BranchTuner,),
        {
            "__module__": __name__,
            "prefix": f"{place}_",
            "tuner_layer_cls": layer,
            "layer_class": lambda self, base_layer, name, settings: layer,
            "layer_options": options,
        },
    )
    globals().update({made.__name__: made for made in (config, layer, model)})  # so that they can be pickled
    return config, model


TOYS = {"shared": (SharedConfig, SharedModel)} | {
    place: _branch(place) for place in ("beside", "behind", "before", "stream")
}
for _config, _model in TOYS.values():
    register(_config, _model)
