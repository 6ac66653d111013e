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
        regex = self._chosen(model, config)
        frozen = self._left_out(model, config, regex)
        if frozen:
            logger.warning("%d tensors that belong to this choice stay frozen, such as %s.", len(frozen), frozen[0])
        return regex

    def _chosen(self, model: nn.Module, config: Any) -> str | None:
        family = family_of(model)
        if config.last_blocks is None:
            if family is None or config.parts is not None or config.tensors == "all":
                return super().default_targets(model, config)
            outside = [part for part in ("patch_embed", "downsample", "stem") if self.names_of(part)]
            layers = config.layers_to_transform
            layers = [layers] if isinstance(layers, int) else layers
            parts = list(dict.fromkeys((*family.adapted, *outside)))
            return self._adaptable(model, family.target_modules(model, layers, parts), config)
        blocks = self.names_of("block")
        if family is None or config.last_blocks > len(blocks):
            raise RLRRError(
                f"last_blocks is {config.last_blocks}, and this {type(model).__name__} has {len(blocks)} known blocks."
            )
        chosen = blocks[-config.last_blocks :]
        order = [name for name, _ in model.named_modules()]
        behind = order[order.index(blocks[-1]) :]
        final = [name for name in self.names_of("norm") if name in behind and self.block_of(name) is None]
        return self._adaptable(model, "|".join([rf"{regex_of(chosen)}\..+", *map(re.escape, final)]), config)

    def _left_out(self, model: nn.Module, config: Any, regex: str | None) -> list[str]:
        """List the tensors that the choice means and no adapted module holds as its own."""
        plain = [
            name for name, _ in model.named_parameters() if ".base_layer." not in name and "selection_" not in name
        ]
        if config.layers_to_transform is not None or len(plain) < len(list(model.parameters())):
            return []
        heads = tuple(f"{name}." for name in self.names_of("head"))
        if config.last_blocks is not None:
            inside = tuple(f"{block}." for block in self.names_of("block")[-config.last_blocks :])
        elif config.parts == ["attn"]:
            inside = tuple(f"{name}." for name in self.names_of("attn.module"))
        else:
            inside = ("",) if config.parts is None and config.tensors == "biases" else ()
        meant = [name for name in plain if name.startswith(inside) and not name.startswith(heads)] if inside else []
        if config.tensors == "biases":
            meant = [name for name in meant if name.rpartition(".")[2].endswith("bias")]
        return [name for name in meant if not re.fullmatch(regex or "", name.rpartition(".")[0])]
