"""Kill commands and fill their disk at points drawn at random, then run the same command again.

Used by benchmarks/reliability.py. A case is drawn from its number alone, so that a run that was stopped goes on.
"""

from __future__ import annotations

import errno
import os
import random
import re
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from stage import Ended, Stage, content, half_written, remains

DISK = 64 << 20  # bytes
TRIES = 6  # draws of a moment before a command is taken for too quick to be killed


def kill(stage: Stage, number: int, seed: int = 0) -> dict[str, Any]:
    """Kill a command once, at a moment of the clock or before a file operation, and run it again.

    Args:
        stage: The stage.
        number: Number of the case: commands take turns, and so do both kinds of moments.
        seed: Seed of all cases.
    """
    name, by_clock, draw = _drawn(stage, number, seed)
    expected, whole = stage.undisturbed(name)
    for _ in range(TRIES):
        folder, position = stage.empty(), draw.random()
        moment = position * whole.seconds if by_clock else 1 + int(position * whole.operations)
        if by_clock:
            ended = stage.call(stage.commands[name], folder, kill_after=float(moment))
        else:
            ended = stage.call(stage.commands[name], folder, _once(int(moment), _die))
        if ended.was_killed:
            break
    facts = {"command": name, "at": f"{moment:.3f} s" if by_clock else f"file operation {moment}"}
    return facts | {"killed": ended.was_killed} | _gone_on(stage, name, folder, expected)


def fill(stage: Stage, number: int, seed: int = 0) -> dict[str, Any]:
    """Fill the disk of a command before one of its file operations; make room, and run it again.

    Where a file system cannot be mounted, each later file operation is refused as if the disk were full.
    """
    name, _, draw = _drawn(stage, number, seed + 1)
    expected, whole = stage.undisturbed(name)
    moment, left = draw.randint(1, whole.operations), int(200_000 * draw.random() ** 3)
    folder = stage.empty()
    with small_disk(folder / "out") as is_real:
        ballast = folder / "out" / "ballast"
        at = _once(moment, lambda: _fill(ballast, left)) if is_real else _from(moment, _refuse)
        ended = stage.call(stage.commands[name], folder, at)
        ballast.unlink(missing_ok=True)
        facts = {
            "command": name,
            "at": f"file operation {moment}",
            "free bytes": left if is_real else "refused",
            "said": ended.said if ended.code else "",
        }
        again = _gone_on(stage, name, folder, expected)
        return facts | again | {"ok": again["ok"] and _said_so(ended)}


def _drawn(stage: Stage, number: int, seed: int) -> tuple[str, bool, random.Random]:
    names = list(stage.commands)
    return names[number % len(names)], number // len(names) % 2 == 1, random.Random(f"{seed} {number}")


def _said_so(ended: Ended) -> bool:
    """Tell whether a command on a full disk ended as it should: in one sentence about that, or done."""
    return ended.code == 0 or (ended.is_sentence and re.search(r"No space left|MiB free", ended.err) is not None)


def _gone_on(stage: Stage, name: str, folder: Path, expected: dict[str, Any]) -> dict[str, Any]:
    """Run a command again in the folder of one that was stopped, and compare what it leaves with the expected."""
    broken = half_written(folder / "out")
    again = stage.call(stage.again(name, folder), folder)
    found = content(folder / "out")
    differ = sorted(key for key in expected.keys() | found.keys() if expected.get(key) != found.get(key))
    left = remains(folder / "out")
    # what was whole already is not overwritten, but named
    accepted = again.code == 0 or (again.is_sentence and again.code == 2)
    return {
        "half written": broken,
        "again": again.code,
        "again said": again.said if again.code else "",
        "differ": differ,
        "remains": left,
        "ok": accepted and not (broken or differ or left),
    }


def _once(moment: int, do: Callable[[], None]) -> Callable[[int], None]:
    return lambda number: do() if number == moment else None


def _from(moment: int, do: Callable[[], None]) -> Callable[[int], None]:
    return lambda number: do() if number >= moment else None


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _refuse() -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _fill(file: Path, left: int) -> None:
    """Leave so many bytes free on the disk of a file."""
    size = max(0, shutil.disk_usage(file.parent).free - left)
    with file.open("wb", buffering=0) as ballast:
        while size > 0:
            try:
                size -= ballast.write(bytes(min(size, 1 << 20)))
            except OSError:
                return


@contextmanager
def small_disk(folder: Path) -> Iterator[bool]:
    """Mount a file system of a few MiB at a folder, and tell whether that was possible."""
    is_real = can_mount(folder.parent)
    if is_real:
        _mount(folder)
    try:
        yield is_real
    finally:
        if is_real:
            subprocess.run(["umount", "--lazy", str(folder)], check=True)


@cache
def can_mount(scratch: Path) -> bool:
    """Tell whether this process may mount a file system, by trying it below a folder."""
    if not shutil.which("mount"):
        return False
    trial = scratch / "trial"
    trial.mkdir(exist_ok=True)
    try:
        _mount(trial)
    except subprocess.CalledProcessError:
        return False
    subprocess.run(["umount", "--lazy", str(trial)], check=True)
    return True


def _mount(folder: Path) -> None:
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={DISK}", "tmpfs", str(folder)], check=True, capture_output=True
    )
