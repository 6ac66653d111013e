"""Layers with a module of their own beside, behind or before a frozen one, or on the residual stream.

A branch's output is no change of the frozen weights, so that it is not merged.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from threading import get_ident
from typing import Any, ClassVar, Literal

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn
from torch.func import functional_call, vmap

from rlrr.tuners.base import RLRRError, VisionTuner
from rlrr.tuners.config import TunerConfig
from rlrr.tuners.layer import AdaptedLayer, by_group, grouped, slots_of
from rlrr.tuners.names import BASE

Where = Literal["beside", "behind", "before", "stream"]


class BranchLayer(AdaptedLayer):
    """A frozen module and, for each adapter, a branch whose output is added.

    `where` says what the branch B reads and where its output goes, with M the frozen module:

    - beside: M(x) + B(x)
    - behind: y + B(y), y = M(x)
    - before: M(x + B(x))
    - stream: M(x) + B(z), where M is a whole block and z the input of its module `reads`, such as the residual stream
      before the norm of the MLP

    A method names one container in `adapter_layer_names` and gives `make_branch`.
    """

    where: ClassVar[Where] = "beside"

    _reads: str | None = None

    def describe(self, base_layer: nn.Module, reads: str | None = None, **options: Any) -> None:
        """Set the features of the branch, and the module that it reads.

        Args:
            base_layer: The frozen module.
            reads: Name, within a block, of the module whose input the branch reads.
            **options: Unused.
        """
        self._reads = reads
        self.in_features, self.out_features = features(base_layer.get_submodule(reads) if reads else base_layer)

    def make_branch(self, config: Any) -> nn.Module:
        """Make a branch, from (..., in_features) to (..., out_features), at its start."""
        raise NotImplementedError

    def start(self, config: TunerConfig) -> Mapping[str, nn.Module]:
        return {self.adapter_layer_names[0]: self.make_branch(config)}

    def forward_adapted(self, x: Tensor, adapter_names: Sequence[str], *args: Any, **kwargs: Any) -> Any:
        return self._run(lambda source: self._update(source, adapter_names), x, *args, **kwargs)

    def forward_mixed(self, x: Tensor, adapter_names: Sequence[str], *args: Any, **kwargs: Any) -> Any:
        return self._run(lambda source: self._update_mixed(source, adapter_names), x, *args, **kwargs)

    def forward_per_sample(
        self, x: Tensor, stacked: Mapping[str, Tensor], rows: Tensor, config: Any, *args: Any, **kwargs: Any
    ) -> Any:
        """Run each sample under the adapter in its own row of stacked tensors.

        Args:
            x: (samples * k, ...).
            stacked: Tensors of the adapters' branches, by container without prefix and path, (adapters, ...).
            rows: (samples), the row of each sample's adapter, int64.
            config: Settings that the adapters share.
            *args: What else the frozen module takes.
            **kwargs: Likewise.
        """
        return self._run(lambda source: self._update_per_sample(source, stacked, rows, config), x, *args, **kwargs)

    def delta(self, x: Tensor, adapter_names: Sequence[str] | None = None) -> Tensor:
        """Compute what adapters add to the base output.

        Args:
            x: Input of the layer.
            adapter_names: Adapters side by side; None for those that act, as in every layer.
        """
        names = self._acting(adapter_names)
        if not names:
            return torch.zeros_like(self.base_layer(x))
        if self.where == "before":
            return self.base_layer(x + self._update(x, names)) - self.base_layer(x)
        output, added = self._output_and_update(lambda source: self._update(source, names), x)
        return added.view_as(output)

    def _run(self, update: Callable[[Tensor], Tensor], x: Tensor, *args: Any, **kwargs: Any) -> Any:
        if self.where == "before":
            return self.base_layer(x + update(x), *args, **kwargs)
        result, added = self._output_and_update(update, x, *args, **kwargs)
        output, *rest = result if isinstance(result, tuple) else (result,)  # a transformers block may give a tuple
        # Swin's stream is (batch, tokens, features) inside a block whose output is (batch, height, width, features)
        output = output + added.view_as(output)
        return (output, *rest) if isinstance(result, tuple) else output

    def _output_and_update(
        self, update: Callable[[Tensor], Tensor], x: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Any, Tensor]:
        """Run the frozen module, and the branch on what it reads before the module can write into that.

        Raises:
            RLRRError: the stream inside a block has lost its gradient, as under reentrant checkpointing, or the block
                writes into it; or the output has not the features of the branch behind it.
        """
        if self.where == "behind":
            result = self.base_layer(x, *args, **kwargs)
            output = result[0] if isinstance(result, tuple) and result else result
            if not isinstance(output, Tensor) or output.shape[-1] != self.out_features:
                given = tuple(output.shape) if isinstance(output, Tensor) else f"a {type(output).__name__}"
                raise RLRRError(
                    f"{self.module_name} gives {given}, and the branch behind it takes {self.out_features} features in "
                    "the last dimension: leave it out of target_modules."
                )
            return result, update(output)
        if self._reads is None:
            added = update(x)
            return self.base_layer(x, *args, **kwargs), added
        # With gradients the branch runs after the block: inside, a checkpoint would run it once more than it knows of.
        later, streams, thread = torch.is_grad_enabled(), [x], get_ident()
        versions = [None if x.is_inference() or torch.compiler.is_compiling() else x._version]

        def keep(module: nn.Module, given: tuple[Tensor, ...]) -> None:
            if get_ident() == thread:  # another thread may run the same block at this moment
                streams[0] = given[0] if later else update(given[0])
                versions[0] = given[0]._version if later and versions[0] is not None else None

        # for this call alone, so that nothing is held after it
        hook = self.base_layer.get_submodule(self._reads).register_forward_pre_hook(keep)
        try:
            result = self.base_layer(x, *args, **kwargs)
        finally:
            hook.remove()
        (stream,), (version,) = streams, versions
        if not later and stream is not x:
            return result, stream
        if later and x.requires_grad and not stream.requires_grad:
            raise RLRRError(
                f"The stream inside {self.module_name} has no gradient, as under reentrant gradient checkpointing: "
                "enable it with gradient_checkpointing_kwargs={'use_reentrant': False}."
            )
        if version is not None and stream._version != version:
            raise RLRRError(
                f"{self.module_name} writes into the stream that its branch reads: give the block's additions a tensor "
                "of their own (x = x + y, not x += y), or leave it out of target_modules."
            )
        return result, update(stream)

    def sources(self) -> list[nn.Module]:
        return [self] if self._reads is None else [self, self.base_layer.get_submodule(self._reads)]

    def _update(self, source: Tensor, adapter_names: Sequence[str]) -> Tensor:
        branches = getattr(self, self.adapter_layer_names[0])
        updates = [self._call(branches[name], source) for name in adapter_names]
        return torch.stack(updates).sum(0) if len(updates) > 1 else updates[0]

    def _update_mixed(self, source: Tensor, adapter_names: Sequence[str]) -> Tensor:
        names = [name if name in self.configs else BASE for name in adapter_names]
        keys = [BASE if name == BASE else self.form(name) for name in names]

        def run(key: Any, group: Tensor, members: Sequence[int]) -> Tensor:
            if key == BASE:
                return group.new_zeros(*group.shape[:-1], self.out_features)
            slots, rows = slots_of([names[sample] for sample in members])
            if len(slots) == 1:
                return self._update(group, slots)
            rows_on_device = torch.tensor(rows, device=group.device)
            return self._update_per_sample(group, self.stacked(slots), rows_on_device, self.configs[slots[0]])

        return by_group(source, len(names), grouped(keys), run)

    def _update_per_sample(self, source: Tensor, stacked: Mapping[str, Tensor], rows: Tensor, config: Any) -> Tensor:
        with torch.device("meta"):  # the structure alone
            branch = self.make_branch(config).train(self.training)
        container = self.adapter_layer_names[0].removeprefix(self.prefix)
        tensors = {name.removeprefix(f"{container}."): tensor[rows] for name, tensor in stacked.items()}
        samples = source.unflatten(0, (len(rows), -1))
        run = vmap(lambda tensors, sample: self._call(branch, sample, tensors), randomness="different")
        return run(tensors, samples).flatten(0, 1)

    def _call(self, branch: nn.Module, source: Tensor, tensors: dict[str, Tensor] | None = None) -> Tensor:
        """Run a branch in the dtype of its tensors, but for autocast; the result has the dtype of its input."""
        dtype = next(iter(tensors.values() if tensors else branch.parameters())).dtype
        given = source if torch.is_autocast_enabled(source.device.type) else source.to(dtype)
        result = functional_call(branch, tensors, (given,)) if tensors else branch(given)
        return result.to(source.dtype)

    def _new_container(self, name: str) -> nn.Module:
        return nn.ModuleDict()


class BranchTuner(VisionTuner):
    """A backbone with branches."""

    tuner_layer_cls = BranchLayer

    @classmethod
    def _remove_adapter_name_from_key(cls, key: str, adapter_name: str) -> str:
        # PEFT's own finds the name at most one level above a tensor, and a branch may be deeper
        containers = "|".join(re.escape(name) for name in cls.tuner_layer_cls.adapter_layer_names)
        pattern = rf"\.({containers})\.{re.escape(adapter_name)}\."
        shorter, count = re.subn(pattern, r".\1.", key, count=1)
        return shorter if count else super()._remove_adapter_name_from_key(key, adapter_name)


def quick_gelu(x: Tensor) -> Tensor:
    """Compute `x * sigmoid(1.702 x)`, the approximation of GELU that CLIP has."""
    return x * torch.sigmoid(1.702 * x)


def features(module: nn.Module) -> tuple[int, int]:
    """Give the numbers of input and output features of a module: of a linear, a norm, or what holds linears.

    An attention or MLP takes and gives what its first and last linear do. (0, 0) if nothing tells.
    """
    if isinstance(module, BaseTunerLayer):
        module = module.get_base_layer()
    if isinstance(module, nn.Linear):
        return module.in_features, module.out_features
    if shape := getattr(module, "normalized_shape", None):
        return shape[-1], shape[-1]
    linears = [inner for inner in module.modules() if isinstance(inner, nn.Linear)]
    return (linears[0].in_features, linears[-1].out_features) if linears else (0, 0)
