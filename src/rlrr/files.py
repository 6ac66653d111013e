"""Files that are written as a whole or not at all, are not overwritten by accident, and show if they were changed."""

from __future__ import annotations

import errno
import glob
import hashlib
import json
import os
import re
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from rlrr.errors import RLRRError, UsageError, shown

SEAL = "sha256"  # name of the checksum in a sealed JSON file

_FULL = (errno.ENOSPC, errno.EDQUOT)
_TEMPORARY = re.compile(r"\..+\.[0-9a-f]{8}\.tmp")


@contextmanager
def atomic(path: Path, *, shared: bool = False) -> Iterator[Path]:
    """Yield a temporary path beside `path`, which is renamed to `path` at the end of the block.

    The data is flushed to the disk before the rename, so that a crash or a full disk leaves either the old file or the
    new one. What a process that was killed while it wrote the same file has left is deleted first.

    Args:
        path: The file.
        shared: Other processes may write the same file at the same time, so that their temporary files are no remains.

    Raises:
        RLRRError: the disk is full, or the folder cannot be written to.
    """
    if not shared:
        remove_remains(path)
    temporary = _temporary(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        flush(temporary)
        os.replace(temporary, path)
    except OSError as error:
        raise cannot_write(path, error) from error
    finally:
        with suppress(OSError):
            temporary.unlink()


@contextmanager
def scratch_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder beside `path`, in which files are made before they are moved to their place.

    It is deleted at the end, and what a process that was killed has left of one for the same path is deleted first.

    Raises:
        RLRRError: the disk is full, or the folder of `path` cannot be written to.
    """
    remove_remains(path)
    scratch = _temporary(path)
    try:
        scratch.mkdir(parents=True)
        yield scratch
    except RLRRError as error:
        if isinstance(error.__cause__, OSError):  # of a file in it, whose name says nothing to a user
            raise cannot_write(path, error.__cause__) from error
        raise
    except OSError as error:
        raise cannot_write(path, error) from error
    except Exception as error:  # libraries in other languages have errors of their own for a full disk
        if not is_full(path.parent):
            raise
        raise no_space(path) from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder, which is moved to `path` at the end of the block, once all of it is on the disk.

    Args:
        path: A folder that does not exist, or is empty.

    Raises:
        RLRRError: the disk is full, or the folder of `path` cannot be written to.
    """
    with scratch_folder(path) as scratch:
        folder = scratch / path.name
        folder.mkdir()
        yield folder
        for file in filter(Path.is_file, folder.rglob("*")):
            flush(file)
        if path.exists():  # empty; Windows replaces no folder
            path.rmdir()
        folder.replace(path)


def flush(path: Path) -> None:
    """Wait until the content of a file is on the disk."""
    with path.open("r+b") as file:
        os.fsync(file.fileno())


def remove_remains(path: Path) -> None:
    """Delete the temporary files and folders that killed processes have left of `path`."""
    for remains in path.parent.glob(f".{glob.escape(path.name)}.{'[0-9a-f]' * 8}.tmp"):
        if remains.is_dir():
            shutil.rmtree(remains, ignore_errors=True)
        else:
            with suppress(OSError):
                remains.unlink()


def is_temporary(path: Path) -> bool:
    """Tell by its name whether a file or folder is one that `atomic` or `scratch_folder` renames or deletes."""
    return _TEMPORARY.fullmatch(path.name) is not None


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")


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
    """Refuse a path that exists, after deleting what a killed process has left of it.

    Raises:
        UsageError: the path exists.
    """
    remove_remains(path)
    if path.exists():
        raise UsageError(f"{path} exists: give another `output`; nothing is overwritten.")


def expect_new_folder(path: Path) -> None:
    """Refuse a path that exists, unless it is an empty folder.

    Raises:
        UsageError: the path is a file, or a folder that is not empty.
    """
    if not path.is_dir() or any(path.iterdir()):
        expect_new_file(path)


def as_path(text: str | Path) -> Path:
    """Turn what a user wrote into a path, with ~ for the home folder, whether anything is there or not.

    Raises:
        UsageError: it cannot be a path, or nobody may look there.
    """
    try:
        path = Path(text).expanduser()
        path.exists()
    except (OSError, RuntimeError) as error:  # too long, of a user that there is not, in a folder that is closed
        raise UsageError(
            f"{shown(str(text))} is no path to read: {getattr(error, 'strerror', None) or error}."
        ) from None
    return path


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
    except OSError as error:
        raise RLRRError(f"Cannot read {path}: {error.strerror or error}.") from None
    except (ValueError, RecursionError) as error:  # no text, no JSON, or a number or nesting beyond Python's limits
        raise RLRRError(f"{path} is damaged and cannot be read as JSON ({error}).") from None


def write_sealed(path: Path, content: Mapping[str, Any]) -> None:
    """Write names with values as JSON, atomically, with a checksum of them under `SEAL`."""
    write_json(path, {**content, SEAL: _checksum(content)})


def read_sealed(path: Path) -> Any:
    """Read a file of `write_sealed` without its checksum. A file that has none, as older ones, is read as it is.

    Raises:
        RLRRError: the file is missing, is not JSON, or was changed since it was written.
    """
    content = read_json(path)
    if isinstance(content, dict) and SEAL in content and content.pop(SEAL) != _checksum(content):
        raise RLRRError(
            f"{path} is damaged, or was changed since it was written: bring back the file as it was. To keep a change "
            f"made by hand, delete the line {SEAL} in it."
        )
    return content


def file_checksum(path: Path) -> str:
    """Compute the SHA-256 of a file, in hexadecimal.

    Raises:
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _checksum(content: Mapping[str, Any]) -> str:
    as_read = json.loads(json.dumps(content))  # tuples are lists then, and all names are text
    return hashlib.sha256(json.dumps(as_read, sort_keys=True).encode()).hexdigest()
