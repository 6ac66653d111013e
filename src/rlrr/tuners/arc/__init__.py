"""ARC as a PEFT tuner: adapters re-composed from shared projections (Dong et al., NeurIPS 2023, arXiv 2310.06234)."""

from rlrr.tuners.arc.config import ARCConfig
from rlrr.tuners.arc.layer import ARCLayer
from rlrr.tuners.arc.model import ARCModel
from rlrr.tuners.registration import register

register(ARCConfig, ARCModel)

__all__ = ["ARCConfig", "ARCLayer", "ARCModel"]
