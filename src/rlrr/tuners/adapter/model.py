"""The Adapter's tuner."""

from __future__ import annotations

from typing import Any

from torch import nn

from rlrr.tuners.adapter.layer import AdapterLayer
from rlrr.tuners.adapter.variants import VARIANTS
from rlrr.tuners.base import Family
from rlrr.tuners.branch import BranchTuner, features
from rlrr.tuners.layer import AdaptedLayer


class AdapterModel(BranchTuner):
    """A backbone with Adapters (Houlsby et al., ICML 2019, arXiv 1902.00751).

    Args:
        model: A transformer with attention and an MLP in each block, or any model with linears.
        config: Settings of the adapter.
        adapter_name: Name of the adapter.

    Example:
        >>> model = timm.create_model("vit_base_patch16_224.augreg_in21k", pretrained=True, num_classes=10)
        >>> model = get_peft_model(model, AdapterConfig(variant="noah"))
    """

    prefix = AdapterLayer.prefix
    tuner_layer_cls = AdapterLayer

    def layer_class(self, base_layer: nn.Module, name: str, config: Any) -> type[AdaptedLayer] | None:
        return AdapterLayer if features(base_layer)[1] else None

    def parts_of(self, family: Family | None, config: Any) -> tuple[str, ...] | None:
        return VARIANTS[config.variant].parts
