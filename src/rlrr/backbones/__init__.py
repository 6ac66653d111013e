"""Backbones: from a name to a timm model, its preprocessing, its weights and their fingerprint.

This package neither adapts a model (`rlrr.tuners`) nor knows which of its modules to adapt (`rlrr.backbones.families`).
"""

from rlrr.backbones.catalogue import BackboneInfo, backbones
from rlrr.backbones.load import Backbone, fingerprint, load_backbone

__all__ = ["Backbone", "BackboneInfo", "backbones", "fingerprint", "load_backbone"]
