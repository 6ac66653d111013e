"""Linears whose adapters add to the output what amounts to another weight, with dropout inside while they train.

Training computes the update apart from the base output, so that dropout can stand inside it; in evaluation, merged and
for `get_delta_weight` the same update is a change of weight and bias.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from rlrr.tuners.layer import by_group, grouped
from rlrr.tuners.reweighted import ReweightedLayer


class UpdateLayer(ReweightedLayer):
    """A linear and, for each adapter, an update of its output that is linear in the input but for dropout.

    A method gives `start`, `reweight` and `update`, which without dropout are the same function.
    """

    trains_by_delta = True

    def update(self, x: Tensor, config: Any, learned: Mapping[str, Tensor]) -> Tensor:
        """Compute what one adapter adds to the output, with dropout while training.

        Args:
            x: (..., in_features), in the dtype of what is learned, but for autocast.
            config: The adapter's settings.
            learned: The adapter's tensors, by container without prefix.
        """
        raise NotImplementedError

    def delta(self, x: Tensor, adapter_names: Sequence[str] | None = None) -> Tensor:
        """Compute what adapters add to the base output, by `update` while training, else by the change of weights.

        Args:
            x: Input of the layer.
            adapter_names: Adapters side by side; None for those that act, as in every layer.
        """
        names = self._acting(adapter_names)
        if not self.training or not names:
            return super().delta(x, adapter_names)
        updates = [self._update(x, self.configs[name], self.learned(name)) for name in names]
        return torch.stack(updates).sum(0) if len(updates) > 1 else updates[0]

    def forward_per_sample(self, x: Tensor, stacked: Mapping[str, Tensor], rows: Tensor, config: Any) -> Tensor:
        def run(row: int, group: Tensor, members: Sequence[int]) -> Tensor:
            return self._update(group, config, {name: tensor[row] for name, tensor in stacked.items()})

        return self.base_layer(x) + by_group(x, len(rows), grouped(rows.tolist()), run)

    def _update(self, x: Tensor, config: Any, learned: Mapping[str, Tensor]) -> Tensor:
        dtype = next(iter(learned.values())).dtype
        given = x if torch.is_autocast_enabled(x.device.type) else x.to(dtype)
        return self.update(given, config, learned).to(x.dtype)


class InputLayer(UpdateLayer):
    """A linear whose input h becomes `h + A(h)`, A linear but for dropout: `W (I + M)` and `b + W v`, A(h) = M h + v.

    A method gives `start`, `adapt` for A, and `matrix` for M and v.
    """

    def adapt(self, x: Tensor, config: Any, learned: Mapping[str, Tensor]) -> Tensor:
        """Compute A(x) of one adapter, (..., in_features), with dropout while training."""
        raise NotImplementedError

    def matrix(self, config: Any, learned: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Compute M, (in_features, in_features), and v, (in_features), of A(h) = M h + v without dropout."""
        raise NotImplementedError

    def reweight(
        self, weight: Tensor | None, bias: Tensor | None, config: Any, learned: Mapping[str, Tensor]
    ) -> tuple[Tensor, Tensor]:
        assert weight is not None, "a linear has a weight"
        matrix, shift = self.matrix(config, learned)
        frozen = weight.to(matrix.dtype)
        return frozen + frozen @ matrix, frozen @ shift + (0 if bias is None else bias)

    def update(self, x: Tensor, config: Any, learned: Mapping[str, Tensor]) -> Tensor:
        weight, _ = self.frozen
        assert weight is not None, "a linear has a weight"
        return F.linear(self.adapt(x, config, learned).to(weight.dtype), weight)
