"""Adapter+'s tuner."""

from __future__ import annotations

from typing import Any

from torch import nn

from rlrr.tuners.adapter_plus.layer import AdapterPlusLayer
from rlrr.tuners.base import Family
from rlrr.tuners.branch import BranchTuner, features
from rlrr.tuners.layer import AdaptedLayer


class AdapterPlusModel(BranchTuner):
    """A backbone with Adapter+ (Steitz & Roth, CVPR 2024, arXiv 2406.06820).

    Args:
        model: A transformer, or any model with blocks of linears.
        config: Settings of the adapter.
        adapter_name: Name of the adapter.

    Example:
        >>> model = timm.create_model("vit_base_patch16_224.augreg_in21k", pretrained=True, num_classes=10)
        >>> model = get_peft_model(model, AdapterPlusConfig(bottleneck=16))
    """

    prefix = AdapterPlusLayer.prefix
    tuner_layer_cls = AdapterPlusLayer
    default_parts = ("block",)

    def layer_class(self, base_layer: nn.Module, name: str, config: Any) -> type[AdaptedLayer] | None:
        return AdapterPlusLayer if features(base_layer)[1] else None

    def parts_of(self, family: Family | None, config: Any) -> tuple[str, ...] | None:
        """Stand behind blocks that give tokens, features last: of ViTs, and of known others without convolutions."""
        if family is None or "mlp_norm" in family.modules:
            return self.default_parts
        return () if family.generic or "conv" in family.modules else self.default_parts
