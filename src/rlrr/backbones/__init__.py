"""Backbones by name: a timm model with its weights, their fingerprint, and its preprocessing.

The anatomy of a model is in `rlrr.backbones.families`. Models are adapted in `rlrr.tuners`.
"""

from rlrr.backbones.catalogue import BackboneInfo, backbones
from rlrr.backbones.fingerprint import fingerprint
from rlrr.backbones.load import Backbone, load_backbone

__all__ = ["Backbone", "BackboneInfo", "backbones", "fingerprint", "load_backbone"]
