"""Loading data: from the words a user writes to the data set that they name."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from rlrr.data.benchmarks.fgvc import is_fgvc, load_fgvc
from rlrr.data.benchmarks.vtab import is_vtab, load_vtab
from rlrr.data.dataset import ImageData
from rlrr.data.folder import load_folder
from rlrr.data.hub import load_hub
from rlrr.data.samples import load_sample
from rlrr.data.split import enumerated
from rlrr.errors import RLRRError
from rlrr.files import as_path


def load_data(data: str | Path, *, val_fraction: float | None = 0.2, seed: int = 0) -> ImageData:
    """Load a folder of images, `sample:NAME` or `hub:OWNER/NAME`; no image is decoded yet.

    A folder with the lists of a task of VTAB-1k or FGVC is read by them, any other by its folders of classes.

    Args:
        val_fraction: share of train held out as val if the data has no val of its own; samples have. None holds
            nothing out, for data that is not trained on.
        seed: of the split made here.

    Raises:
        RLRRError: there is no such data, or it cannot be used as it is.
    """
    kind, _, name = str(data).partition(":")
    if kind == "sample":
        return load_sample(name, seed=seed)
    if kind == "hub":
        return load_hub(name, val_fraction=val_fraction, seed=seed)
    folder = as_path(data)
    if is_vtab(folder):
        return load_vtab(folder)
    if is_fgvc(folder):
        return load_fgvc(folder, val_fraction=val_fraction, seed=seed)
    _refuse_benchmark(folder)
    return load_folder(folder, val_fraction=val_fraction, seed=seed)


def data_source(data: str | Path) -> str:
    """Identify data: a folder by its absolute path, other data by the word itself."""
    kind, _, name = str(data).partition(":")
    if kind == "sample":
        return str(data)
    if kind == "hub":
        folder = Path(name).expanduser()
        return f"hub:{folder.resolve()}" if folder.exists() else str(data)
    return str(Path(data).expanduser().resolve())


def _refuse_benchmark(root: Path) -> None:
    """Refuse a folder of tasks, which would otherwise pass for one of classes."""
    with suppress(NotADirectoryError, FileNotFoundError, PermissionError):  # of which `load_folder` says more
        for title, is_task in (("VTAB-1k", is_vtab), ("FGVC", is_fgvc)):
            if tasks := sorted(folder.name for folder in root.iterdir() if is_task(folder)):
                raise RLRRError(
                    f"{root} holds tasks of {title} ({enumerated(tasks, most=3)}): name one, as {root / tasks[0]}."
                )
