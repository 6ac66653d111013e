"""Data sets of the Hugging Face Hub, or saved by `datasets` in a folder. Images stay undecoded."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlrr.data.dataset import ImageData, Split
from rlrr.data.split import assemble, split_meant
from rlrr.errors import RLRRError, did_you_mean, require

if TYPE_CHECKING:
    import datasets

logger = logging.getLogger(__name__)


def load_hub(name: str, *, val_fraction: float | None, seed: int) -> ImageData:
    """Load `owner/name`, or a folder that `save_to_disk` wrote or that `datasets` can load.

    The first image column is used, and the column of class labels: the only one, the one called `label` or
    `labels`, or the one chosen as `owner/name#column`.

    Raises:
        RLRRError: `datasets` is not installed, the data set cannot be had, or it has no images with labels.
    """
    name, _, column = name.partition("#")
    loaded = load_parts(name)
    parts: dict[str, datasets.Dataset] = {}
    for key in loaded:
        if meant := split_meant(key):
            parts.setdefault(meant, loaded[key])
    if "train" not in parts:
        raise RLRRError(f"{name} has no train split, only {', '.join(loaded)}: save a folder of images from it.")
    image_column, label_column = label_columns(name, parts["train"], column)
    classes = parts["train"].features[label_column].names
    splits = {}
    for key, part in parts.items():
        if getattr(part.features.get(label_column), "names", None) != classes:
            raise RLRRError(f"{name}: the classes in {label_column!r} of {key} are not those of train.")
        labels = list(part[label_column])
        if all(label is not None and label >= 0 for label in labels):
            names = [f"{key}/{index}" for index in range(len(labels))]
            splits[key] = Split(ColumnImages(part, image_column), labels, names)
        elif key == "test":  # as in a competition, where they are kept back
            logger.warning("%s: test is not read, since labels are missing in it", name)
        else:
            raise RLRRError(f"{name}: labels are missing in {key}; remove the images without one.")
    origins = {key: f"the data set's own {key} split" for key in splits}
    return assemble(name, classes, splits, origins, val_fraction=val_fraction, seed=seed)


def load_parts(name: str) -> Mapping[str, datasets.Dataset]:
    """Load a data set by its name on the Hub or from a folder, by split.

    Raises:
        RLRRError: it cannot be loaded, or the extra `hub` is not installed.
    """
    require("hub")
    import datasets

    folder = Path(name).expanduser()
    saved = any((folder / marker).is_file() for marker in ("dataset_dict.json", "state.json"))
    try:
        if saved:
            loaded = datasets.load_from_disk(folder)
        else:
            loaded = datasets.load_dataset(str(folder) if folder.is_dir() else name)
    except Exception as error:  # of the network, the cache, the Hub or a reader: all end the same way
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise RLRRError(
            f"Cannot load the data set {name!r} ({reason.rstrip('.')}). Without a network, use a local "
            "folder of images, or set HF_HOME to a cache that holds it."
        ) from error
    return {"train": loaded} if isinstance(loaded, datasets.Dataset) else loaded


def label_columns(name: str, part: datasets.Dataset, column: str) -> tuple[str, str]:
    """Find the columns of images and labels; `column` names that of the labels, or "" where there is one only.

    Raises:
        RLRRError: there is none, or there are several to choose from.
    """
    import datasets

    features = part.features
    images = [key for key, feature in features.items() if isinstance(feature, datasets.Image)]
    labels = [key for key, feature in features.items() if isinstance(feature, datasets.ClassLabel)]
    if not images or not labels:
        what = "images" if not images else "class labels (make some with class_encode_column and save_to_disk)"
        raise RLRRError(f"{name} has no column of {what}; its columns are {', '.join(features)}.")
    if column and column not in labels:
        raise RLRRError(
            f"{name} has class labels in {', '.join(labels)}, not {column!r}.{did_you_mean(column, labels)}"
        )
    usual = [column] if column else [key for key in labels if key in ("label", "labels")] or labels
    if len(usual) > 1:
        raise RLRRError(f"{name} has class labels in {', '.join(labels)}: choose one, as in hub:{name}#{labels[0]}.")
    return images[0], usual[0]


class ColumnImages(Sequence[Any]):
    """The images of one split as bytes or paths, read from the Arrow file one by one."""

    def __init__(self, part: datasets.Dataset, column: str) -> None:
        import datasets

        self._rows = part.select_columns(column).cast_column(column, datasets.Image(decode=False))
        self._column = column

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: Any) -> Any:
        image = self._rows[index][self._column] or {}  # a missing image is an empty one
        if image.get("bytes") is not None or not image.get("path"):
            return image.get("bytes") or b""
        return Path(image["path"])
