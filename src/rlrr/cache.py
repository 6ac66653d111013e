"""The folder of what can be made again: where it is, how much it may hold, and what makes room for what.

A file in it is named by all that its content depends on, so it never needs an update. What the files hold is known
where they are made: decoded images in `rlrr.data.cache`, singular vectors in `rlrr.spectral.cached`.
"""

from __future__ import annotations

import errno
import math
import os
import re
import shutil
from contextlib import suppress
from pathlib import Path

from rlrr.errors import UsageError

FOLDER, LIMIT = "RLRR_CACHE", "RLRR_CACHE_GIB"  # environment variables
_DEFAULT_GIB = 20.0
_OURS = re.compile(r"\.?[0-9a-f]{64}\.(uint8|safetensors)(\.[0-9a-f]+\.tmp)?")  # nothing else is ever deleted


def cache_folder(name: str) -> Path:
    """Return the folder of one kind of files, as an absolute path, whether it is there or not.

    Raises:
        RuntimeError: it is in the home folder, and there is none.
    """
    base = os.environ.get(FOLDER) or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "rlrr"
    return Path(base).expanduser().absolute() / name


def cache_limit() -> float:
    """Return the most that all kinds may take together, in bytes; 0 if nothing is to be kept.

    Raises:
        RLRRError: `RLRR_CACHE_GIB` is not a number of 0 or more.
    """
    given = os.environ.get(LIMIT) or _DEFAULT_GIB
    try:
        gib = float(given)
    except ValueError:
        gib = math.nan
    if not gib >= 0:
        raise UsageError(f"{LIMIT} must be a number of GiB, 0 for no cache, not {given!r}.")
    return gib * 2**30


def make_room(folder: Path, size: int) -> None:
    """Delete what was used longest ago, of all kinds, until `size` bytes more are within the limit.

    Args:
        folder: A `cache_folder`, which exists.

    Raises:
        OSError: they cannot be, or would take more than half of what is free on the disk.
    """
    limit = cache_limit()
    if size > limit:
        gib = size / 2**30
        raise OSError(errno.EFBIG, f"{gib:.3g} GiB are needed, of {limit / 2**30:.3g} allowed")
    files = []
    for path in folder.parent.glob("*/*"):
        with suppress(OSError):  # deleted by another run just now
            if _OURS.fullmatch(path.name):
                files.append((path.stat().st_mtime_ns, path.stat().st_size, path))
    total = size + sum(taken for _, taken, _ in files)
    for _, taken, path in sorted(files):
        if total <= limit:
            break
        path.unlink(missing_ok=True)
        total -= taken
    if 2 * size > shutil.disk_usage(folder).free:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
