"""The tuner of a selection of own weights."""

from __future__ import annotations

import logging
import re
from typing import Any

from torch import nn

from rlrr.tuners.base import NORMS, RLRRError, VisionTuner, family_of, is_plain, regex_of
from rlrr.tuners.layer import AdaptedLayer
from rlrr.tuners.plain import is_patched
from rlrr.tuners.selection.layer import SelectionLayer, SelectionOfScale

logger = logging.getLogger(__name__)


class SelectionModel(VisionTuner):
    """A backbone of which some own weights are trained.

    Args:
        model: Any model with linears, norms or convolutions.
        config: Settings of the adapter.
        adapter_name: Name of the adapter.

    Example:
        >>> model = timm.create_model("vit_base_patch16_224.augreg_in21k", pretrained=True, num_classes=10)
        >>> model = get_peft_model(model, SelectionConfig(tensors="all", last_blocks=2))
    """

    prefix = SelectionLayer.prefix
    tuner_layer_cls = SelectionLayer

    def layer_class(self, base_layer: nn.Module, name: str, config: Any) -> type[AdaptedLayer] | None:
        if is_plain(base_layer, nn.Linear, *NORMS, nn.Conv2d):
            bias = getattr(base_layer, "bias", None)
            weight = getattr(base_layer, "weight", None)
            trained = [bias] if config.tensors == "biases" else [weight, bias]
            return SelectionLayer if any(tensor is not None for tensor in trained) else None
        # a LayerScale; tables of positions are asked for more than a forward
        scales = type(base_layer).__name__.removesuffix("2d").endswith("LayerScale") and not is_patched(base_layer)
        return SelectionOfScale if scales and config.tensors == "all" else None

    def default_targets(self, model: nn.Module, config: Any) -> str | None:
        """Find the modules of the last blocks, with the final norm, if these are chosen.

        Raises:
            RLRRError: the model has fewer blocks, or the base refuses the settings.
        """
        if config.last_blocks is None:
            return super().default_targets(model, config)
        blocks = self.names_of("block")
        if family_of(model) is None or config.last_blocks > len(blocks):
            raise RLRRError(
                f"last_blocks is {config.last_blocks}, and this {type(model).__name__} has {len(blocks)} known blocks."
            )
        chosen = blocks[-config.last_blocks :]
        order = [name for name, _ in model.named_modules()]
        behind = order[order.index(blocks[-1]) :]
        final = [name for name in self.names_of("norm") if name in behind and self.block_of(name) is None]
        regex = self._adaptable(model, "|".join([rf"{regex_of(chosen)}\..+", *map(re.escape, final)]), config)
        inside = [
            name for name, _ in model.named_parameters() if name.startswith(tuple(f"{block}." for block in chosen))
        ]
        left = [name for name in inside if not re.fullmatch(regex or "", name.rpartition(".")[0])]
        if left and config.tensors == "all" and not any(".base_layer." in name for name in inside):
            logger.warning("%d tensors of these blocks stay frozen, such as %s.", len(left), left[0])
        return regex
