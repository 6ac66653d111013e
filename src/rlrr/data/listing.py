"""Files and folders in a folder: images told by their endings, without the operating system's own files."""

from __future__ import annotations

import logging
import os
from pathlib import Path

from rlrr.data.decode import EXTENSIONS
from rlrr.data.split import enumerated
from rlrr.errors import RLRRError

logger = logging.getLogger(__name__)

_LITTER = {"thumbs.db", "desktop.ini", "__macosx"}  # as hidden files: the system's own, never worth a word


def files_below(folder: Path) -> list[Path]:
    """List the files below `folder`. Broken links are among them, so that the check can name them."""
    paths: list[Path] = []
    for parent, folders, files in os.walk(folder, onerror=cannot_list):
        folders[:] = [name for name in folders if not is_litter(name)]
        paths += [Path(parent, name) for name in files if not is_litter(name)]
        if links := [name for name in folders if os.path.islink(os.path.join(parent, name))]:
            logger.warning("%s: links to folders are not followed: %s", parent, enumerated(links))
    return paths


def entries_of(folder: Path) -> tuple[list[Path], list[Path]]:
    """List the sub-folders, sorted, and the files directly in `folder`."""
    try:
        entries = sorted(path for path in folder.iterdir() if not is_litter(path.name))
    except OSError as error:
        cannot_list(error)
        raise
    return [path for path in entries if path.is_dir()], [path for path in entries if not path.is_dir()]


def cannot_list(error: OSError) -> None:
    """Raise one sentence for a folder whose files cannot be listed.

    Raises:
        RLRRError: always.
    """
    raise RLRRError(f"Cannot list {error.filename}: {error.strerror}. Change its permissions.") from error


def is_litter(name: str) -> bool:
    """Tell whether a file belongs to the operating system, such as .DS_Store."""
    return name.startswith(".") or name.casefold() in _LITTER


def is_image(path: Path) -> bool:
    """Tell by its ending whether a file is an image that can be decoded."""
    return path.suffix.lower() in EXTENSIONS


def as_text(path: str | Path) -> str:
    """Name a path in characters that can be printed and written as UTF-8, whatever bytes it is made of."""
    return os.fsencode(Path(path).as_posix()).decode("utf-8", "replace")
