"""Images in folders: `class/x.jpg`, with or without `train|val|test` above. Files are named, not opened."""

from __future__ import annotations

import logging
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from rlrr.data.dataset import ImageData, Split
from rlrr.data.layout import archives, guess, holds_classes, splits_in, tables, unread
from rlrr.data.listing import as_text, entries_of, files_below, is_image
from rlrr.data.split import assemble, enumerated, one_form, split_meant
from rlrr.errors import RLRRError, counted, did_you_mean

logger = logging.getLogger(__name__)

_LAYOUT = "Expected class/image.jpg, or train/class/image.jpg with val/ and test/ beside train/."


def load_folder(root: Path, *, val_fraction: float | None, seed: int) -> ImageData:
    """List the images below `root`, one class per folder, sorted by name.

    Folders inside a class belong to it; links to folders there are not followed. Names that differ in their Unicode
    form only, as those of a Mac and of Windows may, are the same.

    Raises:
        RLRRError: there is no such folder, or it does not have the expected layout.
    """
    if not root.exists():
        near = did_you_mean(root.name, (p.name for p in root.parent.iterdir())) if root.parent.is_dir() else ""
        raise RLRRError(f"There is no folder {root}.{near} Data is a folder, sample:NAME or hub:OWNER/NAME.")
    if not root.is_dir():
        unpack = " Unpack it first." if archives([root]) else ""
        raise RLRRError(f"{root} is a file, not a folder of images.{unpack} {_LAYOUT}")
    name = as_text(root.resolve().name)
    parts = _split_folders(root)
    files = {key: _classes(root, part) for key, part in parts.items()}

    classes = sorted(files["train"])
    if empty := [label for label in classes if not files["train"][label]]:
        noun, them = ("class", "its folder") if len(empty) == 1 else ("classes", "their folders")
        instead = [
            f for each in entries_of(parts["train"])[0] if one_form(each.name) in empty for f in entries_of(each)[1]
        ]
        raise RLRRError(
            f"{parts['train']}: no images for {noun} {enumerated(empty)}: add some, or remove {them}.{unread(instead)}"
        )
    if len(classes) == 1 and val_fraction is not None and (meant := guess(root, parts["train"])):
        raise RLRRError(f"{parts['train']} has one class only ({classes[0]!r}).{meant}")
    _warn_of_near_names(parts["train"], classes)
    for key, by_class in files.items():
        if unknown := sorted(label for label in by_class if by_class[label] and label not in files["train"]):
            raise RLRRError(f"{parts[key]} has {_unknown(unknown, classes)}")
        if not any(by_class.values()):
            raise RLRRError(f"{parts[key]} holds no images: fill it or remove it.")
    splits = {key: _listed(root, by_class, classes) for key, by_class in files.items()}
    origins = {key: f"folder {as_text(part.relative_to(root))}/" for key, part in parts.items()}
    return assemble(name, [as_text(c) for c in classes], splits, origins, val_fraction=val_fraction, seed=seed)


def _split_folders(root: Path) -> dict[str, Path]:
    """Find `train`, `val` and `test`, or take `root` for train, whose sub-folders are then the classes."""
    folders, _ = entries_of(root)
    named = [folder for folder in folders if split_meant(folder.name)]
    train = [folder for folder in named if split_meant(folder.name) == "train"]
    # A class may be called "test": then other classes stand beside it and it holds images, not folders.
    if not named or (len(named) < len(folders) and not any(holds_classes(folder) for folder in named)):
        enough = [{"train"}] if len(folders) == 1 else [{"train", "val"}, {"train", "test"}]  # a class may be trains
        if inner := [str(folder) for folder in folders if any(splits_in(folder) >= splits for splits in enough)]:
            raise RLRRError(
                f"{root} has no train folder, but a folder in it has. Did you mean {' or '.join(inner[:3])}?"
            )
        return {"train": root}
    if not train:
        near = did_you_mean("train", (as_text(folder.name) for folder in folders if folder not in named))
        names = enumerated([as_text(folder.name) for folder in named])
        raise RLRRError(f"{root} has {names} but no train folder.{near} {_LAYOUT}")
    parts: dict[str, Path] = {}
    for folder in named:
        key = split_meant(folder.name) or ""
        if key in parts:
            raise RLRRError(f"{root} has two {key} folders, {parts[key].name} and {folder.name}: keep one.")
        parts[key] = folder
    if others := [as_text(folder.name) for folder in folders if folder not in named]:
        logger.warning("%s: folders beside train are not read: %s", root, enumerated(others))
    return parts


