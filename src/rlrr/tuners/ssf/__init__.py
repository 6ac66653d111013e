"""SSF as a PEFT tuner: scaling and shifting deep features (Lian et al., NeurIPS 2022, arXiv 2210.08823)."""

from rlrr.tuners.registration import register
from rlrr.tuners.ssf.config import SSFConfig
from rlrr.tuners.ssf.layer import SSFLayer
from rlrr.tuners.ssf.model import SSFModel

register(SSFConfig, SSFModel)

__all__ = ["SSFConfig", "SSFLayer", "SSFModel"]
