"""Convpass's tuner."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from rlrr.tuners.base import RLRRError, family_of, kind_of, prefix_tokens
from rlrr.tuners.branch import BranchTuner, features
from rlrr.tuners.convpass.layer import ConvpassLayer, Grid
from rlrr.tuners.layer import AdaptedLayer


class RememberGrid(Grid):
    """A hook that writes down the grid into which a convolution cuts images."""

    def __call__(self, module: nn.Module, args: Any, output: Tensor) -> None:
        """Take the output, (batch, features, height, width)."""
        self.size = (output.shape[-2], output.shape[-1])


class ConvpassModel(BranchTuner):
    """A backbone with convolutional bypasses (Jie & Deng, arXiv 2207.07039).

    Args:
        model: A Vision Transformer whose blocks take all patches of an image, of any rectangular grid.
        config: Settings of the adapter.
        adapter_name: Name of the adapter.

    Raises:
        RLRRError: the model's blocks do not take all patches, or no convolution makes the patches.

    Example:
        >>> model = timm.create_model("vit_base_patch16_224.augreg_in21k", pretrained=True, num_classes=10)
        >>> model = get_peft_model(model, ConvpassConfig(scale=0.1))
    """

    prefix = ConvpassLayer.prefix
    tuner_layer_cls = ConvpassLayer
    default_parts = ("attn.module", "mlp.module")

    def layer_class(self, base_layer: nn.Module, name: str, config: Any) -> type[AdaptedLayer] | None:
        return ConvpassLayer if all(features(base_layer)) else None

    def check_model(self, model: nn.Module, config: Any) -> None:
        family, embeddings = family_of(model), self.names_of("patch_embed")
        cut = [name for name in embeddings if kind_of(self.model.get_submodule(name)) == "conv"]
        if family is None or not family.sequence or not cut:
            raise RLRRError(
                f"Convpass needs the grid of patches, which the blocks of {type(model).__name__} do not take whole: "
                "choose a ViT, or another method."
            )

    def layer_options(self, base_layer: nn.Module, name: str) -> dict[str, Any]:
        return {"leading": prefix_tokens(self.model), "grid": self._remembered()}

    def _remembered(self) -> RememberGrid:
        """Give the hook on the convolution that cuts the image, put on for the first layer."""
        convolution = self.model.get_submodule(self.names_of("patch_embed")[0])
        known = [hook for hook in convolution._forward_hooks.values() if isinstance(hook, RememberGrid)]
        if not known:
            convolution.register_forward_hook(hook := RememberGrid())
            known.append(hook)
        return known[0]

    def _unload_and_optionally_merge(self, *args: Any, **kwargs: Any) -> Any:
        model = super()._unload_and_optionally_merge(*args, **kwargs)
        hooks = self.model.get_submodule(self.names_of("patch_embed")[0])._forward_hooks
        for key in [key for key, hook in hooks.items() if isinstance(hook, RememberGrid)]:
            del hooks[key]
        return model
