"""Images in folders: `class/x.jpg`, with or without `train|val|test` above. Files are named, not opened."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from rlrr.data.dataset import ImageData, Split
from rlrr.data.decode import EXTENSIONS
from rlrr.data.split import ALIASES, assemble, enumerated
from rlrr.errors import RLRRError, did_you_mean

logger = logging.getLogger(__name__)

_LAYOUT = "Expected class/image.jpg, or train/class/image.jpg with val/ and test/ beside train/."
_LITTER = {"thumbs.db", "desktop.ini", "__macosx"}  # as hidden files: the system's own, never worth a word


def load_folder(root: Path, *, val_fraction: float | None, seed: int) -> ImageData:
    """List the images below `root`, one class per folder, sorted by name.

    Folders inside a class belong to it; links to folders there are not followed.

    Raises:
        RLRRError: there is no such folder, or it does not have the expected layout.
    """
    if not root.exists():
        near = did_you_mean(root.name, (p.name for p in root.parent.iterdir())) if root.parent.is_dir() else ""
        raise RLRRError(f"There is no folder {root}.{near} Data is a folder, sample:NAME or hub:OWNER/NAME.")
    if not root.is_dir():
        raise RLRRError(f"{root} is a file, not a folder of images. {_LAYOUT}")
    name = as_text(root.resolve().name)
    parts = _split_folders(root)
    files = {key: _classes(root, part) for key, part in parts.items()}

    classes = sorted(files["train"])
    if empty := [label for label in classes if not files["train"][label]]:
        raise RLRRError(f"{parts['train']}: no images for class {enumerated(empty)}: add some or remove the folder.")
    for key, by_class in files.items():
        if unknown := sorted(set(by_class) - set(classes)):
            raise RLRRError(f"{parts[key]} has a class that train has not: {enumerated(unknown)}.")
        if not any(by_class.values()):
            raise RLRRError(f"{parts[key]} holds no images: fill it or remove it.")
    splits = {key: _listed(root, by_class, classes) for key, by_class in files.items()}
    origins = {key: f"folder {as_text(part.relative_to(root))}/" for key, part in parts.items()}
    return assemble(name, [as_text(c) for c in classes], splits, origins, val_fraction=val_fraction, seed=seed)


def _split_folders(root: Path) -> dict[str, Path]:
    """Find `train`, `val` and `test`, or take `root` for train, whose sub-folders are then the classes."""
    folders, _ = entries_of(root)
    named = [folder for folder in folders if folder.name.casefold() in ALIASES]
    train = [folder for folder in named if folder.name.casefold() == "train"]
    # A class may be called "test": then other classes stand beside it and it holds images, not folders.
    if not named or (len(named) < len(folders) and not any(_holds_classes(folder) for folder in named)):
        return {"train": root}
    if not train:
        raise RLRRError(f"{root} has {enumerated([as_text(f.name) for f in named])} but no train folder. {_LAYOUT}")
    parts: dict[str, Path] = {}
    for folder in named:
        key = ALIASES[folder.name.casefold()]
        if key in parts:
            raise RLRRError(f"{root} has two {key} folders, {parts[key].name} and {folder.name}: keep one.")
        parts[key] = folder
    if others := [as_text(folder.name) for folder in folders if folder not in named]:
        logger.warning("%s: folders beside train are not read: %s", root, enumerated(others))
    return parts


def _holds_classes(folder: Path) -> bool:
    folders, files = entries_of(folder)
    return bool(folders) and not any(is_image(file) for file in files)


def _classes(root: Path, folder: Path) -> dict[str, list[Path]]:
    """Find the images of each class folder, sorted by path."""
    folders, files = entries_of(folder)
    direct = sum(is_image(file) for file in files)
    # A link to a folder above would make every image one of its class.
    above = root.resolve()
    folders = [f for f in folders if not (f.is_symlink() and above.is_relative_to(f.resolve()))]
    if not folders:
        what = f"{direct} images but no class folders" if direct else "no images"
        raise RLRRError(f"{folder} holds {what}. {_LAYOUT}")
    if direct:
        logger.warning("%s: %d images outside a class folder are not read", folder, direct)
    by_class = {}
    others: Counter[str] = Counter()
    for class_folder in folders:
        paths = files_below(class_folder)
        by_class[class_folder.name] = sorted(path for path in paths if is_image(path))
        others.update(path.suffix.lower() or path.name for path in paths if not is_image(path))
    if others:
        kinds = enumerated([as_text(kind) for kind, _ in others.most_common()], most=5)
        logger.warning("%s: %d files that are not images are not read (%s)", folder, others.total(), kinds)
    if not any(by_class.values()):
        kinds = f" (only {enumerated([as_text(kind) for kind in others], most=5)} files)" if others else ""
        raise RLRRError(f"{folder} holds no images{kinds}. {_LAYOUT}")
    return by_class


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


def _listed(root: Path, by_class: Mapping[str, list[Path]], classes: list[str]) -> Split:
    pairs = [(path, label) for label, name in enumerate(classes) for path in by_class.get(name, [])]
    names = [as_text(path.relative_to(root)) for path, _ in pairs]
    return Split([path for path, _ in pairs], [label for _, label in pairs], names)


def as_text(path: str | Path) -> str:
    """Name a path in characters that can be printed and written as UTF-8, whatever bytes it is made of."""
    return os.fsencode(Path(path).as_posix()).decode("utf-8", "replace")
