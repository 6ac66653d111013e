"""VPT's layer: a block that is given prompts beside its tokens."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rlrr.tuners.base import RLRRError
from rlrr.tuners.branch import features
from rlrr.tuners.layer import BASE, AdaptedLayer, by_group, grouped, slots_of
from rlrr.tuners.vpt.config import VPTConfig


class VPTLayer(AdaptedLayer):
    """A block, with prompts among its tokens. For each adapter: `vpt_prompts`, (n, features).

    An adapter with shallow prompts holds them at the first block alone. They are taken out behind the last one.
    """

    prefix = "vpt_"
    adapter_layer_names = ("vpt_prompts",)
    splittable = False

    def describe(
        self,
        base_layer: nn.Module,
        leading: int = 1,
        patch: tuple[int, int] = (16, 16),
        first: bool = False,
        last: bool = False,
        **options: Any,
    ) -> None:
        """Set the place of the prompts.

        Args:
            base_layer: The block.
            leading: Number of tokens before the prompts.
            patch: Height and width of a patch in pixels.
            first: Whether it is the first block of the model.
            last: Whether it is the last one.
            **options: Unused.
        """
        self.features, _ = features(base_layer)
        self.leading, self.patch, self.first, self.last = leading, patch, first, last

    @property
    def mixable(self) -> bool:
        """Whether samples may have adapters of their own: shallow prompts would make sequences of several lengths."""
        return all(config.deep for config in self.configs.values())

    def start(self, config: VPTConfig) -> Mapping[str, Tensor]:
        if not (config.deep or self.first):
            return {}
        prompts = torch.empty(config.tokens, self.features)
        bound = math.sqrt(6 / (3 * math.prod(self.patch) + self.features))
        return {"vpt_prompts": prompts.uniform_(-bound, bound) if config.init_weights else prompts.normal_()}

    def forward_adapted(self, x: Tensor, adapter_names: Sequence[str], *args: Any, **kwargs: Any) -> Any:
        names = sorted(adapter_names, key=lambda name: not self.configs[name].deep)  # shallow ones last, as they stay
        new = [
            self._dropped(self.vpt_prompts[name].expand(x.shape[0], -1, -1), self.configs[name])
            for name in names
            if name in self.vpt_prompts
        ]
        passing = [self.configs[name].tokens for name in names if not self.configs[name].deep]
        return self._call(x, new, sum(passing), *args, **kwargs)

    def forward_mixed(self, x: Tensor, adapter_names: Sequence[str], *args: Any, **kwargs: Any) -> Any:
        names = [name if name in self.configs else BASE for name in adapter_names]
        if not self.mixable:
            raise RLRRError(
                "Shallow prompts stay in the sequence through all blocks, so that the images of a batch must share "
                "them: give a batch one adapter, or train with deep=true."
            )
        keys = [BASE if name == BASE else self.form(name) for name in names]

        def run(key: Any, group: Tensor, members: Sequence[int]) -> Tensor:
            if key == BASE:
                result = self.base_layer(group, *args, **kwargs)
            else:
                slots, rows = slots_of([names[sample] for sample in members])
                by_row = torch.tensor(rows, device=group.device)
                result = self.forward_per_sample(
                    group, self.stacked(slots), by_row, self.configs[slots[0]], *args, **kwargs
                )
            if isinstance(result, tuple):
                raise RLRRError(f"{self.module_name} gives more than tokens: give a batch one adapter.")
            return result

        return by_group(x, len(names), grouped(keys), run)

    def forward_per_sample(
        self, x: Tensor, stacked: Mapping[str, Tensor], rows: Tensor, config: VPTConfig, *args: Any, **kwargs: Any
    ) -> Any:
        """Run each sample under the deep prompts in its own row of stacked ones.

        Args:
            x: (samples, tokens, features).
            stacked: The adapters' tensors, by container without prefix, (adapters, ...).
            rows: (samples), the row of each sample's adapter, int64.
            config: Settings that the adapters share.
            *args: What else the block takes.
            **kwargs: Likewise.
        """
        return self._call(x, [self._dropped(stacked["prompts"][rows], config)], 0, *args, **kwargs)

    def _dropped(self, prompts: Tensor, config: VPTConfig) -> Tensor:
        return F.dropout(prompts, config.dropout, self.training)

    def _call(self, x: Tensor, new: Sequence[Tensor], passing: int, *args: Any, **kwargs: Any) -> Any:
        """Run the block with new prompts among its tokens, and take out those that no further block needs.

        Args:
            x: (batch, tokens, features).
            new: Prompts that enter here, each (batch, n, features).
            passing: Number of shallow prompts in the block.
            *args: What else the block takes.
            **kwargs: Likewise.

        Raises:
            RLRRError: the tokens are no sequence, or a mask is given, which knows nothing of prompts.
        """
        if x.dim() != 3 or any(kwargs.get(mask) is not None for mask in ("attn_mask", "attention_mask")):
            raise RLRRError(
                f"VPT puts prompts into a sequence without a mask, and {self.module_name} got {tuple(x.shape)}"
                f"{'' if x.dim() != 3 else ' and a mask'}: leave it out of target_modules."
            )
        entering = sum(prompts.shape[1] for prompts in new)
        ahead = x[:, : self.leading]
        x = torch.cat([ahead, *(prompts.to(x.dtype) for prompts in new), x[:, self.leading :]], 1)
        inside = entering + (0 if self.first else passing)  # shallow ones enter at the first block
        if isinstance(rope := kwargs.get("rope"), Tensor):
            kwargs["rope"] = _unturned(rope, inside)
        result = self.base_layer(x, *args, **kwargs)
        output, *rest = result if isinstance(result, tuple) else (result,)
        leaving = inside - (0 if self.last else passing)
        output = torch.cat([output[:, : self.leading], output[:, self.leading + leaving :]], 1)
        return (output, *rest) if isinstance(result, tuple) else output


def _unturned(rope: Tensor, prompts: int) -> Tensor:
    """Put rotations by nothing, sines of 0 and cosines of 1, before those of the patches, (..., patches, 2 d)."""
    sine, cosine = (rope.new_full((*rope.shape[:-2], prompts, rope.shape[-1] // 2), value) for value in (0, 1))
    return torch.cat([torch.cat([sine, cosine], -1), rope], -2)
