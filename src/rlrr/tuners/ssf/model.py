"""SSF's tuner."""

from __future__ import annotations

from typing import Any

from torch import nn

from rlrr.tuners.base import NORMS, VisionTuner, is_plain
from rlrr.tuners.layer import AdaptedLayer
from rlrr.tuners.ssf.layer import SSFLayer


class SSFModel(VisionTuner):
    """A backbone with SSF adapters (Lian et al., NeurIPS 2022, arXiv 2210.08823).

    Args:
        model: Any model with linears, norms or convolutions.
        config: Settings of the adapter.
        adapter_name: Name of the adapter.

    Example:
        >>> model = timm.create_model("vit_base_patch16_224.augreg_in21k", pretrained=True, num_classes=10)
        >>> model = get_peft_model(model, SSFConfig())
    """

    prefix = SSFLayer.prefix
    tuner_layer_cls = SSFLayer

    def layer_class(self, base_layer: nn.Module, name: str, config: Any) -> type[AdaptedLayer] | None:
        return SSFLayer if is_plain(base_layer, nn.Linear, *NORMS, nn.Conv2d) else None
