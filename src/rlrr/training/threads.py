"""OpenMP's environment: how long its threads spin for the next piece of work before they sleep.

By default they spin for milliseconds. Beside other work on the machine each spin takes the core from the thread that
all others wait for, which makes training on a CPU many times slower. The library reads its variables when torch loads
it, so that they are set before. `benchmarks/busy.py` measures them.
"""

from __future__ import annotations

import os
from typing import Any

_BRIEF = {
    "GOMP_SPINCOUNT": "3000",  # GNU's OpenMP; a fraction of a millisecond
    "KMP_BLOCKTIME": "1",  # LLVM's and Intel's OpenMP, in milliseconds
}
_PASSIVE = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "0", "KMP_BLOCKTIME": "0"}


def spin_briefly() -> None:
    """Let OpenMP's threads spin only briefly, unless the user has set how they wait."""
    if not _PASSIVE.keys() & os.environ.keys():
        os.environ.update(_BRIEF)


def never_spin() -> None:
    """Let OpenMP's threads sleep at once, unless the user has set how they wait."""
    if all(os.environ.get(name) == _BRIEF.get(name) for name in _PASSIVE if name in os.environ):
        os.environ.update(_PASSIVE)


def worker_settings() -> dict[str, Any]:
    """Describe processes that share the cores, in joblib's terms: one thread each, none of which spins."""
    threads = None if "OMP_NUM_THREADS" in os.environ else 1
    return {"inner_max_num_threads": threads, "initializer": never_spin}