def _classes(root: Path, folder: Path) -> dict[str, list[Path]]:
    """Find the images of each class folder, sorted by path."""
    folders, files = entries_of(folder)
    direct = sum(is_image(file) for file in files)
    # A link to a folder above would make every image one of its class.
    above = root.resolve()
    folders = [f for f in folders if not (f.is_symlink() and above.is_relative_to(f.resolve()))]
    if not folders:
        what = f"{counted(direct, 'image')} but no class folders" if direct else "no images"
        raise RLRRError(f"{folder} holds {what}.{guess(root, folder)} {_LAYOUT}")
    if direct:
        logger.warning("%s: not read, as they are in no class folder: %s", folder, counted(direct, "image"))
    if len(folders) > 1 and (listed := tables(files)):
        logger.warning("%s: not read, as the folders' names are the labels: %s", folder, enumerated(listed, most=5))
    by_class: dict[str, list[Path]] = defaultdict(list)
    others: Counter[str] = Counter()
    for class_folder in folders:
        paths = files_below(class_folder)
        by_class[one_form(class_folder.name)] += sorted(path for path in paths if is_image(path))
        others.update(path.suffix.lower() or path.name for path in paths if not is_image(path))
    kinds = enumerated([as_text(kind) for kind, _ in others.most_common()], most=5)
    if not any(by_class.values()):
        packed = " Unpack them first." if archives(Path(f"x{kind}") for kind in others) else ""
        raise RLRRError(f"{folder} holds no images{f' (only {kinds} files)' if others else ''}.{packed} {_LAYOUT}")
    if others:
        number = counted(others.total(), "file")
        logger.warning("%s: not read, as they are no images that Pillow knows: %s (%s)", folder, number, kinds)
    return by_class


def _warn_of_near_names(train: Path, classes: Sequence[str]) -> None:
    by_name: dict[str, list[str]] = defaultdict(list)
    for label in classes:
        by_name[_plain(label)].append(as_text(label))
    for near in by_name.values():
        if len(near) > 1:
            logger.warning(
                "%s: classes with nearly the same name: %s. If they are one, join them.", train, ", ".join(near)
            )


def _unknown(unknown: Sequence[str], classes: Sequence[str]) -> str:
    """Write the end of a sentence on classes that train has not, with the names that may be meant."""
    what = f"{'a class' if len(unknown) == 1 else 'classes'} that train has not: {enumerated(unknown)}."
    by_name = {_plain(label): label for label in classes}
    meant = [by_name[_plain(label)] for label in unknown if _plain(label) in by_name]
    if meant:
        return f"{what} Did you mean {enumerated(meant, most=5)}?"
    return what + did_you_mean(unknown[0], classes)


def _plain(label: str) -> str:
    """Reduce a name to what two people write alike, without case, spaces, hyphens and underscores."""
    return re.sub(r"[\s_-]+", "", unicodedata.normalize("NFKC", label).casefold())


def _listed(root: Path, by_class: Mapping[str, list[Path]], classes: list[str]) -> Split:
    pairs = [(path, label) for label, name in enumerate(classes) for path in by_class.get(name, [])]
    names = [as_text(path.relative_to(root)) for path, _ in pairs]
    return Split([path for path, _ in pairs], [label for _, label in pairs], names)
