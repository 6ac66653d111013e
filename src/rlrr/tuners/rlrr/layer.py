"""The adapted layers: each holds a frozen base layer and, for every adapter, the vectors that change it.

Merging keeps references to the frozen weight and bias, so that unmerging is exact and the vectors of a second
adapter meet the frozen weight and not one that is merged already. Vectors are float32 even on a half-precision
backbone (PEFT's default); an effective weight is made in their dtype and used in the backbone's.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, Self

import torch
from peft.tuners.tuners_utils import BaseTunerLayer, check_adapters_to_merge
from torch import Tensor, nn
from torch.nn import functional as F

from rlrr.errors import RLRRError
from rlrr.tuners.rlrr import init
from rlrr.tuners.rlrr.config import RLRRConfig
from rlrr.tuners.rlrr.functional import (
    product_dtype,
    rescaled_linear,
    rescaled_linear_by_row,
    rescaling,
    rescaling_norm,
)

BASE = "__base__"  # PEFT's name for "no adapter" in a mixed batch

# Tokens of an adapter in a mixed batch from which making its weight takes less time than a second product with the
# frozen one: in single precision on a CPU, and in half precision there, which a GPU takes over unmeasured.
TOKENS_FOR_OWN_WEIGHT, TOKENS_WHERE_PRODUCTS_ARE_QUICK = 128, 512


class RLRRLayer(nn.Module, BaseTunerLayer):
    """What all kinds of adapted layer share: merging, unmerging and the choice of adapters in forward."""

    other_param_names = ("configs",)
    mergeable = mixable = combinable = splittable = True
    neutral: Mapping[str, float] = {}
    """Value of each learned vector, by its name without prefix, that leaves the layer as it was."""
    decays = ("*patch_embed*.rlrr_*",)
    """Patterns of the full names of vectors that decay though the paper's code lets no other shift or norm decay."""

    def __init__(self, base_layer: nn.Module, adapter_name: str, config: RLRRConfig, blocks: int) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.configs: dict[str, RLRRConfig] = {}
        self.merged_adapters: list[str] = []
        self._disable_adapters = False
        self._active_adapter = adapter_name
        self._frozen: tuple[Tensor | None, Tensor | None] | None = None  # (weight, bias) while merged
        self._built: tuple[Any, tuple[Tensor | None, Tensor | None], list[Tensor]] | None = None  # see _remembered
        for name in self.adapter_layer_names:
            setattr(self, name, nn.ParameterDict())
        self.update_layer(adapter_name, config, blocks)

    def update_layer(self, adapter_name: str, config: RLRRConfig, blocks: int) -> None:
        """Add the vectors of one adapter; `blocks` is the number of projections stacked in the base layer."""
        self.configs[adapter_name] = config
        self._set_vectors(adapter_name, *self.start(config, blocks))
        self._move_adapter_to_device_of_base_layer(adapter_name)
        self.set_adapter(self.active_adapters, inference_mode=config.inference_mode)

    def add_combination(
        self, adapter_name: str, adapters: Sequence[str], weights: Sequence[float], exact: bool
    ) -> None:
        """Give `adapter_name` the weighted sum of `adapters`: of their changes if `exact`, else of their vectors."""
        with torch.no_grad():
            vectors = self.combined(adapters, weights, exact)
        self._set_vectors(adapter_name, *vectors, trainable=False)

    def start(self, config: RLRRConfig, blocks: int) -> tuple[Tensor | None, ...]:
        """The vectors of a new adapter, in the order of `adapter_layer_names`."""
        raise NotImplementedError

    def combined(self, adapters: Sequence[str], weights: Sequence[float], exact: bool) -> tuple[Tensor | None, ...]:
        """The vectors of a weighted sum, in the order of `adapter_layer_names`."""
        raise NotImplementedError

    def effective(self, adapter_names: Sequence[str]) -> tuple[Tensor | None, Tensor | None]:
        """Weight and bias under these adapters, which act side by side: each adds its change to the frozen ones."""
        raise NotImplementedError

    def call_base(self, x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
        """Run the base layer with another weight and bias."""
        raise NotImplementedError

    def separates(self, x: Tensor, adapters: int) -> bool:
        """Whether a batch of so many adapters is run adapter by adapter, and not with all of one form together."""
        return False

    def call_together(self, x: Tensor, adapter_names: Sequence[str]) -> Tensor:
        """Run each sample under its own of `adapter_names`, which are of one form."""
        raise NotImplementedError

    @property
    def frozen(self) -> tuple[Tensor | None, Tensor | None]:
        """Weight and bias before any merge."""
        base: Any = self.get_base_layer()
        return self._frozen or (base.weight, base.bias)

    def _vectors(self, name: str, adapter_names: Sequence[str]) -> list[Tensor]:
        vectors = getattr(self, name)
        return [vectors[adapter] for adapter in adapter_names if adapter in vectors]

    def _set_vectors(self, adapter_name: str, *vectors: Tensor | None, trainable: bool = True) -> None:
        for name, vector in zip(self.adapter_layer_names, vectors, strict=True):
            if vector is not None:
                self._dict(name)[adapter_name] = nn.Parameter(vector, requires_grad=trainable)

    def _weighted(self, name: str, adapters: Sequence[str], weights: Sequence[float]) -> Tensor | None:
        vectors = self._vectors(name, adapters)
        if not vectors:
            return None
        return torch.stack([weight * vector for weight, vector in zip(weights, vectors, strict=True)]).sum(0)

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Put the effective weight and bias in place of the frozen ones.

        Args:
            safe_merge: Leave the layer as it is if the result is not finite.
            adapter_names: Adapters to merge; None for the active ones.

        Raises:
            ValueError: `safe_merge` and the result is not finite.
        """
        names = [name for name in check_adapters_to_merge(self, adapter_names) if name in self.configs]
        if not names:
            return
        with torch.no_grad():
            merged = self.effective([*self.merged_adapters, *names])
        if safe_merge and not all(tensor is None or torch.isfinite(tensor).all() for tensor in merged):
            raise ValueError(f"NaNs detected in the merged weights. The adapter {names[0]} seems to be broken")
        base = self.get_base_layer()
        if self._frozen is None:
            self._frozen = tuple(None if p is None else p.data for p in (base.weight, base.bias))
        self._set_base(*merged)
        self.merged_adapters.extend(names)

    def unmerge(self) -> None:
        """Put the frozen weight and bias back, bit for bit."""
        if not self.merged or self._frozen is None:
            warnings.warn("Already unmerged. Nothing to do.", stacklevel=2)
            return
        like = self.get_base_layer().weight  # the model may have been moved or cast while merged
        self._set_base(*(None if tensor is None else tensor.to(like) for tensor in self._frozen))
        self._frozen = None
        self.merged_adapters.clear()

    def _set_base(self, weight: Tensor | None, bias: Tensor | None) -> None:
        self._built = None
        base = self.get_base_layer()
        for name, value in (("weight", weight), ("bias", bias)):
            parameter = getattr(base, name)
            if value is None or parameter is None:
                setattr(base, name, None if value is None else nn.Parameter(value, requires_grad=False))
            else:
                parameter.data = value

    def forward(self, x: Tensor, *args: Any, adapter_names: list[str] | None = None, **kwargs: Any) -> Tensor:
        """Run the layer under the active adapters, or each sample under its own of `adapter_names`."""
        if self.disable_adapters:
            if self.merged:
                self.unmerge()
            return self.base_layer(x, *args, **kwargs)
        if adapter_names is not None:
            return self._forward_mixed(x, adapter_names)
        names = [name for name in self.active_adapters if name in self.configs]
        if self.merged or not names:
            return self.base_layer(x, *args, **kwargs)
        weight, _ = self.frozen
        if weight is not None and not torch.is_autocast_enabled(x.device.type):
            x = self._cast_input_dtype(x, weight.dtype)
        return self.call_adapted(x, names)

    def call_adapted(self, x: Tensor, adapter_names: Sequence[str]) -> Tensor:
        """Run the base layer under these adapters, whose weight is kept for the next time if nothing is trained."""
        if torch.is_grad_enabled() or torch.compiler.is_compiling():
            return self.call_anew(x, adapter_names)
        return self.call_base(x, *self._remembered(adapter_names, x.device))

    def call_anew(self, x: Tensor, adapter_names: Sequence[str]) -> Tensor:
        """Run the base layer under these adapters with a weight made for this call."""
        return self.call_base(x, *self._made(adapter_names, x.device))

    def train(self, mode: bool = True) -> Self:
        """As any module; what is kept of weights is given up."""
        self._built = None
        return super().train(mode)

    def _made(self, adapter_names: Sequence[str], device: torch.device) -> tuple[Tensor | None, Tensor | None]:
        """What `effective` gives, in the vectors' own dtype, as promised above, under autocast too."""
        with torch.autocast(device.type, enabled=False):
            return self.effective(adapter_names)

    @torch.no_grad()
    def _remembered(self, adapter_names: Sequence[str], device: torch.device) -> tuple[Tensor | None, Tensor | None]:
        """What `_made` gives, made again only if a tensor that goes into it has changed since.

        A change made through `.data` is one that torch does not count: `eval()` after it makes all weights anew.
        """
        tensors = [tensor for tensor in self.frozen if tensor is not None]
        for name in self.adapter_layer_names:
            tensors += self._vectors(name, adapter_names)
        if any(tensor.is_inference() for tensor in tensors):  # whose changes are not counted
            return self._made(adapter_names, device)
        state = list(adapter_names), [(tensor.data_ptr(), tensor._version) for tensor in tensors]
        if self._built is None or self._built[0] != state:
            made = self._made(adapter_names, device)
            # the tensors are held so that no other one comes to stand at their address
            self._built = state, made, [tensor.detach() for tensor in tensors]
            return made
        return self._built[1]

    def _forward_mixed(self, x: Tensor, adapter_names: list[str]) -> Tensor:
        if self.merged:
            raise ValueError(
                "Cannot pass `adapter_names` when there are merged adapters, please call `unmerge_adapter` first."
            )
        if len(x) % len(adapter_names):
            raise ValueError(
                f"An adapted layer got {len(x)} rows for {len(adapter_names)} samples: it cannot tell whose they are."
            )
        present = {name if name in self.configs else BASE for name in adapter_names}
        if len(present) == 1:
            (name,) = present
            return self.base_layer(x) if name == BASE else self.call_adapted(x, [name])
        separate = self.separates(x, len(present))
        keys = {name: BASE if name == BASE else name if separate else self._form(name) for name in present}
        groups: dict[Any, list[int]] = {}
        for sample, name in enumerate(adapter_names):
            groups.setdefault(keys.get(name, BASE), []).append(sample)
        if len(groups) == 1:
            return self.call_together(x, adapter_names)
        # windowed attention splits a sample into consecutive rows
        samples = x.unflatten(0, (len(adapter_names), -1))
        result = None
        for key, members in groups.items():
            index = torch.tensor(members, device=x.device)
            own = samples.index_select(0, index).flatten(0, 1)
            if key == BASE:
                part = self.base_layer(own)
            elif separate:
                part = self.call_anew(own, [key])
            else:
                part = self.call_together(own, [adapter_names[sample] for sample in members])
            part = part.unflatten(0, (len(members), -1))
            if result is None:
                result = part.new_empty(len(samples), *part.shape[1:])
            result[index] = part
        assert result is not None, "there are adapter names"
        return result.flatten(0, 1)

    def _form(self, adapter_name: str) -> tuple:
        """What two adapters must have in common for their vectors to be stacked."""
        config = self.configs[adapter_name]
        blocks = tuple((config.fused_blocks or {}).items())
        return config.residual, config.multiply_weight, config.rank, config.sides, config.shift, blocks

    def _dict(self, name: str) -> nn.ParameterDict:
        return getattr(self, name)

    def _stacked(self, adapter_names: Sequence[str]) -> list[Tensor | None]:
        """The vectors of the adapter of each sample, in the order of `adapter_layer_names`; None if there are none."""
        found = (self._vectors(name, adapter_names) for name in self.adapter_layer_names)
        return [torch.stack(vectors) if vectors else None for vectors in found]

    def __repr__(self) -> str:
        return "rlrr." + super().__repr__()


class Rescaled(RLRRLayer):
    """A layer whose weight, seen as a matrix, is `W' = W + (scale_out scale_in) ⊙ W`, and `b' = b + shift` (Eq. 16).

    For each adapter, where the matrix is (rows, columns): `rlrr_scale_out` (rows, r); `rlrr_scale_in` (r, columns),
    or (blocks, r, columns) for a weight of stacked blocks; `rlrr_shift` (out).
    """

    adapter_layer_names = ("rlrr_scale_out", "rlrr_scale_in", "rlrr_shift")
    neutral = {"scale_out": 0, "scale_in": 0, "shift": 0}  # noqa: RUF012

    def as_matrix(self, weight: Tensor) -> Tensor:
        """The weight as a matrix; its rows belong to outputs, in order."""
        raise NotImplementedError

    def from_matrix(self, matrix: Tensor) -> Tensor:
        """The weight of which `matrix` is the `as_matrix`."""
        raise NotImplementedError

    def start(self, config: RLRRConfig, blocks: int) -> tuple[Tensor | None, ...]:  # noqa: D102
        if self.out_features % blocks:
            raise RLRRError(
                f"fused_blocks={blocks} does not divide the {self.out_features} outputs of a layer it is meant for: "
                "give the number of projections stacked there, or 1."
            )
        rows, columns = self.as_matrix(self.frozen[0]).shape
        return *init.scales(config, rows, columns, blocks), init.shift(config, self.out_features)

    def combined(  # noqa: D102
        self, adapters: Sequence[str], weights: Sequence[float], exact: bool
    ) -> tuple[Tensor | None, ...]:
        outs, ins = (self._vectors(name, adapters) for name in ("rlrr_scale_out", "rlrr_scale_in"))
        shift = self._weighted("rlrr_shift", adapters, weights)
        if exact and outs and ins:  # the terms of all, with the weights on one side
            outs = [weight * vector for weight, vector in zip(weights, outs, strict=True)]
            return torch.cat(outs, -1), torch.cat(ins, -2), shift
        return *(self._weighted(name, adapters, weights) for name in ("rlrr_scale_out", "rlrr_scale_in")), shift

    def effective(self, adapter_names: Sequence[str]) -> tuple[Tensor, Tensor | None]:  # noqa: D102
        weight, bias = self.frozen
        matrix = changed = self.as_matrix(weight)
        for name in adapter_names:
            config = self.configs[name]
            scale_out, scale_in = (
                next(iter(self._vectors(side, [name])), None) for side in ("rlrr_scale_out", "rlrr_scale_in")
            )
            changed = changed + rescaling(
                matrix,
                scale_out,
                scale_in,
                residual=config.residual,
                multiply_weight=config.multiply_weight,
            )
        shifts = self._vectors("rlrr_shift", adapter_names)
        if shifts:
            bias = sum(shifts) if bias is None else bias + sum(shifts)
        return self.from_matrix(changed).to(weight.dtype), None if bias is None else bias.to(weight.dtype)

    def weight_change(self) -> float:
        """Frobenius norm of W' - W under the active adapter, in closed form."""
        (adapter,) = self.active_adapters
        config = self.configs[adapter]
        return rescaling_norm(
            self.as_matrix(self.frozen[0]),
            self._dict("rlrr_scale_out").get(adapter),
            self._dict("rlrr_scale_in").get(adapter),
            residual=config.residual,
            multiply_weight=config.multiply_weight,
        )


class Linear(Rescaled):
    """A linear, whose weight is the matrix."""

    def __init__(self, base_layer: nn.Module, adapter_name: str, config: RLRRConfig, blocks: int) -> None:
        self.in_features, self.out_features = base_layer.in_features, base_layer.out_features
        super().__init__(base_layer, adapter_name, config, blocks)

    def as_matrix(self, weight: Tensor) -> Tensor:  # noqa: D102
        return weight

    def from_matrix(self, matrix: Tensor) -> Tensor:  # noqa: D102
        return matrix

    def call_base(self, x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:  # noqa: D102
        return F.linear(x, weight, bias)

    def separates(self, x: Tensor, adapters: int) -> bool:  # noqa: D102
        quick = x.device.type != "cpu" or product_dtype(self.frozen[0].dtype, x.device).itemsize < 4
        return x.numel() // x.shape[-1] >= adapters * (
            TOKENS_WHERE_PRODUCTS_ARE_QUICK if quick else TOKENS_FOR_OWN_WEIGHT
        )

    def call_anew(self, x: Tensor, adapter_names: Sequence[str]) -> Tensor:  # noqa: D102
        weight, bias = self.frozen
        if len(adapter_names) > 1 or weight.requires_grad:
            return super().call_anew(x, adapter_names)
        (name,) = adapter_names
        config = self.configs[name]
        vectors = (self._dict(kind).get(name) for kind in self.adapter_layer_names)
        return rescaled_linear(
            x,
            weight,
            bias,
            *vectors,
            residual=config.residual,
            multiply_weight=config.multiply_weight,
            tokens=config.gradient_tokens if self.training else 1.0,
        )

    def call_together(self, x: Tensor, adapter_names: Sequence[str]) -> Tensor:  # noqa: D102
        config = self.configs[adapter_names[0]]
        weight, bias = self.frozen
        dtype = product_dtype(weight.dtype, x.device)
        scale_out, scale_in, shift = self._stacked(adapter_names)
        if shift is not None:
            bias = shift if bias is None else bias + shift
        samples = x.unflatten(0, (len(adapter_names), -1))
        tensors = (None if t is None else t.to(dtype) for t in (samples, weight, bias, scale_out, scale_in))
        with torch.autocast(x.device.type, enabled=False):
            result = rescaled_linear_by_row(*tensors, residual=config.residual, multiply_weight=config.multiply_weight)
        return result.flatten(0, 1)


class Affine(RLRRLayer):
    """A LayerNorm or convolution whose output gains a scale and a shift per feature (the paper's use of SSF).

    For each adapter: `rlrr_scale` and `rlrr_shift`, (features). They are folded into the layer's own weight and
    bias, so that they cost no further pass over the output.
    """

    adapter_layer_names = ("rlrr_scale", "rlrr_shift")
    neutral = {"scale": 1, "shift": 0}  # noqa: RUF012

    def __init__(self, base_layer: nn.Module, adapter_name: str, config: RLRRConfig, blocks: int) -> None:
        # features stand in dimension 1 of a convolution's output, in the last of a norm's
        self.is_convolution = isinstance(base_layer, nn.Conv2d)
        if self.is_convolution:
            self.in_features, self.out_features = base_layer.in_channels, base_layer.out_channels
        else:
            self.in_features = self.out_features = math.prod(base_layer.normalized_shape)
        super().__init__(base_layer, adapter_name, config, blocks)

    def start(self, config: RLRRConfig, blocks: int) -> tuple[Tensor | None, ...]:  # noqa: D102
        return init.affine(config, self.out_features)

    def combined(  # noqa: D102
        self, adapters: Sequence[str], weights: Sequence[float], exact: bool
    ) -> tuple[Tensor | None, ...]:
        scale, shift = (self._weighted(name, adapters, weights) for name in self.adapter_layer_names)
        assert scale is not None, "every adapter has a scale here"
        return 1 - sum(weights) + scale, shift  # 1 + Σ w (scale - 1)

    def effective(self, adapter_names: Sequence[str]) -> tuple[Tensor | None, Tensor | None]:  # noqa: D102
        weight, bias = self.frozen
        scales = self._vectors("rlrr_scale", adapter_names)
        scale = 1 + sum(scale - 1 for scale in scales) if len(scales) > 1 else scales[0]
        dtype = scale.dtype if weight is None else weight.dtype
        new_weight = scale if weight is None else weight * scale.view(-1, *[1] * (weight.ndim - 1))
        new_bias = None if bias is None else bias * scale
        shifts = self._vectors("rlrr_shift", adapter_names)
        if shifts:
            new_bias = sum(shifts) if new_bias is None else new_bias + sum(shifts)
        return new_weight.to(dtype), None if new_bias is None else new_bias.to(dtype)

    def weight_change(self) -> float:
        """Frobenius norm of W' - W of a convolution, each output of which is scaled."""
        (adapter,) = self.active_adapters
        return rescaling_norm(self.frozen[0].flatten(1), self._dict("rlrr_scale")[adapter][:, None] - 1, None)

    def call_base(self, x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:  # noqa: D102
        base = self.get_base_layer()
        if self.is_convolution:
            return base._conv_forward(x, weight, bias)
        return F.layer_norm(x, base.normalized_shape, weight, bias, base.eps)

    def call_together(self, x: Tensor, adapter_names: Sequence[str]) -> Tensor:  # noqa: D102
        result = self.base_layer(x).unflatten(0, (len(adapter_names), -1))
        shape = [len(adapter_names), *[1] * (result.ndim - 1)]
        shape[2 if self.is_convolution else -1] = -1
        scale, shift = (None if v is None else v.to(result.dtype).view(shape) for v in self._stacked(adapter_names))
        result *= scale
        if shift is not None:
            result += shift
        return result.flatten(0, 1)
