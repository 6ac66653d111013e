"""RLRR's layers: what each adapter's vectors make of a frozen weight and bias."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from rlrr.tuners.affine import AffineLayer, combined_scale
from rlrr.tuners.base import RLRRError
from rlrr.tuners.reweighted import ReweightedLayer, Weights
from rlrr.tuners.rlrr import init
from rlrr.tuners.rlrr.by_row import rescaled_linear_by_row
from rlrr.tuners.rlrr.config import RLRRConfig
from rlrr.tuners.rlrr.functional import (
    product_dtype,
    rescaled_linear,
    rescaling,
    rescaling_norm,
)

# Tokens of an adapter in a mixed batch from which making its weight takes less time than a second product with the
# frozen one: in single precision on a CPU, and in half precision there, which a GPU takes over unmeasured.
TOKENS_FOR_OWN_WEIGHT, TOKENS_WHERE_PRODUCTS_ARE_QUICK = 128, 512


class RLRRLayer(ReweightedLayer):
    """A layer with vectors of RLRR, of which weighted sums can be made (supplement H)."""

    prefix = "rlrr_"
    combinable = True
    decays = ("*patch_embed*.rlrr_*",)  # in the paper's code, unlike all other shifts, norms and biases

    def add_combination(
        self, adapter_name: str, adapters: Sequence[str], weights: Sequence[float], exact: bool
    ) -> None:
        """Give `adapter_name` the weighted sum of `adapters`: of their changes if `exact`, else of their vectors."""
        with torch.no_grad():
            vectors = self.combined(adapters, weights, exact)
        self._set_learned(adapter_name, vectors, trainable=False)

    def combined(self, adapters: Sequence[str], weights: Sequence[float], exact: bool) -> Mapping[str, Tensor | None]:
        """Compute the vectors of a weighted sum, by container."""
        raise NotImplementedError

    def _vectors(self, name: str, adapter_names: Sequence[str]) -> list[Tensor]:
        vectors = getattr(self, name)
        return [vectors[adapter] for adapter in adapter_names if adapter in vectors]

    def _weighted(self, name: str, adapters: Sequence[str], weights: Sequence[float]) -> Tensor | None:
        vectors = self._vectors(name, adapters)
        if not vectors:
            return None
        return torch.stack([weight * vector for weight, vector in zip(weights, vectors, strict=True)]).sum(0)


class Rescaled(RLRRLayer):
    """A layer whose weight, seen as a matrix, is `W' = W + (scale_out scale_in) ⊙ W`, and `b' = b + shift` (Eq. 16).

    In product form it is `((1 + scale_out) (1 + scale_in)) ⊙ W`: another reading of the same vectors, by `_factors`.

    For each adapter, where the matrix is (rows, columns): `rlrr_scale_out` (rows, r); `rlrr_scale_in` (r, columns),
    or (blocks, r, columns) for a weight of stacked blocks; `rlrr_shift` (out).
    """

    adapter_layer_names = ("rlrr_scale_out", "rlrr_scale_in", "rlrr_shift")
    neutral = {"scale_out": 0, "scale_in": 0, "shift": 0}  # noqa: RUF012

    def as_matrix(self, weight: Tensor) -> Tensor:
        """View the weight as a matrix, whose rows belong to outputs, in order."""
        raise NotImplementedError

    def from_matrix(self, matrix: Tensor) -> Tensor:
        """Make the weight of which `matrix` is the `as_matrix`."""
        raise NotImplementedError

    def blocks(self, config: RLRRConfig) -> int:
        """Count the projections stacked in the weight, each with input vectors of its own."""
        return config.blocks_of(self.module_name)

    @staticmethod
    def _factors(config: RLRRConfig, learned: Mapping[str, Tensor]) -> tuple[Tensor | None, Tensor | None]:
        """Give what multiplies rows and columns of W; beside the result stands W itself if `config.keeps_weight`."""
        vectors = learned.get("scale_out"), learned.get("scale_in")
        if config.form == "residual":
            return vectors
        scale_out, scale_in = (None if vector is None else 1 + vector for vector in vectors)
        return scale_out, scale_in

    def start(self, config: RLRRConfig) -> Mapping[str, Tensor | None]:
        blocks = self.blocks(config)
        if self.out_features % blocks:
            raise RLRRError(
                f"fused_blocks={blocks} does not divide the {self.out_features} outputs of {self.module_name}: give "
                "the number of projections stacked there, or 1."
            )
        rows, columns = self.as_matrix(self.frozen[0]).shape
        scale_out, scale_in = init.scales(config, rows, columns, blocks)
        shift = init.shift(config, self.out_features)
        return {"rlrr_scale_out": scale_out, "rlrr_scale_in": scale_in, "rlrr_shift": shift}

    def combined(self, adapters: Sequence[str], weights: Sequence[float], exact: bool) -> Mapping[str, Tensor | None]:
        scales_out, scales_in = (self._vectors(name, adapters) for name in ("rlrr_scale_out", "rlrr_scale_in"))
        shift = self._weighted("rlrr_shift", adapters, weights)
        if exact and scales_out and scales_in:  # the terms of all, with the weights on one side
            if self.configs[adapters[0]].form == "product":  # (1 + a)(1 + b) - 1, of rank two beside W
                scales_out = [torch.cat([1 + a, -torch.ones_like(a)], -1) for a in scales_out]
                scales_in = [torch.cat([1 + b, torch.ones_like(b)], -2) for b in scales_in]
            scales_out = [weight * vector for weight, vector in zip(weights, scales_out, strict=True)]
            terms = torch.cat(scales_out, -1), torch.cat(scales_in, -2)
            return dict(zip(self.adapter_layer_names, (*terms, shift), strict=True))
        return {name: self._weighted(name, adapters, weights) for name in self.adapter_layer_names}

    def reweight(
        self, weight: Tensor, bias: Tensor | None, config: RLRRConfig, learned: Mapping[str, Tensor]
    ) -> Weights:
        matrix = self.as_matrix(weight)
        update = rescaling(
            matrix,
            *self._factors(config, learned),
            residual=config.keeps_weight,
            multiply_weight=config.multiply_weight,
        )
        if (shift := learned.get("shift")) is not None:
            bias = shift if bias is None else bias + shift
        return self.from_matrix(matrix + update), bias

    @torch.no_grad()
    def weight_change(self) -> float:
        """Compute the Frobenius norm of W' - W under the active adapters, of one in closed form."""
        names = self._present(None)
        if len(names) != 1:
            return super().weight_change()
        config, learned = self.configs[names[0]], self.learned(names[0])
        return rescaling_norm(
            self.as_matrix(self.frozen[0]),
            *self._factors(config, learned),
            residual=config.keeps_weight,
            multiply_weight=config.multiply_weight,
        )


