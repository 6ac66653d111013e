"""The device that a model is computed on, and the precision that is fastest there."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Literal

import torch

from rlrr.errors import UsageError, did_you_mean

Precision = Literal["auto", "fp32", "bf16", "fp16"]

_TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
_NAMES = ("auto", "cpu", "cuda", "cuda:1", "mps")


def resolve_device(device: str | torch.device = "auto") -> torch.device:
    """Find a device of this machine by its name; "auto" is a GPU if there is one, or else the CPU.

    Raises:
        UsageError: the name is no device's, or this machine has no such device.
    """
    counts = {"cuda": _gpus(), "mps": int(torch.backends.mps.is_available()), "cpu": 1}
    if device == "auto":
        return torch.device(next(kind for kind, count in counts.items() if count))
    try:
        named = torch.device(device)
    except (RuntimeError, TypeError):
        named = None
    if named is None or named.type not in counts:
        hint = did_you_mean(str(device), _NAMES)
        raise UsageError(
            f"`device` must be auto, cpu, cuda, a GPU by number such as cuda:1, or mps, not {device!r}.{hint}"
        )
    if (named.index or 0) >= counts[named.type]:
        present = [kind if count == 1 else f"cuda:0 to cuda:{count - 1}" for kind, count in counts.items() if count]
        raise UsageError(f"torch finds no `device` {device} on this machine, only {' and '.join(present)}.")
    return torch.device("cpu") if named.type == "cpu" else named


def _gpus() -> int:
    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def use_threads(threads: int | None) -> None:
    """Let this process compute on so many threads of the CPU; None leaves their number as it is.

    Raises:
        UsageError: the number is below 1.
    """
    if threads is not None and threads < 1:
        raise UsageError(f"`threads` must be 1 or more, not {threads}.")
    if threads:
        torch.set_num_threads(threads)


def describe_device(device: torch.device) -> str:
    """Name a device in words, such as "CPU, threads: 2"."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU, threads: {torch.get_num_threads()}" if device.type == "cpu" else f"Apple's GPU ({device.type})"


def resolve_precision(precision: Precision | str, device: torch.device) -> str:
    """Replace "auto" by the fastest precision of a device, and keep any other.

    "auto" is bf16 only where the hardware multiplies in bf16, since emulation is slower than fp32.

    Raises:
        UsageError: `precision` is "fp16" and the device is a CPU.
    """
    if precision == "fp16" and device.type == "cpu":
        raise UsageError("`precision` fp16 needs a GPU: use bf16 or fp32 on a CPU.")
    if precision != "auto":
        return precision
    if device.type == "cuda":
        has_bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        units = ("amx_bf16", "avx512_bf16") if device.type == "cpu" else ()
        has_bf16 = any(torch.cpu.get_capabilities().get(unit, False) for unit in units)
    return "bf16" if has_bf16 else "fp32"


def autocast(device: torch.device, precision: str) -> AbstractContextManager:
    """Compute in a precision, inside the block: "fp32", "bf16" or "fp16"."""
    return torch.autocast(device.type, _TYPES[precision]) if precision in _TYPES else nullcontext()
