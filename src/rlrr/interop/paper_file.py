"""A checkpoint file of the paper's own code becomes the folder of a run, and a run such a file."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor

from rlrr.adapters.folder import load_adapter, load_trained_state, merged_model, save_adapter, trained_state
from rlrr.adapters.record import Record, backbone_record, library_versions
from rlrr.backbones import load_backbone
from rlrr.errors import RLRRError, UsageError
from rlrr.files import atomic, expect_new_file, expect_new_folder
from rlrr.interop.paper_names import check_architecture, from_official, to_official
from rlrr.methods.apply import apply_method
from rlrr.methods.trainable import parameter_counts

# What the paper's code does to the images of VTAB-1k.
PREPROCESSING = {
    "crop_mode": "squash",
    "crop_pct": 1.0,
    "interpolation": "bicubic",
    "mean": (0.5, 0.5, 0.5),
    "std": (0.5, 0.5, 0.5),
}
_NO_IMAGES = {"train": 0, "val": 0, "test": 0, "skipped": []}
_CHOICE = "how it was chosen is not known (the paper's code keeps the best test epoch)"
# What a checkpoint of the paper's code cannot say.
_SETTINGS = ("rank", "sides", "residual", "multiply_weight", "shift", "fused_blocks", "convolutions")


def import_official(
    file: str | Path,
    output: str | Path,
    *,
    model: str,
    weights: str | None = None,
    image_size: int | None = None,
    classes: Sequence[str] | None = None,
) -> Record:
    """Make the folder of a finished run of what the paper's trainer saved.

    Args:
        file: The trainer's .pth file; only tensors are unpickled.
        output: A folder that does not exist yet.
        model: The backbone it was trained on, as for `load_backbone`.
        weights: A file or folder with the backbone's weights.
        image_size: Side of the images in pixels; None for the backbone's own.
        classes: Class names, in the order of the logits; None for "0", "1", ….

    Returns:
        What `rlrr.json` says of the run. The preprocessing is the paper's for VTAB-1k.

    Raises:
        RLRRError: the file is no such checkpoint or does not fit the backbone or the classes, or `output` exists.
    """
    path, folder = Path(file), Path(output)
    expect_new_folder(folder)
    official = _read(path)
    count = len(official["head.weight"])
    names = [str(i) for i in range(count)] if classes is None else list(classes)
    if len(names) != count:
        raise UsageError(f"{path} has {count} classes, and there are {len(names)} names: give one for each.")
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


def export_official(run: str | Path, output: str | Path, *, weights: str | None = None) -> Path:
    """Write what the paper's trainer would have saved of a run: a .pth file of plain tensors.

    Args:
        run: The folder of a finished run.
        output: A file that does not exist yet.
        weights: Where the backbone's weights are now, if not where they were in training.

    Returns:
        The file.

    Raises:
        RLRRError: the paper's code has no such method, setting or backbone, or `output` exists.
    """
    path = Path(output)
    expect_new_file(path)
    model, record = load_adapter(Path(run), weights)
    if record.method != "rlrr" or not isinstance(model, PeftModel):
        raise UsageError(f"The paper's code has no {record.method}, only rlrr: export {run} as onnx.")
    state, config = trained_state(model), model.peft_config[model.active_adapter]
    plain = merged_model(model)
    check_architecture(plain)
    paper: Any = apply_method(plain, "rlrr")
    differing = [name for name in _SETTINGS if getattr(config, name) != getattr(paper.peft_config["default"], name)]
    if not differing and state.keys() != trained_state(paper).keys():
        differing = ["its choice of modules"]
    if differing:
        raise UsageError(f"{run} differs from the paper's method in {', '.join(differing)}: export it as onnx.")
    content = io.BytesIO()
    torch.save(to_official(state), content)
    with atomic(path) as temporary:  # by Python, whose errors say when the disk is full
        temporary.write_bytes(content.getbuffer())
    return path


def _read(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise RLRRError(f"There is no file {path}: give a .pth file of the paper's trainer.")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged pickle may fail in any way
        raise RLRRError(
            f"{path} is damaged, no .pth file, or holds more than tensors, which is not read, as it could run any code."
        ) from error
    if isinstance(content, Mapping):
        content = content.get("model", content.get("state_dict", content))
    tensors = isinstance(content, Mapping) and all(isinstance(value, Tensor) for value in content.values())
    if not tensors or not any(str(name).endswith(".scale_line") for name in content):
        raise RLRRError(f"{path} is not a checkpoint of the paper's code: it holds no tensor called scale_line.")
    if getattr(content.get("head.weight"), "ndim", 0) != 2:
        raise RLRRError(f"{path} lacks the classifier, head.weight: give the file that the paper's trainer saved.")
    return dict(content)


def _check_fit(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor], path: Path, backbone: str) -> None:
    for name in wanted.keys() & found.keys():
        if found[name].shape != wanted[name].shape:
            shapes = f"{tuple(found[name].shape)}, and on {backbone} it is {tuple(wanted[name].shape)}"
            raise RLRRError(f"{path} is of another backbone: its {name} is {shapes}.")
    for names, what in ((wanted.keys() - found.keys(), "has no"), (found.keys() - wanted.keys(), "has a")):
        if names:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            raise RLRRError(
                f"{path} does not fit {backbone}: it {what} {min(names)}{more}. Was it trained on another backbone?"
            )
