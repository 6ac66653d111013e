"""VPT's tuner."""

from __future__ import annotations

from typing import Any

from torch import nn

from rlrr.tuners.base import RLRRError, VisionTuner, family_of, patch_size, prefix_tokens
from rlrr.tuners.layer import AdaptedLayer
from rlrr.tuners.vpt.layer import VPTLayer


class VPTModel(VisionTuner):
    """A backbone with visual prompts (Jia et al., ECCV 2022, arXiv 2203.12119).

    Args:
        model: A Vision Transformer whose blocks take one sequence of tokens, of any length.
        config: Settings of the adapter.
        adapter_name: Name of the adapter.

    Raises:
        RLRRError: the model's blocks take no such sequence, or shallow prompts are not given all blocks.

    Example:
        >>> model = timm.create_model("vit_base_patch16_224.augreg_in21k", pretrained=True, num_classes=10)
        >>> model = get_peft_model(model, VPTConfig(tokens=50))
    """

    prefix = VPTLayer.prefix
    tuner_layer_cls = VPTLayer
    default_parts = ("block",)

    def layer_class(self, base_layer: nn.Module, name: str, config: Any) -> type[AdaptedLayer] | None:
        return VPTLayer if name in self.names_of("block") else None

    def check_model(self, model: nn.Module, config: Any) -> None:
        family = family_of(model)
        if family is None or not family.sequence or patch_size(model) is None:
            raise RLRRError(
                f"VPT puts prompts into one sequence of tokens of any length, and the blocks of {type(model).__name__} "
                "take none: choose a ViT, or another method."
            )
        if not config.deep and (missing := set(self.names_of("block")) - set(self._to_adapt(config, model))):
            raise RLRRError(
                f"Shallow prompts go through all blocks, and {min(missing)} is left out: leave out target_modules and "
                "layers_to_transform, or set deep=true."
            )

    def layer_options(self, base_layer: nn.Module, name: str) -> dict[str, Any]:
        blocks = self.names_of("block")
        ends = {"first": name == blocks[0], "last": name == blocks[-1]}
        return {"leading": prefix_tokens(self.model), "patch": patch_size(self.model)} | ends
