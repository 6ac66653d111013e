"""Share what benchmarks need: set-up, the machine, a fresh process for each measurement, peak memory, tables, files.

    from measure import in_new_process, machine, markdown_table, setup, spread, write_results

The import works since Python puts the folder of the script that is run, this one, on its path.
"""

from __future__ import annotations

import ctypes
import gc
import math
import platform
import re
import statistics
from collections.abc import Callable, Iterable, Sequence
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
    """Describe the machine and the versions behind a result: cpu, cores, threads (of torch), gpu, torch, versions."""
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
    """Call `function(*args)` in a process of its own, which shares no memory, cache or thread pool with this one.

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
    """Measure the peak of memory since this object was made, above the memory in use then, in MiB.

    On the CPU that is the resident memory of the process: the free part of the heap is given back first, so that it is
    not used again unseen. On a GPU it is what torch has allocated. It needs Linux or a GPU. Libraries that torch loads
    at their first use count too: use them before.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        gc.collect()
        with suppress(AttributeError):  # of libc libraries other than glibc
            ctypes.CDLL(None).malloc_trim(0)
        forget_peak(device)
        self.start = torch.cuda.memory_allocated() / 2**20 if device.type == "cuda" else _resident("VmRSS")

    def above_start(self) -> float:
        """Subtract the memory in use at the start from the peak so far."""
        peak = torch.cuda.max_memory_allocated() / 2**20 if self.device.type == "cuda" else _resident("VmHWM")
        return peak - self.start


def _resident(key: str) -> float:
    """Read a line of /proc/self/status in MiB."""
    line = re.search(rf"{key}:\s+(\d+) kB", _PROCESS.read_text()) if _PROCESS.exists() else None
    if line is None:
        raise RLRRError("Peak memory on the CPU is read from /proc: measure on Linux, or on a GPU.")
    return int(line[1]) / 1024


def synchronize(device: torch.device) -> None:
    """Wait until the GPU has done its queue, so that a clock read now tells the truth."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def setup(device: str | None, threads: int | None, models: Iterable[str] = ()) -> str:
    """Check the names of timm models, give torch its threads, and choose `cpu` or `cuda`.

    Args:
        device: None takes the GPU if there is one.
        threads: None leaves torch its own choice.
        models: Names that timm must know.

    Raises:
        UsageError: timm has no such model, or torch finds no GPU where one is asked for.
    """
    for name in models:
        if not timm.is_model(name):
            raise UsageError(f"timm has no model {name!r}.{did_you_mean(name, timm.list_models())}")
    if threads:
        torch.set_num_threads(threads)
    if device == "cuda" and not torch.cuda.is_available():
        raise UsageError("torch finds no GPU here: leave out --device cuda.")
    return device or ("cuda" if torch.cuda.is_available() else "cpu")


def spread(values: Sequence[float]) -> str:
    """Write the median (smallest–largest) with the decimals that give it three digits; one value stands alone."""
    median = statistics.median(values)
    decimals = max(0, 2 - math.floor(math.log10(abs(median)))) if median else 2
    low, middle, high = (f"{value:.{decimals}f}" for value in (min(values), median, max(values)))
    return f"{middle} ({low}–{high})" if len(values) > 1 else middle  # noqa: RUF001


def markdown_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Write a Markdown table; cells of a column are padded to one width, so that its source reads well."""
    widths = [max(map(len, cells)) for cells in zip(columns, *rows, strict=True)]
    lines = [columns, ["-" * width for width in widths], *rows]
    return "\n".join(
        f"| {' | '.join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))} |" for line in lines
    )


def write_results(folder: Path, name: str, results: dict[str, Any], table: str) -> None:
    """Write `name`.json and, as `name`.md, the table under a line about `results["machine"]`, made by `machine()`."""
    about = results["machine"]
    processors = " and ".join(name for name in (about["cpu"], about["gpu"]) if name)
    head = f"{processors}; cores: {about['cores']}; threads: {about['threads']}; torch {about['torch']}"
    write_json(folder / f"{name}.json", results)
    with atomic(folder / f"{name}.md") as temporary:
        temporary.write_text(f"{head}\n\n{table}\n", encoding="utf-8")


def command_line(main: Callable[..., None] | list[Callable[..., None]]) -> None:
    """Run `main`, or the one of several that the command line names; a mistake of the user is one line."""
    try:
        auto_cli(main, as_positional=False)
    except RLRRError as error:
        raise SystemExit(f"error: {error}") from None
