"""AdaptFormer as a PEFT tuner: a bottleneck beside the MLP (Chen et al., NeurIPS 2022, arXiv 2205.13535)."""

from rlrr.tuners.adaptformer.config import AdaptFormerConfig
from rlrr.tuners.adaptformer.layer import AdaptFormerLayer
from rlrr.tuners.adaptformer.model import AdaptFormerModel
from rlrr.tuners.registration import register

register(AdaptFormerConfig, AdaptFormerModel)

__all__ = ["AdaptFormerConfig", "AdaptFormerLayer", "AdaptFormerModel"]
