"""From what a user writes for data to the data set it names."""

from __future__ import annotations

from pathlib import Path

from rlrr.data.dataset import ImageData
from rlrr.data.folder import load_folder
from rlrr.data.hub import load_hub
from rlrr.data.samples import load_sample


def load_data(data: str | Path, *, val_fraction: float | None = 0.2, seed: int = 0) -> ImageData:
    """Load a folder of images, `sample:NAME` or `hub:OWNER/NAME`; no image is decoded yet.

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
    return load_folder(Path(data).expanduser(), val_fraction=val_fraction, seed=seed)


def data_source(data: str | Path) -> str:
    """What tells whether two words for data mean the same: a folder's absolute path, or the word itself."""
    kind, _, name = str(data).partition(":")
    if kind == "sample":
        return str(data)
    if kind == "hub":
        folder = Path(name).expanduser()
        return f"hub:{folder.resolve()}" if folder.exists() else str(data)
    return str(Path(data).expanduser().resolve())