class Linear(Rescaled):
    """A linear, whose weight is the matrix."""

    def as_matrix(self, weight: Tensor) -> Tensor:
        return weight

    def from_matrix(self, matrix: Tensor) -> Tensor:
        return matrix

    def separates(self, x: Tensor, adapters: int) -> bool:
        quick = x.device.type != "cpu" or product_dtype(self.frozen[0].dtype, x.device).itemsize < 4
        return x.numel() // x.shape[-1] >= adapters * (
            TOKENS_WHERE_PRODUCTS_ARE_QUICK if quick else TOKENS_FOR_OWN_WEIGHT
        )

    def call_anew(self, x: Tensor, adapter_names: Sequence[str]) -> Tensor:
        weight, bias = self.frozen
        if len(adapter_names) > 1 or weight.requires_grad:
            return super().call_anew(x, adapter_names)
        (name,) = adapter_names
        config, learned = self.configs[name], self.learned(name)
        return rescaled_linear(
            x,
            weight,
            bias,
            *self._factors(config, learned),
            learned.get("shift"),
            residual=config.keeps_weight,
            multiply_weight=config.multiply_weight,
            tokens=config.gradient_tokens if self.training else 1.0,
        )

    def forward_per_sample(self, x: Tensor, stacked: Mapping[str, Tensor], rows: Tensor, config: RLRRConfig) -> Tensor:
        weight, bias = self.frozen
        dtype = product_dtype(weight.dtype, x.device)
        by_sample = {name: tensor[rows] for name, tensor in stacked.items()}
        if (shift := by_sample.get("shift")) is not None:
            bias = shift if bias is None else bias + shift
        samples = x.unflatten(0, (len(rows), -1))
        tensors = (
            None if t is None else t.to(dtype) for t in (samples, weight, bias, *self._factors(config, by_sample))
        )
        form = {"residual": config.keeps_weight, "multiply_weight": config.multiply_weight}
        with torch.autocast(x.device.type, enabled=False):
            result = rescaled_linear_by_row(*tensors, **form)
        return result.flatten(0, 1)


class Affine(RLRRLayer, AffineLayer):
    """A norm or convolution whose output gains a scale and a shift per feature (the paper's use of SSF).

    For each adapter: `rlrr_scale` and `rlrr_shift`, (features).
    """

    adapter_layer_names = ("rlrr_scale", "rlrr_shift")
    neutral = AffineLayer.neutral

    def start(self, config: RLRRConfig) -> Mapping[str, Tensor | None]:
        scale, shift = init.affine(config, self.out_features)
        return {"rlrr_scale": scale, "rlrr_shift": shift if self.holds_shift else None}

    def combined(self, adapters: Sequence[str], weights: Sequence[float], exact: bool) -> Mapping[str, Tensor | None]:
        scale = combined_scale(self._vectors("rlrr_scale", adapters), weights)
        return {"rlrr_scale": scale, "rlrr_shift": self._weighted("rlrr_shift", adapters, weights)}
