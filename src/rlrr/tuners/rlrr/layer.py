"""The adapted layers: each holds a frozen base layer and, for every adapter, the vectors that change it.

Merging keeps references to the frozen weight and bias, so that unmerging is exact and the vectors of a second
adapter meet the frozen weight and not one that is merged already. Vectors are float32 even on a half-precision
backbone (PEFT's default); an effective weight is made in their dtype and used in the backbone's.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer, check_adapters_to_merge
from torch import Tensor, nn
from torch.nn import functional as F

from rlrr.errors import RLRRError
from rlrr.kernel import rescaled_linear_by_row, rescaling
from rlrr.tuners.rlrr.config import RLRRConfig

BASE = "__base__"  # PEFT's name for "no adapter" in a mixed batch


class RLRRLayer(nn.Module, BaseTunerLayer):
    """What both kinds of adapted layer share: merging, unmerging and the choice of adapters in forward."""

    other_param_names = ("configs",)

    def __init__(self, base_layer: nn.Module, adapter_name: str, config: RLRRConfig, blocks: int) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.configs: dict[str, RLRRConfig] = {}
        self.merged_adapters: list[str] = []
        self._disable_adapters = False
        self._active_adapter = adapter_name
        self._frozen: tuple[Tensor | None, Tensor | None] | None = None  # (weight, bias) while merged
        for name in self.adapter_layer_names:
            setattr(self, name, nn.ParameterDict())
        self.update_layer(adapter_name, config, blocks)

    def update_layer(self, adapter_name: str, config: RLRRConfig, blocks: int) -> None:
        """Add the vectors of one adapter; `blocks` is the number of projections stacked in the base layer."""
        self.configs[adapter_name] = config
        self.create_vectors(adapter_name, config, blocks)
        self._move_adapter_to_device_of_base_layer(adapter_name)
        self.set_adapter(self.active_adapters, inference_mode=config.inference_mode)

    def create_vectors(self, adapter_name: str, config: RLRRConfig, blocks: int) -> None:
        """Make and initialise the parameters of one adapter."""
        raise NotImplementedError

    def effective(self, adapter_names: Sequence[str]) -> tuple[Tensor | None, Tensor | None]:
        """Weight and bias under these adapters, which act side by side: each adds its change to the frozen ones."""
        raise NotImplementedError

    def call_base(self, x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
        """Run the base layer with another weight and bias."""
        raise NotImplementedError

    def change_rows(self, x: Tensor, result: Tensor, rows: Tensor, adapter_names: Sequence[str]) -> None:
        """Apply to `result[rows]`, in place, the change that `adapter_names` (one for each row) make to the layer."""
        raise NotImplementedError

    @property
    def frozen(self) -> tuple[Tensor | None, Tensor | None]:
        """Weight and bias before any merge."""
        base: Any = self.get_base_layer()
        return self._frozen or (base.weight, base.bias)

    def _vectors(self, name: str, adapter_names: Sequence[str]) -> list[Tensor]:
        vectors = getattr(self, name)
        return [vectors[adapter] for adapter in adapter_names if adapter in vectors]

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
        with torch.autocast(x.device.type, enabled=False):  # the vectors' own dtype, as promised above
            weight, bias = self.effective(names)
        if not torch.is_autocast_enabled(x.device.type) and weight is not None:
            x = self._cast_input_dtype(x, weight.dtype)
        return self.call_base(x, weight, bias)

    def _forward_mixed(self, x: Tensor, adapter_names: list[str]) -> Tensor:
        if self.merged:
            raise ValueError(
                "Cannot pass `adapter_names` when there are merged adapters, please call `unmerge_adapter` first."
            )
        if len(x) % len(adapter_names):
            raise ValueError(
                f"An adapted layer got {len(x)} rows for {len(adapter_names)} samples: it cannot tell whose they are."
            )
        # windowed attention splits a sample into consecutive rows
        per_row = [name for name in adapter_names for _ in range(len(x) // len(adapter_names))]
        result = self.base_layer(x)
        # adapters of one form share one product; usually there is one form
        forms: dict[tuple, list[int]] = {}
        for row, name in enumerate(per_row):
            if name in self.configs:
                forms.setdefault(self._form(name), []).append(row)
        for rows in forms.values():
            self.change_rows(x, result, torch.tensor(rows, device=x.device), [per_row[row] for row in rows])
        return result

    def _form(self, adapter_name: str) -> tuple:
        """What two adapters must have in common for their vectors to be stacked."""
        config = self.configs[adapter_name]
        shapes = (
            v[adapter_name].shape if adapter_name in v else None for v in map(self._dict, self.adapter_layer_names)
        )
        return (config.residual, config.multiply_weight, *shapes)

    def _dict(self, name: str) -> nn.ParameterDict:
        return getattr(self, name)

    def _stacked(self, name: str, adapter_names: Sequence[str], dtype: torch.dtype) -> Tensor | None:
        """The vectors of the adapter of each row, (rows, ...); None if these adapters have none of that name."""
        unique = list(dict.fromkeys(adapter_names))
        vectors = self._vectors(name, unique)
        if not vectors:
            return None
        index = torch.tensor([unique.index(adapter) for adapter in adapter_names], device=vectors[0].device)
        return torch.stack(vectors).to(dtype)[index]

    def __repr__(self) -> str:
        return "rlrr." + super().__repr__()


class Linear(RLRRLayer):
    """A linear with `W' = W + (scale_out scale_in) ⊙ W` and `b' = b + shift` (Eq. 16).

    For each adapter: `rlrr_scale_out` (out, r); `rlrr_scale_in` (r, in), or (blocks, r, in) for a fused linear;
    `rlrr_shift` (out).
    """

    adapter_layer_names = ("rlrr_scale_out", "rlrr_scale_in", "rlrr_shift")

    def __init__(self, base_layer: nn.Module, adapter_name: str, config: RLRRConfig, blocks: int) -> None:
        self.in_features, self.out_features = base_layer.in_features, base_layer.out_features
        super().__init__(base_layer, adapter_name, config, blocks)

    def create_vectors(self, adapter_name: str, config: RLRRConfig, blocks: int) -> None:
        """Kaiming-uniform scales and zero shifts, as in the paper's code, or what `init_weights` says.

        The fan-in of `scale_out`, (out, r), is r, so that at rank 1 it starts in ±√6 whatever the width.
        """
        if self.out_features % blocks:
            raise RLRRError(
                f"fused_blocks={blocks} does not divide the {self.out_features} outputs of a layer it is meant for: "
                "give the number of projections stacked there, or 1."
            )
        if config.sides != "in":
            scale_out = torch.empty(self.out_features, config.rank).uniform_(-1, 1) * math.sqrt(6 / config.rank)
            self.rlrr_scale_out[adapter_name] = nn.Parameter(scale_out)
        if config.sides != "out":
            shape = (config.rank, self.in_features) if blocks == 1 else (blocks, config.rank, self.in_features)
            scale_in = torch.empty(shape).uniform_(-1, 1) * math.sqrt(6 / self.in_features)
            self.rlrr_scale_in[adapter_name] = nn.Parameter(scale_in)
        if config.shift:
            shift = (
                torch.randn(self.out_features) * 0.02
                if config.init_weights is False
                else torch.zeros(self.out_features)
            )
            self.rlrr_shift[adapter_name] = nn.Parameter(shift)
        if config.init_weights is True:
            self._start_at_pretrained(adapter_name, config)

    def _start_at_pretrained(self, adapter_name: str, config: RLRRConfig) -> None:
        # S is 0 with the residual: one side is zero and the other stays random, as two zeros would get no gradient.
        # Without it S is 1: the first of the r terms makes it, and the others, which are 0, differ from it.
        nn.init.zeros_((self.rlrr_scale_in if config.sides == "in" else self.rlrr_scale_out)[adapter_name])
        if not config.residual:
            with torch.no_grad():
                for vectors in self._vectors("rlrr_scale_out", [adapter_name]):
                    vectors[:, 0] = 1
                for vectors in self._vectors("rlrr_scale_in", [adapter_name]):
                    vectors[..., 0, :] = 1

    def effective(self, adapter_names: Sequence[str]) -> tuple[Tensor, Tensor | None]:  # noqa: D102
        weight, bias = self.frozen
        dtype = weight.dtype
        new_weight = weight
        for name in adapter_names:
            config = self.configs[name]
            scale_out, scale_in = (
                next(iter(self._vectors(side, [name])), None) for side in ("rlrr_scale_out", "rlrr_scale_in")
            )
            new_weight = new_weight + rescaling(
                weight,
                scale_out,
                scale_in,
                residual=config.residual,
                multiply_weight=config.multiply_weight,
            )
        shifts = self._vectors("rlrr_shift", adapter_names)
        if shifts:
            bias = sum(shifts) if bias is None else bias + sum(shifts)
        return new_weight.to(dtype), None if bias is None else bias.to(dtype)

    def call_base(self, x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:  # noqa: D102
        return F.linear(x, weight, bias)

    def change_rows(self, x: Tensor, result: Tensor, rows: Tensor, adapter_names: Sequence[str]) -> None:  # noqa: D102
        config = self.configs[adapter_names[0]]
        scale_out, scale_in, shift = (self._stacked(name, adapter_names, x.dtype) for name in self.adapter_layer_names)
        change = rescaled_linear_by_row(
            x[rows],
            self.frozen[0],
            scale_out,
            scale_in,
            residual=config.residual,
            multiply_weight=config.multiply_weight,
        )
        if shift is not None:
            change = change + shift.view(len(shift), *[1] * (change.ndim - 2), -1)
        result[rows] += change.to(result.dtype)


class Affine(RLRRLayer):
    """A LayerNorm or convolution whose output gains a scale and a shift per feature (the paper's use of SSF).

    For each adapter: `rlrr_scale` and `rlrr_shift`, (features). They are folded into the layer's own weight and
    bias, so that they cost no further pass over the output.
    """

    adapter_layer_names = ("rlrr_scale", "rlrr_shift")

    def __init__(self, base_layer: nn.Module, adapter_name: str, config: RLRRConfig, blocks: int) -> None:
        # features stand in dimension 1 of a convolution's output, in the last of a norm's
        self.is_convolution = isinstance(base_layer, nn.Conv2d)
        if self.is_convolution:
            self.in_features, self.out_features = base_layer.in_channels, base_layer.out_channels
        else:
            self.in_features = self.out_features = math.prod(base_layer.normalized_shape)
        super().__init__(base_layer, adapter_name, config, blocks)

    def create_vectors(self, adapter_name: str, config: RLRRConfig, blocks: int) -> None:
        """N(1, 0.02) scales and N(0, 0.02) shifts, as in the paper's code; 1 and 0 for `init_weights=True`."""
        spread = 0.0 if config.init_weights is True else 0.02
        self.rlrr_scale[adapter_name] = nn.Parameter(1 + spread * torch.randn(self.out_features))
        if config.shift:
            self.rlrr_shift[adapter_name] = nn.Parameter(spread * torch.randn(self.out_features))

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

    def call_base(self, x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:  # noqa: D102
        base = self.get_base_layer()
        if self.is_convolution:
            return base._conv_forward(x, weight, bias)
        return F.layer_norm(x, base.normalized_shape, weight, bias, base.eps)

    def change_rows(self, x: Tensor, result: Tensor, rows: Tensor, adapter_names: Sequence[str]) -> None:  # noqa: D102
        scale, shift = (self._stacked(name, adapter_names, result.dtype) for name in self.adapter_layer_names)
        shape = (len(rows), *[1] * (result.ndim - 2))
        shape = (len(rows), -1, *[1] * (result.ndim - 2)) if self.is_convolution else (*shape, -1)
        result[rows] *= scale.view(shape)
        if shift is not None:
            result[rows] += shift.view(shape)
