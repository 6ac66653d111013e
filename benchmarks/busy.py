"""Measure what spinning OpenMP threads cost: one epoch on a quiet machine, and beside one busy process.

    python benchmarks/busy.py --turns 3 --output bench

Every case is one run of

    rlrr train sample:mnist --model vit_small_focus --image-size 70 --epochs 1

in a process of its own, under one setting of OpenMP: `torch`, how torch waits by itself; `rlrr`, the spin count that
`rlrr` sets; further spin counts; `passive`, OMP_WAIT_POLICY=PASSIVE; and `one thread`. The epoch alone is timed, not
the start of the process. The busy process is one endless loop of Python.

All settings run quiet and busy in each turn, in an order drawn anew, and a ratio is between two runs of one turn:
`quiet` against `torch`, `busy` against the same setting on the quiet machine.

Prints a table, and writes it with all numbers to busy.md and busy.json in the output folder.
"""

from __future__ import annotations

import os
import random
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from jsonargparse.typing import PositiveInt
from measure import command_line, machine, markdown_table, spread, write_results
from tqdm import tqdm

from rlrr.errors import RLRRError
from rlrr.files import read_json

COMMAND = "train sample:mnist --model vit_small_focus --image-size 70 --epochs 1"
OPENMP = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME", "OMP_NUM_THREADS")
REFERENCE = "torch"


def settings(spin_counts: Sequence[int]) -> dict[str, dict[str, str]]:
    """List the settings by name, each the variables of its environment."""
    return {
        # the default of LLVM's OpenMP, which GNU's does not know; with it `rlrr` sets nothing
        REFERENCE: {"KMP_BLOCKTIME": "200"},
        "rlrr": {},
        **{f"spin count {count}": {"GOMP_SPINCOUNT": str(count)} for count in spin_counts},
        "passive": {"OMP_WAIT_POLICY": "PASSIVE"},
        "one thread": {"OMP_NUM_THREADS": "1"},
    }


@contextmanager
def busy_process() -> Iterator[None]:
    """Keep one core busy by a process that computes without an end."""
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield
    finally:
        process.kill()
        process.wait()


def seconds_of_training(command: str, variables: Mapping[str, str], busy: bool) -> float:
    """Run the command with only these variables of OpenMP in its environment, and read the time of its training."""
    environment = {name: value for name, value in os.environ.items() if name not in OPENMP} | variables
    with TemporaryDirectory() as scratch, busy_process() if busy else nullcontext():
        run = Path(scratch) / "run"
        words = [sys.executable, "-m", "rlrr.cli.main", *shlex.split(command), "--output", str(run)]
        done = subprocess.run(words, env=environment, capture_output=True, text=True)
        if done.returncode:
            raise RLRRError(f"`rlrr {command}` failed: {done.stderr.strip()}")
        return read_json(run / "rlrr.json")["metrics"]["train_seconds"]


def summary(runs: Sequence[dict[str, Any]]) -> str:
    """Write the table of runs, each with its turn, setting, `busy` and seconds."""
    seconds = {(run["setting"], run["busy"], run["turn"]): run["seconds"] for run in runs}
    turns = sorted({turn for *_, turn in seconds})
    rows = []
    for name in dict.fromkeys(name for name, *_ in seconds):
        quiet, busy = ([seconds[name, state, turn] for turn in turns] for state in (False, True))
        reference = [seconds[REFERENCE, False, turn] for turn in turns]
        ratios = (zip(quiet, reference, strict=True), zip(busy, quiet, strict=True))
        rows.append([name, spread(quiet), spread(busy), *(spread([a / b for a, b in pairs]) for pairs in ratios)])
    return markdown_table(["setting", "quiet, s", "busy, s", "quiet / torch's quiet", "busy / quiet"], rows)


def main(
    turns: PositiveInt = 3,
    spin_counts: Sequence[int] = (50_000, 20_000, 10_000, 1_000),
    command: str = COMMAND,
    output: Path = Path("bench"),
) -> None:
    """Measure all settings in turns.

    Args:
        turns: How often each setting runs, quiet and busy.
        spin_counts: Values of GOMP_SPINCOUNT that are tried beside that of `rlrr`.
        command: What `rlrr` runs, without its output.
        output: Folder of busy.json and busy.md.
    """
    cases = settings(spin_counts)
    seconds_of_training(command, cases["passive"], False)  # decodes the images for all that follow
    runs: list[dict[str, Any]] = []
    table = ""
    for turn in range(turns):
        taken = {}
        drawn = random.sample(order := list(product(cases, (False, True))), len(order))
        for name, busy in tqdm(drawn, unit="run", desc=f"turn {turn + 1} of {turns}"):
            taken[name, busy] = seconds_of_training(command, cases[name], busy)
        runs += [{"turn": turn, "setting": name, "busy": busy, "seconds": taken[name, busy]} for name, busy in order]
        table = summary(runs)  # each time, so that a run that is stopped leaves what it has
        results = {"machine": machine(), "command": f"rlrr {command}", "runs": runs}
        write_results(output, "busy", results, table)
    print(table)


if __name__ == "__main__":
    command_line(main)
