"""FacT as a PEFT tuner: one decomposition of the updates of all blocks (Jie & Deng, AAAI 2023, arXiv 2212.03145)."""

from rlrr.tuners.fact.config import FacTConfig
from rlrr.tuners.fact.layer import FacTLayer
from rlrr.tuners.fact.model import FacTModel
from rlrr.tuners.registration import register

register(FacTConfig, FacTModel)

__all__ = ["FacTConfig", "FacTLayer", "FacTModel"]
