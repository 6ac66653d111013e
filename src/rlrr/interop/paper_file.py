"""Import of a checkpoint file of the paper's own code as the folder of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from rlrr.adapters.folder import load_trained_state, save_adapter, trained_state
from rlrr.adapters.record import Record, backbone_record, library_versions
from rlrr.backbones import load_backbone
from rlrr.errors import RLRRError, UsageError
from rlrr.files import expect_new_folder
from rlrr.interop.paper_names import check_architecture, from_official, to_official
from rlrr.methods.apply import apply_method
from rlrr.methods.trainable import parameter_counts
from rlrr.words import counted

# Preprocessing of VTAB-1k in the paper's code.
PREPROCESSING = {
    "crop_mode": "squash",
    "crop_pct": 1.0,
    "interpolation": "bicubic",
    "mean": (0.5, 0.5, 0.5),
    "std": (0.5, 0.5, 0.5),
}
_NO_IMAGES = {"train": 0, "val": 0, "test": 0, "skipped": []}
_CHOICE = "the choice of the epoch is not known (the paper's code keeps the best test epoch)"


def import_official(
    file: str | Path,
    output: str | Path,
    *,
    model: str,
    weights: str | None = None,
    image_size: int | None = None,
    classes: Sequence[str] | None = None,
) -> Record:
    """Make the folder of a finished run from a checkpoint of the paper's trainer.

    Args:
        file: The trainer's .pth file; only tensors are unpickled.
        output: A folder that does not exist yet.
        model: Name of the backbone, as for `load_backbone`.
        weights: A file or folder with the backbone's weights.
        image_size: Side of the images in pixels; None for the backbone's own.
        classes: Class names, in the order of the logits; None for "0", "1", ….

    Returns:
        The content of `rlrr.json`. The preprocessing is the paper's for VTAB-1k.

    Raises:
        RLRRError: the file is no checkpoint of the trainer or does not fit the backbone or the classes, or `output`
            exists.
    """
    path, folder = Path(file), Path(output)
    expect_new_folder(folder)
    official = _read(path)
    count = len(official["head.weight"])
    names = [str(i) for i in range(count)] if classes is None else list(classes)
    if len(names) != count:
        raise UsageError(
            f"{path} has {counted(count, 'class', 'classes')}, and the names given are {len(names)}: give one for each."
        )
    backbone = load_backbone(
        model, num_classes=count, image_size=image_size, weights=weights, preprocessing=PREPROCESSING
    )
    check_architecture(backbone.model)
    adapted = apply_method(backbone.model, "rlrr")
    _check_fit(official, to_official(trained_state(adapted)), path, backbone.name)
    load_trained_state(adapted, from_official(official)[1], path)
    record = Record(
        method="rlrr",
        backbone=backbone_record(backbone, weights),
        classes=names,
        preprocessing=backbone.data_config,
        recipe={
            "model": backbone.name,
            "weights": weights,
            "method": "rlrr",
            "image_size": image_size,
            "crop_mode": PREPROCESSING["crop_mode"],
            "crop_pct": PREPROCESSING["crop_pct"],
            "normalization": "half",
            "note": "trained by the paper's code; the rest is not known",
        },
        data={"name": "not known", "source": None, "splits": "not known", **_NO_IMAGES},
        protocol=f"imported from {path.name}; {_CHOICE}",
        parameters=parameter_counts(adapted),
        versions=library_versions(),
    )
    return save_adapter(folder, adapted, record)


def _read(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise RLRRError(f"There is no file {path}: give a .pth file of the paper's trainer.")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged pickle may fail in any way
        raise RLRRError(
            f"{path} is damaged, no .pth file, or holds more than tensors, and reading such objects could run any code."
        ) from error
    if isinstance(content, Mapping):
        content = content.get("model", content.get("state_dict", content))
    tensors = isinstance(content, Mapping) and all(isinstance(value, Tensor) for value in content.values())
    if not tensors or not any(str(name).endswith(".scale_line") for name in content):
        raise RLRRError(f"{path} is not a checkpoint of the paper's code: it holds no tensor called scale_line.")
    if getattr(content.get("head.weight"), "ndim", 0) != 2:
        raise RLRRError(f"{path} lacks the classifier, head.weight: give the file that the paper's trainer saved.")
    return dict(content)


def _check_fit(given: Mapping[str, Tensor], expected: Mapping[str, Tensor], path: Path, backbone: str) -> None:
    for name in expected.keys() & given.keys():
        if given[name].shape != expected[name].shape:
            shapes = f"{tuple(given[name].shape)}, and on {backbone} it is {tuple(expected[name].shape)}"
            raise RLRRError(f"{path} is of another backbone: its {name} is {shapes}.")
    for names, verb in ((expected.keys() - given.keys(), "has no"), (given.keys() - expected.keys(), "has a")):
        if names:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            raise RLRRError(
                f"{path} does not fit {backbone}: it {verb} {min(names)}{more}. Was it trained on another backbone?"
            )
