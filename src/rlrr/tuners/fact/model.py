"""FacT's tuner."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from rlrr.tuners.base import RLRRError, VisionTuner, is_plain
from rlrr.tuners.fact.config import FacTConfig
from rlrr.tuners.fact.layer import RATIO, SLOTS, FacTLayer
from rlrr.tuners.layer import AdaptedLayer
from rlrr.tuners.projections import projections_of

PARTS = {"attn.proj": "proj", "mlp.fc1": "fc1", "mlp.fc2": "fc2"}


class FacTModel(VisionTuner):
    """A backbone with FacT adapters (Jie & Deng, AAAI 2023, arXiv 2212.03145).

    The tuner holds the factors that all layers share: see `FacTLayer`.

    Args:
        model: A transformer of one width, whose MLPs are four times as wide.
        config: Settings of the adapter.
        adapter_name: Name of the adapter.

    Raises:
        RLRRError: the blocks have several widths, or MLPs of another width.

    Example:
        >>> model = timm.create_model("vit_base_patch16_224.augreg_in21k", pretrained=True, num_classes=10)
        >>> model = get_peft_model(model, FacTConfig(scale=0.1))
    """

    prefix = FacTLayer.prefix
    tuner_layer_cls = FacTLayer
    default_parts = ("attn.qkv", *PARTS)
    uses_shared_state = True
    shared_containers = ("fact_down", "fact_up", "fact_core", "fact_mix")

    def layer_class(self, base_layer: nn.Module, name: str, config: Any) -> type[AdaptedLayer] | None:
        return FacTLayer if is_plain(base_layer, nn.Linear) and self._held(name) else None

    def layer_options(self, base_layer: nn.Module, name: str) -> dict[str, Any]:
        return {"held": self._held(name), "block": self.block_of(name)}

    def start_shared(self, config: FacTConfig, modules: Mapping[str, nn.Module]) -> Mapping[str, Tensor]:
        width = self._width(modules)
        if not width:
            return {}
        down, up = torch.empty(config.rank, width), torch.zeros(width, config.rank)
        shared = {
            "fact_down": nn.init.kaiming_uniform_(down, a=5**0.5),
            "fact_up": up if config.init_weights else nn.init.xavier_uniform_(up),
        }
        if config.decomposition == "tk":
            columns = SLOTS * len(self.names_of("block"))
            shared["fact_core"] = nn.init.xavier_uniform_(torch.empty(config.rank, config.rank, config.rank))
            shared["fact_mix"] = nn.init.xavier_uniform_(torch.empty(config.rank, columns))
        return shared

    def _width(self, modules: Mapping[str, nn.Module]) -> int:
        """Find the width of the blocks; 0 if nothing is adapted.

        Raises:
            RLRRError: it is not one, or an MLP is not four times as wide.
        """
        width = 0
        seen: set[tuple[str, int | None]] = set()
        for name, module in modules.items():
            held = self._held(name)
            if held == ("fc1",) and ("fc1", self.block_of(name)) in seen:
                raise RLRRError(
                    f"FacT has one slot for the first linear of an MLP, and {name} is the second of a gated one: leave "
                    "it out of target_modules, or choose another method."
                )
            seen |= {(part, self.block_of(name)) for part in held}
            if not held or not isinstance(module, nn.Linear):
                continue  # which is refused by name later
            width = width or (module.out_features if held == ("fc2",) else module.in_features)
            outputs, inputs = (RATIO if part in held else 1 for part in ("fc1", "fc2"))
            expected = inputs * width, outputs * len(held) * width
            if (module.in_features, module.out_features) != expected:
                raise RLRRError(
                    f"FacT shares its factors among blocks of one width with an MLP {RATIO} times as wide, and {name} "
                    f"has {module.in_features} inputs and {module.out_features} outputs where {expected[0]} and "
                    f"{expected[1]} are needed: leave it out of target_modules, or choose another method."
                )
        return width

    def _held(self, name: str) -> tuple[str, ...]:
        """Name what a linear holds; nothing if it is none of a block's."""
        if self.block_of(name) is None:
            return ()
        for part, held in PARTS.items():
            if name in self.names_of(part):
                return (held,)
        return projections_of(name) if name in self.names_of("attn.qkv") else ()
