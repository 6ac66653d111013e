"""The tuner of LoRA on queries and values."""

from __future__ import annotations

from typing import Any

from torch import nn

from rlrr.tuners.base import RLRRError, VisionTuner, is_plain
from rlrr.tuners.layer import AdaptedLayer
from rlrr.tuners.lora_qv.layer import LoRAQVLayer
from rlrr.tuners.projections import projections_of


class LoRAQVModel(VisionTuner):
    """A backbone with LoRA on queries and values (Hu et al., ICLR 2022, arXiv 2106.09685).

    Args:
        model: A transformer whose attention has a linear named qkv, or linears for queries and values.
        config: Settings of the adapter.
        adapter_name: Name of the adapter.

    Example:
        >>> model = timm.create_model("vit_base_patch16_224.augreg_in21k", pretrained=True, num_classes=10)
        >>> model = get_peft_model(model, LoRAQVConfig(rank=8))
    """

    prefix = LoRAQVLayer.prefix
    tuner_layer_cls = LoRAQVLayer
    default_parts = ("attn.qkv",)

    def layer_class(self, base_layer: nn.Module, name: str, config: Any) -> type[AdaptedLayer] | None:
        projections = projections_of(name)
        if not set(projections) & {"q", "v"} or not is_plain(base_layer, nn.Linear):
            return None
        if len(projections) > 1 and (base_layer.out_features % len(projections) or not self.stacks_qkv(name)):
            raise RLRRError(
                f"LoRA on q and v needs linears in which q, k and v lie one below the other, and {name} is not known "
                "to be one: leave it out of target_modules, or choose lora."
            )
        return LoRAQVLayer

    def layer_options(self, base_layer: nn.Module, name: str) -> dict[str, Any]:
        return {"projections": projections_of(name)}
