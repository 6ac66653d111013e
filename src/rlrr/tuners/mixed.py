"""A mixed batch: each sample's adapter reaches every adapted layer and classifier, in one call of one thread."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from peft.utils.other import ModulesToSaveWrapper
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_unflatten

from rlrr.errors import RLRRError
from rlrr.tuners.layer import BASE, AdaptedLayer, by_group, check_rows, grouped
from rlrr.tuners.reading import MIXED

_PROJECTIONS = 4  # random ones, in which two different rows are hardly ever equal
# The change of a sample is small where layers are scaled by 1e-5, as in CaiT: rows of others are held against it.
_SHARE = 1e-2
_NOISE = 1e-7  # of the largest value: a product may be computed in another order
_Rows = tuple[Tensor, bool]  # projections of rows, and whether they are of an input


@contextmanager
def mixed_batch(model: nn.Module, adapter_names: Sequence[str]) -> Iterator[None]:
    """Give every adapted layer and classifier of a model the adapters of the samples, in calls of this thread alone.

    A layer looks at `MIXED` itself; a classifier's wrapper is PEFT's and takes a hook.

    Args:
        model: The adapted model.
        adapter_names: (samples); `__base__` for no adapter.
    """
    names = list(adapter_names)
    token = MIXED.set(names)
    with ExitStack() as ends:  # so that hooks go also when forward fails
        ends.callback(MIXED.reset, token)
        for module in model.modules():
            if isinstance(module, ModulesToSaveWrapper):
                hook: Any = partial(_choose_modules, names=names)
                ends.callback(module.register_forward_hook(hook, with_kwargs=True).remove)
        yield


def check_can_mix(model: nn.Module) -> None:
    """Refuse a mixed batch in which adapter names would not reach all layers.

    Raises:
        RLRRError: a part of the model is compiled, runs in other threads, or would run again in the backward pass,
            without the names.
    """
    for module in model.modules():
        if getattr(module, "_compiled_call_impl", None) is not None or "_orig_mod" in module._modules:
            raise RLRRError("A compiled model takes no adapter_names: run mixed batches with the model itself.")
        if isinstance(module, nn.DataParallel):
            raise RLRRError("nn.DataParallel takes no adapter_names: run mixed batches with the model inside it.")
        if torch.is_grad_enabled() and getattr(module, "grad_checkpointing", False):
            raise RLRRError(
                "A mixed batch cannot run again in a backward pass: switch gradient checkpointing off, or use "
                "torch.no_grad()."
            )


def learn_rows(model: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any], count: int) -> None:
    """Find out, once for each adapted layer, whether the rows that it is given belong to the samples, in their order.

    They do where a change of the first sample changes rows among its own, the first ones, and no others. They do not in
    a module that works on positions, where tokens come first, or where windows of all samples follow each other.

    Args:
        model: The adapted model, in evaluation mode; it runs twice, without adapters.
        args: The input of a call; its first tensor with a row for each sample is the images.
        kwargs: Likewise.
        count: Number of samples, at least two.
    """
    owners = [
        module
        for module in model.modules()
        if isinstance(module, (AdaptedLayer, ModulesToSaveWrapper)) and "rows_by_sample" not in module.__dict__
    ]
    if not owners or torch.compiler.is_compiling():
        return
    values, structure = tree_flatten((args, kwargs))
    places = [place for place, value in enumerate(values) if isinstance(value, Tensor) and value.shape[:1] == (count,)]
    for samples in (2, count) if places else ():  # two are enough, but for a model that takes no fewer
        own = [value[:samples] if place in places else value for place, value in enumerate(values)]
        images = own[places[0]]
        changed = list(own)
        changed[places[0]] = torch.cat([_another(images[:1]), images[1:]])
        try:
            first, second = (
                _rows_of(model, owners, tree_unflatten(one, structure), samples, images.device)
                for one in (own, changed)
            )
        except Exception:  # its own call tells what is wrong
            continue
        for owner in owners:
            pairs = list(zip(first[owner], second[owner], strict=False))
            owner.__dict__["rows_by_sample"] = all(_is_by_sample(*pair, samples) for pair in pairs)
        return


def _another(sample: Tensor) -> Tensor:
    """Make another sample out of one, with values of the same kind and range."""
    if sample.dtype == torch.bool:
        return ~sample
    other = (sample.flip(-1) / 2).to(sample.dtype)
    return torch.ones_like(sample) if torch.equal(other, sample) else other


@torch.no_grad()
def _rows_of(
    model: nn.Module,
    owners: Sequence[nn.Module],
    inputs: tuple[Sequence[Any], Mapping[str, Any]],
    count: int,
    device: torch.device,
) -> dict[nn.Module, list[_Rows]]:
    """Run the model without adapters; give projections of the rows of what these layers are given and give."""
    rows: dict[nn.Module, list[_Rows]] = {owner: [] for owner in owners}
    base = [BASE] * count

    def keep(module: nn.Module, args: tuple, output: Any, owner: nn.Module) -> None:
        if MIXED.get() is call:  # another thread may run the model at this moment
            given = [(value, True) for value in args[:1]]
            tensors = [*given, (output[0] if isinstance(output, tuple) and output else output, False)]
            rows[owner] += [
                (_projected(tensor), is_input) for tensor, is_input in tensors if isinstance(tensor, Tensor)
            ]

    with (
        mixed_batch(model, base),
        torch.random.fork_rng([device] if device.type == "cuda" else []),  # so that both runs draw the same
        ExitStack() as ends,
    ):
        call = MIXED.get()
        for owner in owners:
            for source in owner.sources() if isinstance(owner, AdaptedLayer) else [owner]:
                ends.callback(source.register_forward_hook(partial(keep, owner=owner)).remove)
        args, kwargs = inputs
        model(*args, **kwargs)
    return rows


def _projected(tensor: Tensor) -> Tensor:
    """Project each row (rows, ...) on a few random directions, the same for all rows: (rows, directions)."""
    flat = tensor.detach().reshape(len(tensor) if tensor.ndim else 1, -1).cpu().double()
    generator = torch.Generator().manual_seed(flat.shape[1])
    directions = torch.randn(flat.shape[1], _PROJECTIONS, generator=generator, dtype=torch.double)
    return flat @ directions


def _is_by_sample(one: _Rows, other: _Rows, count: int) -> bool:
    (before, is_input), (after, _) = one, other
    if before.shape != after.shape or len(before) % count:
        return False
    if not len(before):
        return True
    changes = (before - after).abs().amax(-1)
    rows = len(before) // count
    own, others = float(changes[:rows].max()), float(changes[rows:].max()) if count > 1 else 0.0
    # An output may stay as it is, as that of a norm whose weight starts at zero. An input that does is of positions,
    # unless every sample has the same, as where CaiT first reads its class token.
    by_sample = before.unflatten(0, (count, rows))
    tells = own > 0 or not is_input or bool((by_sample == by_sample[:1]).all())
    return tells and others <= max(_SHARE * own, _NOISE * float(before.abs().max()))


def _choose_modules(wrapper: ModulesToSaveWrapper, args: tuple, *given: Any, names: Sequence[str]) -> Any:
    """Give each sample what its own adapter's copy of a module makes of it; PEFT's way asks for an active copy."""
    if MIXED.get() is not names or wrapper.disable_adapters:
        return None  # another thread runs the model, which may see the hook while it is put on or taken off
    kwargs, _ = given
    copies: Any = wrapper.modules_to_save
    keys = [name if name in copies else BASE for name in names]

    def run(key: str, group: Tensor, members: Sequence[int]) -> Tensor:
        result = (wrapper.original_module if key == BASE else copies[key])(group, *args[1:], **kwargs)
        if len(groups) > 1 and not isinstance(result, Tensor):
            raise RLRRError(f"A {kind} gives more than a tensor: give a batch one adapter.")
        return result

    kind, groups = type(wrapper.original_module).__name__, grouped(keys)
    if len(groups) > 1:
        if not args or any(isinstance(value, Tensor) for value in (*args[1:], *kwargs.values())):
            raise RLRRError(f"A {kind} takes more than one tensor: give a batch one adapter.")
        check_rows(wrapper, args[0], len(names), kind)
    if not args:  # one adapter, and a tensor by name
        return (wrapper.original_module if keys[0] == BASE else copies[keys[0]])(**kwargs)
    return by_group(args[0], len(names), groups, run)
