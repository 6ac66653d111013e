"""Convpass as a PEFT tuner: a bottleneck with a convolution beside attention and MLP (Jie & Deng, arXiv 2207.07039)."""

from rlrr.tuners.convpass.config import ConvpassConfig
from rlrr.tuners.convpass.layer import ConvpassLayer
from rlrr.tuners.convpass.model import ConvpassModel
from rlrr.tuners.registration import register

register(ConvpassConfig, ConvpassModel)

__all__ = ["ConvpassConfig", "ConvpassLayer", "ConvpassModel"]
