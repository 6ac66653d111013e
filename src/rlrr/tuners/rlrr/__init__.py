"""RLRR as a PEFT tuner."""

from rlrr.tuners.rlrr.config import RLRRConfig, RLRRType
from rlrr.tuners.rlrr.convolution import Convolution
from rlrr.tuners.rlrr.layer import Affine, Linear, RLRRLayer
from rlrr.tuners.rlrr.model import RLRRModel, check_adapter_name, frozen_norms

__all__ = [
    "Affine",
    "Convolution",
    "Linear",
    "RLRRConfig",
    "RLRRLayer",
    "RLRRModel",
    "RLRRType",
    "check_adapter_name",
    "frozen_norms",
]
