"""The Adapter as a PEFT tuner: a bottleneck behind attention, MLP or block (Houlsby et al., arXiv 1902.00751)."""

from rlrr.tuners.adapter.config import AdapterConfig
from rlrr.tuners.adapter.layer import AdapterLayer
from rlrr.tuners.adapter.model import AdapterModel
from rlrr.tuners.registration import register

register(AdapterConfig, AdapterModel)

__all__ = ["AdapterConfig", "AdapterLayer", "AdapterModel"]
