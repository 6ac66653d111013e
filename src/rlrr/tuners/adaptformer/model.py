"""AdaptFormer's tuner."""

from __future__ import annotations

import re
from typing import Any

from torch import nn

from rlrr.tuners.adaptformer.layer import AdaptFormerLayer
from rlrr.tuners.base import Family, RLRRError
from rlrr.tuners.branch import BranchTuner, features
from rlrr.tuners.layer import AdaptedLayer

POST_NORM = re.compile("PostNorm|ResPost")
"""Classes of timm's blocks whose norms stand behind attention and MLP, under the names of those before."""


class AdaptFormerModel(BranchTuner):
    """A backbone with AdaptFormer adapters (Chen et al., NeurIPS 2022, arXiv 2205.13535).

    Args:
        model: A transformer with a norm before each MLP, or any model with linears.
        config: Settings of the adapter.
        adapter_name: Name of the adapter.

    Example:
        >>> model = timm.create_model("vit_base_patch16_224.augreg_in21k", pretrained=True, num_classes=10)
        >>> model = get_peft_model(model, AdaptFormerConfig(bottleneck=8))
    """

    prefix = AdaptFormerLayer.prefix
    tuner_layer_cls = AdaptFormerLayer
    default_parts = ("block",)

    def layer_class(self, base_layer: nn.Module, name: str, config: Any) -> type[AdaptedLayer] | None:
        taken, given = features(base_layer)
        # what its first and last linear tell of a module is sure of an MLP, and of a block if both agree
        sure = taken == given or any(isinstance(child, nn.Linear) for child in (base_layer, *base_layer.children()))
        return AdaptFormerLayer if taken and given and sure else None

    def parts_of(self, family: Family | None, config: Any) -> tuple[str, ...] | None:
        """Stand beside the block where its residual stream is known, else beside the MLP that takes tokens."""
        if family is None or "mlp_norm" in family.modules:
            return self.default_parts
        if "mlp.module" in family.modules:
            return ("mlp.module",)
        return () if "conv" in family.modules else self.default_parts

    def layer_options(self, base_layer: nn.Module, name: str) -> dict[str, Any]:
        reads = self.within(name, "mlp_norm")
        if reads and POST_NORM.search(type(base_layer).__name__):
            raise RLRRError(
                f"AdaptFormer reads the stream before the norm of an MLP, and {name} has its norms behind: name the "
                "MLPs in target_modules."
            )
        return {"reads": reads}
