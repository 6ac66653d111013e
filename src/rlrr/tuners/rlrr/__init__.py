"""RLRR as a PEFT tuner (Dong et al., CVPR 2024, arXiv 2403.19067)."""

from rlrr.tuners.registration import register
from rlrr.tuners.rlrr.config import RLRRConfig
from rlrr.tuners.rlrr.convolution import Convolution
from rlrr.tuners.rlrr.layer import Affine, Linear, RLRRLayer
from rlrr.tuners.rlrr.model import RLRRModel

register(RLRRConfig, RLRRModel)

__all__ = ["Affine", "Convolution", "Linear", "RLRRConfig", "RLRRLayer", "RLRRModel"]
