"""What all benchmarks share: the machine, a fresh process for each measurement, peak memory, tables and files.

    from measure import in_new_process, machine, markdown_table, spread, write_results

It works since Python puts the folder of the script that is run, this one, on its path.
"""

from __future__ import annotations

import ctypes
import gc
import math
import platform
import re
import statistics
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import joblib
import timm
import torch
from jsonargparse import auto_cli

from rlrr.adapters.record import library_versions
from rlrr.errors import RLRRError, UsageError, did_you_mean
from rlrr.files import atomic, write_json
from rlrr.training.memory import forget_peak

PRECISIONS = {"fp32": None, "bf16": torch.bfloat16}  # what autocast takes

_PROCESS = Path("/proc/self/status")  # of Linux


def machine() -> dict[str, Any]:
    """The machine and the versions that a result depends on: cpu, cores, threads (of torch), gpu, torch, versions."""
    return {
        "cpu": _cpu_model(),
        "cores": joblib.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "torch": torch.__version__,
        "versions": library_versions(),
    }


def _cpu_model() -> str:
    with suppress(OSError):
        if model := re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text()):
            return model[1].strip()
    return platform.processor() or platform.machine()


def in_new_process(function: Callable[..., Any], *args: Any) -> Any:
    """What `function(*args)` returns in a process of its own, which shares no memory, cache or thread pool with this.

    The function must stand at the top of a module, and the script must start under `if __name__ == "__main__"`. An
    exception there is raised here. Further arguments can be bound with `functools.partial`.

    Raises:
        RLRRError: the process died, as it does when the system runs out of memory.
    """
    try:
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            return pool.submit(function, *args).result()
    except BrokenProcessPool:
        raise RLRRError(
            f"The process that measured {', '.join(map(str, args))} died without a word: most often memory ran out, so "
            "try a smaller batch or model."
        ) from None


class PeakMemory:
    """The most memory in use since it was made, above what was in use then, in MiB.

    On the CPU that is the resident memory of the process, so that what lies free in the heap is given back first, lest
    it be used again unseen; on a GPU what torch has allocated. It needs Linux or a GPU. Libraries that torch loads
    when it first needs them count too: have it need them before.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        gc.collect()
        with suppress(AttributeError):  # of libc libraries other than glibc
            ctypes.CDLL(None).malloc_trim(0)
        forget_peak()
        self.start = torch.cuda.memory_allocated() / 2**20 if device.type == "cuda" else _resident("VmRSS")

    def above_start(self) -> float:
        """The peak so far minus what was in use at the start."""
        peak = torch.cuda.max_memory_allocated() / 2**20 if self.device.type == "cuda" else _resident("VmHWM")
        return peak - self.start


def _resident(key: str) -> float:
    """A line of /proc/self/status in MiB."""
    found = re.search(rf"{key}:\s+(\d+) kB", _PROCESS.read_text()) if _PROCESS.exists() else None
    if found is None:
        raise RLRRError("Peak memory on the CPU is read from /proc: measure on Linux, or on a GPU.")
    return int(found[1]) / 1024


def synchronize(device: torch.device) -> None:
    """Wait for what the GPU still has to do, so that a clock read now tells the truth."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def check_model(name: str) -> None:
    """Refuse a name that timm does not know.

    Raises:
        RLRRError: naming the nearest one.
    """
    if not timm.is_model(name):
        raise UsageError(f"timm has no model {name!r}.{did_you_mean(name, timm.list_models())}")


def choose_device(name: str | None = None) -> str:
    """`cpu` or `cuda`; None takes the GPU if there is one.

    Raises:
        RLRRError: a GPU is asked for where torch finds none.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise UsageError("torch finds no GPU here: leave out --device cuda.")
    return name or ("cuda" if torch.cuda.is_available() else "cpu")


def spread(values: Sequence[float]) -> str:
    """Median (smallest–largest), all with the decimals that give the median three digits; one value stands alone."""
    median = statistics.median(values)
    decimals = max(0, 2 - math.floor(math.log10(abs(median)))) if median else 2
    low, middle, high = (f"{value:.{decimals}f}" for value in (min(values), median, max(values)))
    return f"{middle} ({low}–{high})" if len(values) > 1 else middle  # noqa: RUF001


def markdown_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; cells of a column are padded to one width, so that it can be read as it is."""
    widths = [max(map(len, cells)) for cells in zip(columns, *rows, strict=True)]
    lines = [columns, ["-" * width for width in widths], *rows]
    return "\n".join(
        f"| {' | '.join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))} |" for line in lines
    )


def write_results(folder: Path, name: str, results: dict[str, Any], table: str) -> None:
    """Write `name`.json and, as `name`.md, the table under a line about `results["machine"]`, that of `machine()`."""
    about = results["machine"]
    processors = " and ".join(name for name in (about["cpu"], about["gpu"]) if name)
    head = f"{processors}; cores: {about['cores']}; threads: {about['threads']}; torch {about['torch']}"
    write_json(folder / f"{name}.json", results)
    with atomic(folder / f"{name}.md") as temporary:
        temporary.write_text(f"{head}\n\n{table}\n", encoding="utf-8")


def command_line(main: Callable[..., None] | list[Callable[..., None]]) -> None:
    """Run `main`, or that of several that is named, with the command line; a mistake of the user's is one line."""
    try:
        auto_cli(main, as_positional=False)
    except RLRRError as error:
        raise SystemExit(f"error: {error}") from None
