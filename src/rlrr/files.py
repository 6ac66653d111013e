"""Files that are written as a whole or not at all, and are not overwritten by accident."""

from __future__ import annotations

import errno
import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from rlrr.errors import RLRRError, UsageError

_FULL = (errno.ENOSPC, errno.EDQUOT)


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`, which is renamed to `path` at the end of the block.

    The data is flushed to the disk before the rename, so that a crash or a full disk leaves either the old file or the
    new one.

    Raises:
        RLRRError: the disk is full, or the folder cannot be written to.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with temporary.open("r+b") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise cannot_write(path, error) from error
    finally:
        with suppress(OSError):
            temporary.unlink()


def cannot_write(path: Path, error: OSError) -> RLRRError:
    """Describe an error of the file system in one sentence about `path`."""
    if error.errno in _FULL:
        return no_space(path)
    return RLRRError(f"Cannot write {path}: {error.strerror or error}. Choose another place, or check its permissions.")


def no_space(path: Path) -> RLRRError:
    """Build the error that the disk has no space for `path`."""
    return RLRRError(f"No space left on the disk to write {path}: free some space, then run again.")


def is_full(folder: Path) -> bool:
    """Tell whether the disk of a folder takes no further MiB, be it full or over a quota."""
    probe = folder / f".probe.{secrets.token_hex(4)}.tmp"
    try:
        with probe.open("wb") as file:
            file.write(bytes(1 << 20))
            os.fsync(file.fileno())
    except OSError as error:
        return error.errno in _FULL
    finally:
        with suppress(OSError):
            probe.unlink()
    return False


def expect_new_file(path: Path) -> None:
    """Refuse a path that exists.

    Raises:
        UsageError: the path exists.
    """
    if path.exists():
        raise UsageError(f"{path} exists: give another `output`; nothing is overwritten.")


def expect_new_folder(path: Path) -> None:
    """Refuse a path that exists, unless it is an empty folder.

    Raises:
        UsageError: the path is a file, or a folder that is not empty.
    """
    if not path.is_dir() or any(path.iterdir()):
        expect_new_file(path)


def nearest_existing(path: Path) -> Path:
    """Find the nearest existing path: the path itself, or a folder that it would lie in."""
    return next(parent for parent in (path.resolve(), *path.resolve().parents) if parent.exists())


def at_line(path: Path | str, text: str, key: str) -> str:
    """Locate a key in a file of lines `key: value`: "path, line 3", or the path alone."""
    for number, line in enumerate(text.splitlines(), start=1):
        if line.partition(":")[0].strip() == key:
            return f"{path}, line {number}"
    return str(path)


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, atomically."""
    with atomic(path) as temporary:
        text = json.dumps(value, indent=2, ensure_ascii=False) + "\n"
        # the name of a file may hold bytes that are no text; JSON escapes them as Python does
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        RLRRError: the file is missing or is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RLRRError(f"{path} is missing: is {path.parent} the folder you meant?") from None
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise RLRRError(f"{path} is damaged and cannot be read as JSON ({error}).") from None
