"""Checks that a module is plain and owns its weight and bias, so that an adapter can stand for another weight."""

from __future__ import annotations

from torch import nn

from rlrr.errors import RLRRError

_HOOKS = (
    "_forward_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
    "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs",
    "_backward_hooks",
    "_backward_pre_hooks",
    "_is_full_backward_hook",
)
_CALLS = ("forward", "_conv_forward", "__call__", "_call_impl")


def is_patched(module: nn.Module) -> bool:
    """Tell whether a call of a module runs something else than its class's forward and torch's convolution."""
    kind = type(module)
    own_call = kind.__call__ is not nn.Module.__call__
    own_convolution = isinstance(module, nn.Conv2d) and kind._conv_forward is not nn.Conv2d._conv_forward
    return own_call or own_convolution or any(name in module.__dict__ for name in _CALLS)


def check_own_weights(module: nn.Module, name: str) -> None:
    """Refuse a module whose weight or bias is made from other tensors at each call, or is not a plain tensor.

    Args:
        module: A module with a weight and a bias; either may be None.
        name: Its full name.

    Raises:
        RLRRError: a merged adapter would be lost there, or none can be merged.
    """
    for tensor in ("weight", "bias"):
        if not hasattr(module, tensor):  # as the bias of an RmsNorm
            continue
        parameter = module._parameters.get(tensor)
        if tensor not in module._parameters or getattr(module, tensor) is not parameter:
            raise RLRRError(
                f"The {tensor} of {name} is no parameter of its own but made from others, as under weight norm, "
                "spectral norm or pruning, so that an adapter could not be merged into it: take that off first, with "
                "torch.nn.utils.parametrize.remove_parametrizations, torch.nn.utils.remove_weight_norm, "
                f"remove_spectral_norm or prune.remove, or leave {name} out of target_modules."
            )
        if parameter is not None and type(parameter) is not nn.Parameter:
            raise RLRRError(
                f"The {tensor} of {name} is a {type(parameter).__name__} and not a plain tensor, as one that is "
                f"quantised or not made yet: adapt the model before that, or leave {name} out of target_modules."
            )


def move_hooks(source: nn.Module, target: nn.Module) -> None:
    """Exchange the hooks of two modules; the handles that remove them stay good."""
    for name in _HOOKS:
        source.__dict__[name], target.__dict__[name] = target.__dict__[name], source.__dict__[name]


def holders(model: nn.Module, module: nn.Module) -> list[tuple[nn.Module, str]]:
    """List where a module stands in a model, by parent and name: in several places if it is shared."""
    return [(parent, name) for parent in model.modules() for name, child in parent._modules.items() if child is module]
