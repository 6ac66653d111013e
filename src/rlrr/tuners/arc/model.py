"""ARC's tuner."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from rlrr.tuners.arc.config import ARCConfig
from rlrr.tuners.arc.layer import ARCLayer, AttentionLayer, MLPLayer
from rlrr.tuners.base import RLRRError, VisionTuner, is_plain
from rlrr.tuners.layer import AdaptedLayer


class ARCModel(VisionTuner):
    """A backbone with ARC adapters (Dong et al., NeurIPS 2023, arXiv 2310.06234).

    The tuner holds `arc_attn` and `arc_mlp`, the projections U, (D, r), that all layers of a side share. Where queries,
    keys and values are projected by linears of their own, each has d and b of its own.

    Args:
        model: A transformer of one width.
        config: Settings of the adapter.
        adapter_name: Name of the adapter.

    Raises:
        RLRRError: the widths of the inputs differ, as in Swin, so that no projection can be shared.

    Example:
        >>> model = timm.create_model("vit_base_patch16_224.augreg_in21k", pretrained=True, num_classes=10)
        >>> model = get_peft_model(model, ARCConfig())
    """

    prefix = ARCLayer.prefix
    tuner_layer_cls = ARCLayer
    default_parts = ("attn.qkv", "mlp.fc1")
    uses_shared_state = True
    shared_containers = ("arc_attn", "arc_mlp")

    def layer_class(self, base_layer: nn.Module, name: str, config: Any) -> type[AdaptedLayer] | None:
        if not is_plain(base_layer, nn.Linear):
            return None
        return MLPLayer if name in self.names_of("mlp.fc1") else AttentionLayer

    def start_shared(self, config: ARCConfig, modules: Mapping[str, nn.Module]) -> Mapping[str, Tensor]:
        shared: dict[str, Tensor] = {}
        for name, module in modules.items():
            container = "arc_mlp" if name in self.names_of("mlp.fc1") else "arc_attn"
            width = getattr(module, "in_features", 0)
            if container in shared and len(shared[container]) != width:
                raise RLRRError(
                    f"ARC shares one projection among all blocks, and {name} has {width} inputs where others have "
                    f"{len(shared[container])}: name linears of one width in target_modules, or choose another method."
                )
            if width and container not in shared:
                shared[container] = nn.init.xavier_uniform_(torch.empty(width, config.bottleneck))
        return shared
