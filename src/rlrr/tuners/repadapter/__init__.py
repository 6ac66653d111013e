"""RepAdapter as a PEFT tuner: a linear bottleneck before a linear (Luo et al., arXiv 2302.08106)."""

from rlrr.tuners.registration import register
from rlrr.tuners.repadapter.config import RepAdapterConfig
from rlrr.tuners.repadapter.layer import RepAdapterLayer
from rlrr.tuners.repadapter.model import RepAdapterModel

register(RepAdapterConfig, RepAdapterModel)

__all__ = ["RepAdapterConfig", "RepAdapterLayer", "RepAdapterModel"]
