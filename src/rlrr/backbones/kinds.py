"""The kinds of modules that methods adapt, told from what a module computes, never from its name alone."""

from __future__ import annotations

from typing import Literal

from timm import layers as timm_layers
from torch import nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

Kind = Literal["linear", "norm", "conv"]

LINEARS = (nn.Linear, timm_layers.Linear)
CONVOLUTIONS = (nn.Conv2d,)
RMS_NORMS = (
    nn.RMSNorm,
    timm_layers.RmsNorm,
    timm_layers.RmsNormFp32,
    timm_layers.RmsNorm2d,
    timm_layers.RmsNorm2dFp32,
)
"""Norms that have a weight and no bias."""
CHANNELS_FIRST = (
    timm_layers.LayerNorm2d,
    timm_layers.LayerNorm2dFp32,
    timm_layers.RmsNorm2d,
    timm_layers.RmsNorm2dFp32,
)
"""Norms whose features are dimension 1 of (N, C, H, W)."""
NORMS = (nn.LayerNorm, timm_layers.LayerNorm, timm_layers.LayerNormFp32, *RMS_NORMS, *CHANNELS_FIRST)

# A subclass with a forward of its own, as a standardised convolution, computes something else.
_BY_FORWARD: dict[object, Kind] = {
    **{module.forward: "linear" for module in LINEARS},
    **{module.forward: "norm" for module in NORMS},
    **{module.forward: "conv" for module in CONVOLUTIONS},
}


def has_plain_forward(module: nn.Module) -> bool:
    """Tell whether the class of a module has the forward of a known kind and none of its own."""
    return type(module).forward in _BY_FORWARD


def kind_of(module: nn.Module) -> Kind | None:
    """Return the kind of a module that computes what its kind computes; None for any other module.

    `nn.MultiheadAttention` reads the weight of its output projection past the layer, which is told by its class.
    """
    if isinstance(module, NonDynamicallyQuantizableLinear):
        return None
    return _BY_FORWARD.get(type(module).forward)
