"""VPT as a PEFT tuner: learned tokens beside those of the image (Jia et al., ECCV 2022, arXiv 2203.12119)."""

from rlrr.tuners.registration import register
from rlrr.tuners.vpt.config import VPTConfig
from rlrr.tuners.vpt.layer import VPTLayer
from rlrr.tuners.vpt.model import VPTModel

register(VPTConfig, VPTModel)

__all__ = ["VPTConfig", "VPTLayer", "VPTModel"]
