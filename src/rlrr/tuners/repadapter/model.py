"""RepAdapter's tuner."""

from __future__ import annotations

from typing import Any

from torch import nn

from rlrr.tuners.base import RLRRError, VisionTuner, is_plain
from rlrr.tuners.layer import AdaptedLayer
from rlrr.tuners.repadapter.layer import RepAdapterLayer


class RepAdapterModel(VisionTuner):
    """A backbone with RepAdapter adapters (Luo et al., arXiv 2302.08106).

    Where queries, keys and values are projected by linears of their own, each has an adapter of its own.

    Args:
        model: A transformer with attention and an MLP, or any model with linears.
        config: Settings of the adapter.
        adapter_name: Name of the adapter.

    Raises:
        RLRRError: the groups do not divide the width of a linear's input.

    Example:
        >>> model = timm.create_model("vit_base_patch16_224.augreg_in21k", pretrained=True, num_classes=10)
        >>> model = get_peft_model(model, RepAdapterConfig(scale=0.5))
    """

    prefix = RepAdapterLayer.prefix
    tuner_layer_cls = RepAdapterLayer
    default_parts = ("attn.qkv", "mlp.fc1")

    def layer_class(self, base_layer: nn.Module, name: str, config: Any) -> type[AdaptedLayer] | None:
        if not is_plain(base_layer, nn.Linear):
            return None
        if base_layer.in_features % config.groups:
            raise RLRRError(
                f"groups must divide the input's width of every adapted linear, and {config.groups} does not divide "
                f"the {base_layer.in_features} of {name}: give other groups, or leave it out of target_modules."
            )
        return RepAdapterLayer
