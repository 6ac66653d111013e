"""Training of some of a model's own weights as a PEFT tuner: BitFit, attention alone, the last blocks."""

from rlrr.tuners.registration import register
from rlrr.tuners.selection.config import SelectionConfig
from rlrr.tuners.selection.layer import SelectionLayer
from rlrr.tuners.selection.model import SelectionModel

register(SelectionConfig, SelectionModel)

__all__ = ["SelectionConfig", "SelectionLayer", "SelectionModel"]
