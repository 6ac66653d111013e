"""The peak memory of a training."""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path

import torch

_PROCESS = Path("/proc/self")  # Linux only


def forget_peak(device: torch.device) -> None:
    """Reset the peak, since an earlier training in this process may have had a higher one."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    with suppress(OSError):
        (_PROCESS / "clear_refs").write_text("5")


def peak_memory(device: torch.device) -> int | None:
    """Return the peak in MiB, of the device if it is a GPU, else of this process; None where it is not known."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) >> 20
    with suppress(OSError):
        if peak := re.search(r"VmHWM:\s+(\d+) kB", (_PROCESS / "status").read_text()):
            return int(peak[1]) >> 10
    return None
