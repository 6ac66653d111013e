"""Weights that were made, kept for the next call until something that they were made of has changed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
_SAMPLES = 64


def is_differentiated() -> bool:
    """Tell whether this call may be differentiated, transformed (torch.func) or compiled: nothing is kept then."""
    return torch.is_grad_enabled() or torch.compiler.is_compiling() or is_transformed()


def is_transformed(*tensors: Tensor) -> bool:
    """Tell whether a transform of torch.func, such as vmap or grad, or forward-mode differentiation is at work.

    Args:
        *tensors: Gradients, which may be several at once (`is_grads_batched` of `torch.autograd.grad`).
    """
    return (
        torch._C._are_functorch_transforms_active()
        or forward_ad._current_level >= 0
        or any(torch._C._functorch.is_legacy_batchedtensor(tensor) for tensor in tensors)
    )


class KeptWeights:
    """A weight and a bias with what they were made of.

    Torch counts the changes of a tensor, but not those through `.data`, NumPy or another tensor of the same memory. On
    a CPU learned tensors are therefore compared as well, and samples of the frozen ones, which is quick beside the
    product. On a GPU that would make the CPU wait: there a call with gradients gives up what was kept, so that
    training in evaluation mode is safe with any optimiser.

    Attributes:
        weights: The weight and bias that were made, once they are kept.

    Args:
        adapters: Names of the adapters that act.
        frozen: The tensors of the base layer.
        learned: The tensors of the adapters.
    """

    weights: tuple[Tensor | None, Tensor | None]
    _made: list[tuple[int, int]]

    def __init__(self, adapters: Sequence[str], frozen: Sequence[Tensor], learned: Sequence[Tensor]) -> None:
        self._adapters = list(adapters)
        # held so that no other tensor comes to stand at their address
        self._tensors = [tensor.detach() for tensor in (*frozen, *learned)]
        self._counts = _counts((*frozen, *learned))
        views = [_sampled(tensor) for tensor in frozen] + [_whole(tensor) for tensor in learned]
        self._contents = [(view, view.tobytes()) for view in views if view is not None]

    def keep(self, weight: Tensor | None, bias: Tensor | None) -> None:
        """Keep what was made of the tensors as they were when this was begun."""
        self.weights = weight, bias
        self._made = _counts(self._own())

    def _own(self) -> list[Tensor]:
        return [tensor for tensor in self.weights if tensor is not None]

    def fit(self, adapters: Sequence[str], frozen: Sequence[Tensor], learned: Sequence[Tensor]) -> bool:
        """Tell whether making the weights of these tensors would give the same."""
        return (
            self._adapters == list(adapters)
            and self._counts == _counts((*frozen, *learned))
            and self._made == _counts(self._own())
            and all(view.tobytes() == content for view, content in self._contents)
        )

    def __reduce__(self) -> Any:
        return type(None), ()  # a copy of the layer makes its own


def _counts(tensors: Sequence[Tensor]) -> list[tuple[int, int]]:
    return [(tensor.data_ptr(), -1 if tensor.is_inference() else tensor._version) for tensor in tensors]


def _whole(tensor: Tensor) -> Any:
    """View all numbers of a tensor on a CPU, of any dtype, as an array of integers on the same memory."""
    integers = _INTEGERS.get(tensor.itemsize)
    if tensor.device.type != "cpu" or integers is None:
        return None
    return tensor.detach().view(integers).numpy()


def _sampled(tensor: Tensor) -> Any:
    """View some numbers of a tensor, evenly spread over its memory and over its columns."""
    if tensor.numel() <= _SAMPLES or 0 in tensor.stride():
        return _whole(tensor)
    step = tensor.numel() // _SAMPLES + 1  # one more, as the quotient may be a multiple of the columns
    return _whole(tensor.detach().as_strided((tensor.numel() // step,), (step,)))
