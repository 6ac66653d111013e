"""Conversion of another copy of VTAB-1k into the layout that everyone reads, as NOAH's script wrote it first.

Files keep their bytes. What comes undecoded in neither JPEG nor PNG is written as PNG, without loss, whereas NOAH's
own copy is JPEG of default quality throughout: pixels differ between copies, and so do results.
"""

from __future__ import annotations

import io
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image
from tqdm.auto import tqdm

from rlrr.data.benchmarks.copies import Copy, find_copies
from rlrr.data.benchmarks.vtab import TASKS
from rlrr.data.benchmarks.vtab_rule import task_called, vtab_splits
from rlrr.data.dataset import Split
from rlrr.data.decode import decode
from rlrr.data.split import enumerated
from rlrr.errors import RLRRError, UsageError, did_you_mean
from rlrr.files import cannot_write

logger = logging.getLogger(__name__)

_SUFFIXES = {"JPEG": ".jpg", "PNG": ".png"}


@dataclass(frozen=True)
class Converted:
    """A task that has been written.

    Attributes:
        images: how many there are, by list ("train800", "val200", "train800val200", "test").
    """

    task: str
    folder: Path
    images: Mapping[str, int]


def convert(source: str | Path, output: str | Path, *, task: str | None = None) -> Iterator[Converted]:
    """Write the tasks of `source` below `output`, one folder each, and yield each once it is wholly there.

    Args:
        source: a folder, a zip or `hub:OWNER/NAME`, with one task or many: with the usual lists, as
            `<task>/train/img_0-label_5.png`, or as `datasets` keeps them.
        task: convert only this one; or what the only one in the source is, if its name does not tell.

    Raises:
        RLRRError: the source cannot be had or is no copy of VTAB-1k, `output` has the task already, or writing fails.
    """
    if task is not None and task not in TASKS:
        raise UsageError(f"There is no task {task!r} in VTAB-1k.{did_you_mean(task, TASKS)}")
    output = Path(output).expanduser()
    _refuse_existing(output, [task] if task else [])  # before gigabytes are unpacked
    with _workspace(output) as work:
        scratch = work / "unpacked"
        scratch.mkdir()
        copies = _by_task(list(find_copies(str(source), scratch)), str(source), task)
        _refuse_existing(output, list(copies))
        for name, copy in copies.items():
            splits = vtab_splits(name, copy.read(), copy.place)
            images = _write(splits, work / name, scratch)
            os.rename(work / name, output / name)
            yield Converted(name, output / name, images)


def _refuse_existing(output: Path, tasks: list[str]) -> None:
    if there := [name for name in tasks if (output / name).exists()]:
        raise UsageError(
            f"{output} already has {enumerated(there)}: give another `output`, remove what is there, or choose one of "
            "the other tasks with `task`.",
        )


@contextmanager
def _workspace(output: Path) -> Iterator[Path]:
    """Make a folder inside `output`, from where files can be moved or linked; nothing of it stays."""
    new = not output.exists()
    try:
        output.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".rlrr-", dir=output) as folder:
            yield Path(folder)
    except OSError as error:
        raise cannot_write(output, error) from error
    finally:
        if new:
            with suppress(OSError):  # it holds tasks
                output.rmdir()


def _by_task(copies: list[Copy], source: str, task: str | None) -> dict[str, Copy]:
    """Tell which task each copy is."""
    if not copies:
        raise RLRRError(
            f"{source} holds no copy of VTAB-1k: no folder with train800.txt, none with train/ and test/ below it, "
            "no zip of such, and no data set."
        )
    named: dict[str, Copy] = {}
    unknown = []
    for copy in copies:
        name = task_called(copy.name) or (task if len(copies) == 1 else None)
        if name is None:
            unknown.append(copy.name)
        elif name in named and task in (None, name):
            raise RLRRError(f"{source} has {name} twice, in {named[name].place} and {copy.place}: give one of them.")
        else:
            named[name] = copy
    if task in named:
        return {task: named[task]}
    if task:
        raise RLRRError(f"{source} holds {enumerated([*named, *unknown])}, and not {task}.")
    if not named:
        raise RLRRError(
            f"{source} holds {enumerated(unknown)}, which is no name of a task of VTAB-1k: give what holds one task "
            f"only and say with `task` which it is, of {', '.join(TASKS)}."
        )
    if unknown:
        logger.warning("%s: not converted, since no task of VTAB-1k is called so: %s", source, enumerated(unknown))
    return named


def _write(splits: Mapping[str, Split], folder: Path, scratch: Path) -> dict[str, int]:
    """Write a task's images and lists."""
    lists = {key: _write_images(split, folder, key, scratch) for key, split in splits.items()}
    if "train800val200" not in lists:
        (folder / "images" / "train800val200").mkdir()
        both = []
        for index, (path, label) in enumerate(lists["train800"] + lists["val200"]):
            name = f"images/train800val200/{index:06d}{Path(path).suffix}"
            _link(folder / path, folder / name)
            both.append((name, label))
        lists["train800val200"] = both
    for key, lines in lists.items():
        text = "".join(f"{path} {label}\n" for path, label in lines)
        (folder / f"{key}.txt").write_text(text, encoding="utf-8", newline="\n")
    return {key: len(lines) for key, lines in lists.items()}


def _write_images(split: Split, folder: Path, key: str, scratch: Path) -> list[tuple[str, int]]:
    (folder / "images" / key).mkdir(parents=True)
    lines = []
    for index in tqdm(range(len(split)), f"Writing {folder.name}, {key}", disable=None):
        image = split.images[index]
        stem = f"images/{key}/{index:06d}"
        if isinstance(image, Path) and image.is_relative_to(scratch):
            path = stem + image.suffix.lower()
            _link(image, folder / path)
        else:
            suffix, content = _encoded(image, split.names[index])
            path = stem + suffix
            (folder / path).write_bytes(content)
        lines.append((path, int(split.labels[index])))
    return lines


def _encoded(image: Any, name: str) -> tuple[str, bytes]:
    """Give an image's file as it is, or as PNG if it is neither a file nor bytes of JPEG or PNG."""
    if isinstance(image, Path):
        try:
            return image.suffix.lower(), image.read_bytes()
        except OSError as error:
            raise RLRRError(f"Cannot read {image}: {error.strerror}. Take a full copy.") from error
    with suppress(Exception), Image.open(io.BytesIO(image)) as opened:  # `decode` says what is wrong
        if opened.format in _SUFFIXES:
            return _SUFFIXES[opened.format], image
    png = io.BytesIO()
    decode(image, name).save(png, "PNG")
    return ".png", png.getvalue()


def _link(source: Path, target: Path) -> None:
    """Make two names of one file, or two files where the file system has no links."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
