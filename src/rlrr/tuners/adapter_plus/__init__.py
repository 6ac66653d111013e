"""Adapter+ as a PEFT tuner: a bottleneck behind each block, with a learned scale (Steitz & Roth, CVPR 2024)."""

from rlrr.tuners.adapter_plus.config import AdapterPlusConfig
from rlrr.tuners.adapter_plus.layer import AdapterPlusLayer
from rlrr.tuners.adapter_plus.model import AdapterPlusModel
from rlrr.tuners.registration import register

register(AdapterPlusConfig, AdapterPlusModel)

__all__ = ["AdapterPlusConfig", "AdapterPlusLayer", "AdapterPlusModel"]
