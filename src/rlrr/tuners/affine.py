"""Layers whose output gains a scale and a shift per feature (SSF, arXiv 2210.08823), folded into weight and bias."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from rlrr.backbones.kinds import CHANNELS_FIRST, RMS_NORMS
from rlrr.tuners.reweighted import ReweightedLayer, Weights


class AffineLayer(ReweightedLayer):
    """A linear, norm or 2-d convolution with output `z * scale + shift`: W' = scale W, b' = scale b + shift.

    For each adapter: `scale` and `shift`, (features), which cost no further pass over the output; those of a norm over
    several dimensions are flat, and an RmsNorm, which has no bias to hold a shift, has a scale alone. A subclass names
    both containers in `adapter_layer_names`, in this order, and gives `start`.
    """

    neutral = {"scale": 1, "shift": 0}  # noqa: RUF012

    @property
    def holds_shift(self) -> bool:
        """Whether the base layer can hold a shift."""
        return not isinstance(self.get_base_layer(), RMS_NORMS)

    def reweight(
        self, weight: Tensor | None, bias: Tensor | None, config: Any, learned: Mapping[str, Tensor]
    ) -> Weights:
        scale, shift = self._over_features(learned["scale"]), learned.get("shift")
        new_weight = scale if weight is None else weight * scale.view(*scale.shape, *[1] * (weight.ndim - scale.ndim))
        new_bias = None if bias is None else bias * scale
        if shift is not None:
            shift = self._over_features(shift)
            new_bias = shift if new_bias is None else new_bias + shift
        return new_weight, new_bias

    @torch.no_grad()
    def weight_change(self) -> float:
        """Compute the Frobenius norm of W' - W without making W'."""
        weight, _ = self.frozen
        change = sum(self.learned(name)["scale"].double() - 1 for name in self._present(None))
        if not isinstance(change, Tensor):
            return 0.0
        if weight is not None:
            rows = weight.reshape(len(change), -1)
            change = change * torch.linalg.vector_norm(rows, dim=1, dtype=torch.float64)
        return torch.linalg.vector_norm(change).item()

    def forward_per_sample(self, x: Tensor, stacked: Mapping[str, Tensor], rows: Tensor, config: Any) -> Tensor:
        output = self.base_layer(x).unflatten(0, (len(rows), -1))
        base: Any = self.get_base_layer()
        # features stand in dimension 1 of a convolution's output, in the last of a linear's or of most norms'
        first = isinstance(base, (nn.Conv2d, *CHANNELS_FIRST))
        features = (-1, 1, 1) if first else getattr(base, "normalized_shape", (-1,))
        shape = (len(rows), *[1] * (output.ndim - 1 - len(features)), *features)
        scale, shift = (
            stacked[name][rows].to(output.dtype).view(shape) if name in stacked else None for name in ("scale", "shift")
        )
        result = output * scale if shift is None else torch.addcmul(shift, output, scale)
        return result.flatten(0, 1)

    def _over_features(self, vector: Tensor) -> Tensor:
        """View a flat vector in the shape of a norm's features, which may have several dimensions."""
        return vector.view(getattr(self.get_base_layer(), "normalized_shape", -1))


def combined_scale(scales: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """Sum the changes of scales from 1 with weights: 1 + Σ w (scale - 1)."""
    weighted = torch.stack([weight * scale for weight, scale in zip(weights, scales, strict=True)]).sum(0)
    return 1 - sum(weights) + weighted
