"""The cache folder: its path, its limit, and the deletion of the files used longest ago.

The name of a file is a hash of all that its content depends on, so that a file never needs an update. The files are
written elsewhere: decoded images in `rlrr.data.cache`, singular vectors in `rlrr.spectral.cached`.
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
    """Return the folder for one kind of files, as an absolute path, whether it exists or not.

    Raises:
        RuntimeError: the cache lies in the home folder, and there is no home folder.
    """
    base = os.environ.get(FOLDER) or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "rlrr"
    return Path(base).expanduser().absolute() / name


def cache_limit() -> float:
    """Return the limit, in bytes, of all kinds of files together; 0 if nothing is to be kept.

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
    """Delete the files used longest ago, of all kinds, until `size` more bytes are within the limit.

    Args:
        folder: A `cache_folder`, which exists.
        size: Number of bytes to make room for.

    Raises:
        OSError: `size` is above the limit, or above half of the space that is free on the disk.
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
