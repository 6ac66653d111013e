"""Layers whose adapters amount to another weight and bias: W' and b' in place of the frozen W and b.

Merging puts other parameters in place of the frozen ones, which the layer keeps: unmerging is exact, a second adapter
meets the frozen weight and not one that is merged already, and another layer that shares the weight does not change.
What is learned is float32 even on a half-precision backbone (PEFT's default); an effective weight is made in that dtype
and used in the backbone's.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

import torch
from peft.tuners.tuners_utils import check_adapters_to_merge
from torch import Tensor, nn
from torch.nn import functional as F

from rlrr.backbones.kinds import CHANNELS_FIRST, RMS_NORMS
from rlrr.tuners.kept import KeptWeights, is_differentiated
from rlrr.tuners.layer import AdaptedLayer, by_group, grouped, slots_of
from rlrr.tuners.names import BASE
from rlrr.tuners.plain import check_own_weights, move_hooks

Weights = tuple[Tensor | None, Tensor | None]
"""A weight and a bias; None for one that a layer does not have."""


class ReweightedLayer(AdaptedLayer):
    """A layer under another weight and bias.

    A method gives `start` and `reweight`, and `call_base` for modules of another kind than linears, norms and
    convolutions. Where it has a faster form than a weight made anew it gives also `call_anew` (training),
    `forward_per_sample` and `separates` (mixed batches), or `weight_change`. Where dropout or noise stands inside its
    update it sets `trains_by_delta` and gives `delta`.
    """

    mergeable = True
    trains_by_delta: ClassVar[bool] = False
    """Whether training adds `delta` to the base output, in place of a call with another weight."""

    _frozen: tuple[nn.Parameter | None, nn.Parameter | None] | None = None  # while merged
    _cached: KeptWeights | None = None

    def __init__(self, base_layer: nn.Module, *args: Any, **kwargs: Any) -> None:
        super().__init__(base_layer, *args, **kwargs)
        move_hooks(base_layer, self)  # its forward is not called where another weight is used

    def describe(self, base_layer: nn.Module, **options: Any) -> None:
        """Set the numbers of features of a linear, convolution or norm; give a norm without a bias an empty one.

        Args:
            base_layer: The frozen module.
            **options: Unused.
        """
        base: Any = base_layer
        if isinstance(base, nn.Conv2d):
            self.in_features, self.out_features = base.in_channels, base.out_channels
        elif isinstance(base, nn.Linear):
            self.in_features, self.out_features = base.in_features, base.out_features
        else:
            self.in_features = self.out_features = math.prod(base.normalized_shape)
        if not hasattr(base, "bias"):  # an RmsNorm
            base.register_parameter("bias", None)

    @classmethod
    def check_base(cls, base_layer: nn.Module, name: str) -> None:
        check_own_weights(base_layer, name)

    def released(self) -> nn.Module:
        base = super().released()
        move_hooks(self, base)
        return base

    def reweight(
        self, weight: Tensor | None, bias: Tensor | None, config: Any, learned: Mapping[str, Tensor]
    ) -> Weights:
        """Compute weight and bias under one adapter, in the dtype of what it has learned.

        Args:
            weight: The frozen weight, in the base layer's shape; None for a norm that has none.
            bias: The frozen bias, or None.
            config: The adapter's settings.
            learned: The adapter's tensors, by container without prefix; absent ones have no entry.
        """
        raise NotImplementedError

    def call_base(self, x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
        """Run the base layer, a linear, convolution or norm, with another weight and bias; linear in both."""
        base: Any = self.get_base_layer()
        if isinstance(base, nn.Linear):
            assert weight is not None, "a linear has a weight"
            return F.linear(x, weight, bias)
        if isinstance(base, nn.Conv2d):
            return base._conv_forward(x, weight, bias)
        if not isinstance(base, CHANNELS_FIRST):
            return self._normalize(x, weight, bias)
        return self._normalize(x.movedim(1, -1), weight, bias).movedim(-1, 1)

    def _normalize(self, x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
        base: Any = self.get_base_layer()
        if isinstance(base, RMS_NORMS):
            return F.rms_norm(x, base.normalized_shape, weight, base.eps)
        return F.layer_norm(x, base.normalized_shape, weight, bias, base.eps)

    def separates(self, x: Tensor, adapters: int) -> bool:
        """Tell whether a mixed batch of so many adapters is run adapter by adapter, each with a weight of its own."""
        return False

    def forward_per_sample(self, x: Tensor, stacked: Mapping[str, Tensor], rows: Tensor, config: Any) -> Tensor:
        """Run each sample under the adapter in its own row of stacked tensors.

        Args:
            x: (samples * k, ...).
            stacked: Tensors of the adapters, by container without prefix, (adapters, ...).
            rows: (samples), the row of each sample's adapter, int64.
            config: Settings that the adapters share.
        """

        def run(row: int, group: Tensor, members: Sequence[int]) -> Tensor:
            learned = {name: tensor[row] for name, tensor in stacked.items()}
            return self.call_base(group, *self._cast(self.reweight(*self.frozen, config, learned)))

        return by_group(x, len(rows), grouped(rows.tolist()), run)

    @property
    def frozen(self) -> Weights:
        """Weight and bias before any merge."""
        return self._held() if self._frozen is None else self._frozen

    def _held(self) -> tuple[nn.Parameter | None, nn.Parameter | None]:
        """Give the weight and bias that the base layer holds now."""
        base: Any = self.get_base_layer()
        return base.weight, base.bias

    def effective(self, adapter_names: Sequence[str]) -> Weights:
        """Compute weight and bias under adapters side by side, each of which adds its change to the frozen ones."""
        changed = [self.reweight(*self.frozen, self.configs[name], self.learned(name)) for name in adapter_names]
        if len(changed) == 1:
            return self._cast(changed[0])
        weight, bias = self.frozen
        weights, biases = zip(*changed, strict=True)
        return self._cast((_sum_of_changes(weight, weights, 1.0), _sum_of_changes(bias, biases, 0.0)))

    def get_delta_weight(self, adapter_name: str) -> Tensor:
        """Compute W' - W of one adapter, in the dtype of what it has learned; W is 1 in a norm without weight."""
        weight, bias = self.frozen
        changed, _ = self.reweight(weight, bias, self.configs[adapter_name], self.learned(adapter_name))
        assert changed is not None, "an adapted layer has a weight"
        return changed - (1.0 if weight is None else weight)

    @torch.no_grad()
    def weight_change(self) -> float:
        """Compute the Frobenius norm of W' - W under the active adapters."""
        names = self._present(None)
        if not names:
            return 0.0
        change = sum(self.get_delta_weight(name).double() for name in names)
        assert isinstance(change, Tensor), "there are adapters"
        return torch.linalg.vector_norm(change).item()

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Put the effective weight and bias in place of the frozen ones.

        Args:
            safe_merge: Leave the layer as it is if the result is not finite.
            adapter_names: Adapters to merge; None for the active ones.

        Raises:
            ValueError: `safe_merge` and the result is not finite.
        """
        names = self._present(check_adapters_to_merge(self, adapter_names))
        if not names:
            return
        merged = self._merged(names, safe_merge)
        if self._frozen is None:
            self._frozen = self._held()
        trained = [parameter is not None and parameter.requires_grad for parameter in self._frozen]
        self._set_base(*(None if t is None else nn.Parameter(t, g) for t, g in zip(merged, trained, strict=True)))
        self.merged_adapters.extend(names)

    def check_merge(self, adapter_names: list[str] | None = None) -> None:
        """Refuse to merge adapters whose merged weights are not finite.

        Raises:
            ValueError: they are not finite.
        """
        self._merged([name for name in self._present(adapter_names) if name not in self.merged_adapters], safe=True)

    @torch.no_grad()
    def _merged(self, names: Sequence[str], safe: bool) -> Weights:
        """Compute weight and bias under the merged adapters and further ones."""
        merged = self.effective(names) if (names := [*self.merged_adapters, *names]) else self.frozen
        if safe and not all(tensor is None or torch.isfinite(tensor).all() for tensor in merged):
            raise ValueError(
                f"NaNs detected in the merged weights. The adapter {names[-1]} seems to be broken in {self.module_name}"
            )
        return merged

    def unmerge(self) -> None:
        """Put the frozen weight and bias back, bit for bit."""
        if not self.merged or self._frozen is None:
            warnings.warn("Already unmerged. Nothing to do.", stacklevel=2)
            return
        like, _ = self._held()
        assert like is not None, "a merged layer has a weight"
        for parameter in self._frozen:
            if parameter is not None:
                parameter.data = parameter.data.to(like)  # the model may have been moved or cast while merged
        self._set_base(*self._frozen)
        self._frozen = None
        self.merged_adapters.clear()

    def _set_base(self, weight: nn.Parameter | None, bias: nn.Parameter | None) -> None:
        self._cached = None
        base = self.get_base_layer()
        base.weight, base.bias = weight, bias

    def forward_adapted(self, x: Tensor, adapter_names: Sequence[str], *args: Any, **kwargs: Any) -> Tensor:
        x = self._cast_input(x)
        if self.training and self.trains_by_delta:
            return self.base_layer(x, *args, **kwargs) + self.delta(x, adapter_names)
        if is_differentiated():
            if not torch.compiler.is_compiling():
                self._cached = None  # training may follow, in evaluation mode too
            return self.call_anew(x, adapter_names)
        return self.call_base(x, *self._cached_weights(adapter_names, x.device))

    def call_anew(self, x: Tensor, adapter_names: Sequence[str]) -> Tensor:
        """Run the base layer under these adapters with a weight made for this call."""
        return self.call_base(x, *self._made_weights(adapter_names, x.device))

    def delta(self, x: Tensor, adapter_names: Sequence[str] | None = None) -> Tensor:
        """Compute what adapters add to the base output: the base layer under W' - W and b' - b.

        Args:
            x: Input of the layer.
            adapter_names: Adapters side by side; None for those that act, as in every layer.
        """
        names = self._acting(adapter_names)
        if not names:
            return torch.zeros_like(self.base_layer(x))
        weight, bias = self.frozen
        with torch.autocast(x.device.type, enabled=False):  # differences in the learned tensors' dtype, cast last
            changed = [self.reweight(weight, bias, self.configs[name], self.learned(name)) for name in names]
            weights, biases = zip(*changed, strict=True)
            change = sum(new - (1.0 if weight is None else weight) for new in weights)
            shifts = [new if bias is None else new - bias for new in biases if new is not None]
            change, shift = self._cast((change, sum(shifts) if shifts else None))
        return self.call_base(self._cast_input(x), change, shift)

    def _cast_input(self, x: Tensor) -> Tensor:
        """Cast an input to the frozen weight's dtype, as the base layer would be given it; autocast casts by itself."""
        weight, _ = self.frozen
        if weight is None or torch.is_autocast_enabled(x.device.type):
            return x
        return self._cast_input_dtype(x, weight.dtype)

    def train(self, mode: bool = True) -> Self:
        """Switch the mode, as for any module; a weight that was kept is given up."""
        self._cached = None
        return super().train(mode)

    def _made_weights(self, adapter_names: Sequence[str], device: torch.device) -> Weights:
        """Make the effective weight and bias in the learned tensors' own dtype, under autocast too."""
        with torch.autocast(device.type, enabled=False):
            return self.effective(adapter_names)

    @torch.no_grad()
    def _cached_weights(self, adapter_names: Sequence[str], device: torch.device) -> Weights:
        """Give the effective weight and bias, made again only if a tensor that goes into them has changed since."""
        frozen = [tensor for tensor in self.frozen if tensor is not None]
        learned = [tensor for name in adapter_names for tensor in self.learned(name).values()]
        if any(tensor.is_inference() for tensor in (*frozen, *learned)):  # whose changes are not counted
            return self._made_weights(adapter_names, device)
        kept = self._cached  # once: another thread may replace it at this moment
        if kept is None or not kept.fit(adapter_names, frozen, learned):
            # described before the weights are made: a change meanwhile is noticed next time
            kept = KeptWeights(adapter_names, frozen, learned)
            kept.keep(*self._made_weights(adapter_names, device))
            self._cached = kept
        return kept.weights

    def _read(self, name: str) -> Any:
        names = self._acting_on_all()
        if not names:
            return super()._read(name)
        device = next(
            tensor for tensor in (*self.frozen, *self.learned(names[0]).values()) if tensor is not None
        ).device
        make = self._made_weights if is_differentiated() else self._cached_weights
        weight, bias = make(names, device)
        return weight if name == "weight" else bias

    def forward_mixed(self, x: Tensor, adapter_names: Sequence[str], *args: Any, **kwargs: Any) -> Tensor:
        x = self._cast_input(x)
        names, present = adapter_names, set(adapter_names)
        separate = self.separates(x, len(present))
        keys = {name: name if name == BASE or separate else self.form(name) for name in present}

        def run(key: Any, group: Tensor, members: Sequence[int]) -> Tensor:
            if key == BASE:
                return self.base_layer(group)
            if separate:
                return self.call_anew(group, [key])
            slots, rows = slots_of([names[sample] for sample in members])
            config = self.configs[slots[0]]
            return self.forward_per_sample(group, self.stacked(slots), torch.tensor(rows, device=x.device), config)

        return by_group(x, len(names), grouped([keys[name] for name in names]), run)

    def _cast(self, weights: Weights) -> Weights:
        """Cast an effective weight and bias to the frozen weight's dtype."""
        frozen, _ = self.frozen
        if frozen is None:
            return weights
        weight, bias = weights
        return None if weight is None else weight.to(frozen.dtype), None if bias is None else bias.to(frozen.dtype)


def _sum_of_changes(frozen: Tensor | None, changed: Sequence[Tensor | None], neutral: float) -> Tensor | None:
    """Add the changes of several adapters to a frozen tensor, which is `neutral` where there is none."""
    tensors = [tensor for tensor in changed if tensor is not None]
    if not tensors:
        return None
    start = torch.full_like(tensors[0], neutral) if frozen is None else frozen
    result = start
    for tensor in tensors:
        result = result + (tensor - start)
    return result
