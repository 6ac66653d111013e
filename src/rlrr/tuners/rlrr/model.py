"""RLRR's tuner: which layer adapts which module, and weighted sums of adapters."""

from __future__ import annotations

from typing import Literal

from peft.utils.other import ModulesToSaveWrapper
from torch import nn

from rlrr.tuners.base import NORMS, RLRRError, VisionTuner, family_of, is_plain
from rlrr.tuners.layer import AdaptedLayer
from rlrr.tuners.rlrr.combine import combined_config, combined_module
from rlrr.tuners.rlrr.config import RLRRConfig
from rlrr.tuners.rlrr.convolution import Convolution
from rlrr.tuners.rlrr.layer import Affine, Linear, RLRRLayer


class RLRRModel(VisionTuner):
    """A backbone with RLRR adapters (Dong et al., CVPR 2024, arXiv 2403.19067).

    Args:
        model: Any model with linears, norms or convolutions.
        config: Settings of the adapter.
        adapter_name: Name of the adapter.

    Example:
        >>> model = timm.create_model("vit_base_patch16_224.orig_in21k", pretrained=True, num_classes=10)
        >>> model = get_peft_model(model, RLRRConfig())
    """

    prefix = RLRRLayer.prefix
    tuner_layer_cls = RLRRLayer

    def layer_class(self, base_layer: nn.Module, name: str, config: RLRRConfig) -> type[AdaptedLayer] | None:
        if is_plain(base_layer, nn.Linear):
            return Linear
        if is_plain(base_layer, nn.Conv2d) and config.convolutions == "rescale":
            return Convolution
        return Affine if is_plain(base_layer, *NORMS, nn.Conv2d) else None

    def add_weighted_adapter(
        self,
        adapters: list[str],
        weights: list[float],
        adapter_name: str,
        combination_type: Literal["exact", "average"] = "exact",
    ) -> None:
        """Add an adapter that combines others (supplement H); it does not become active.

        Shifts, scales after norms (as changes from 1) and classifiers are summed with the weights in either way. The
        classes of the adapters have to be the same for their combined classifier to mean anything.

        Args:
            adapters: Names of adapters with the same settings.
            weights: A finite number for each.
            adapter_name: Name of the new adapter.
            combination_type: "exact" sums what the adapters do to a weight, `S = Σ w_i S_i`, so that ranks add up;
                "average" sums their vectors, `S = (Σ w_i scale_out_i)(Σ w_i scale_in_i)`, which keeps the rank.

        Raises:
            RLRRError: the adapters, their weights or the name do not do for that; the model is left as it is.
        """
        if adapter_name in self.peft_config:
            raise RLRRError(f"There is an adapter {adapter_name!r} already: choose another name, or delete that one.")
        self.check_name(adapter_name, self.model)
        config = combined_config(self.peft_config, adapters, weights, combination_type)
        heads = {
            wrapper: combined_module([wrapper.modules_to_save[name] for name in adapters], weights)
            for wrapper in self.modules()
            if isinstance(wrapper, ModulesToSaveWrapper) and adapters[0] in wrapper.modules_to_save
        }
        self.peft_config[adapter_name] = config
        self.inject_adapter(self.model, adapter_name)
        for layer in self.modules():
            if isinstance(layer, RLRRLayer) and adapter_name in layer.configs:
                layer.add_combination(adapter_name, adapters, weights, combination_type == "exact")
        for wrapper, head in heads.items():
            wrapper.modules_to_save[adapter_name] = head

    def _prepare_model(self, peft_config: RLRRConfig, model: nn.Module) -> None:
        family = family_of(model)
        if peft_config.fused_blocks is None:
            peft_config.fused_blocks = dict(family.fused_blocks) if family else {}
        if peft_config.convolutions is None:
            peft_config.convolutions = family.convolutions if family else "scale"
        super()._prepare_model(peft_config, model)
