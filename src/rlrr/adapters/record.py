"""The record of an adapter folder, `rlrr.json`."""

from __future__ import annotations

import platform
import shlex
from dataclasses import dataclass, field, fields
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rlrr.backbones import Backbone
from rlrr.errors import RLRRError
from rlrr.files import read_json

FORMAT = 1
TENSORS, PEFT_CONFIG, RECORD = "adapter_model.safetensors", "adapter_config.json", "rlrr.json"


@dataclass(frozen=True, repr=False)
class Record:
    """The content of `rlrr.json`.

    Attributes:
        method: Name of the method.
        backbone: `name` and `weights` to load it from, `architecture`, `tag`, `image_size` in pixels, and
            `fingerprint`, the SHA-256 of its weights.
        classes: Class names, in the order of the logits.
        preprocessing: timm's data config.
        recipe: The options of the run.
        data: Name of the data, its `source` (the absolute path of a folder, else the recipe's own word), the origin of
            its splits, the number of images in each, and the names of skipped images.
        protocol: How the reported epoch was chosen.
        metrics: Accuracies as fractions, named after the split, and seconds of training.
        parameters: Numbers of trained parameters: `adapter` and `head`.
        versions: Versions of the libraries used.
        tensors_sha256: SHA-256 of `adapter_model.safetensors`.
        format: Version of this format.
    """

    method: str
    backbone: dict[str, Any]
    classes: list[str]
    preprocessing: dict[str, Any]
    recipe: dict[str, Any] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)
    protocol: str = ""
    metrics: dict[str, Any] = field(default_factory=dict)
    parameters: dict[str, int] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    tensors_sha256: str = ""
    format: int = FORMAT

    def __repr__(self) -> str:
        accuracies = (f", {name} {value:.1%}" for name, value in self.metrics.items() if name.endswith("_accuracy"))
        return f"Record({self.summary}{''.join(accuracies)})"

    @property
    def summary(self) -> str:
        """Name the method, the backbone and the number of classes."""
        return f"{self.method} on {self.backbone.get('name', 'an unknown backbone')}, {len(self.classes)} classes"


def backbone_record(backbone: Backbone, weights: str | None) -> dict[str, Any]:
    """Describe a backbone, loaded with these `weights`, for a record."""
    return {
        "name": backbone.name,
        "weights": str(Path(weights).expanduser().resolve()) if weights else None,
        "architecture": backbone.architecture,
        "tag": backbone.tag,
        "image_size": backbone.image_size,
        "fingerprint": backbone.fingerprint,
    }


def library_versions() -> dict[str, str]:
    """Collect the versions of the libraries that a result depends on, for `Record.versions`."""
    libraries = ("rlrr", "torch", "timm", "peft", "transformers")
    return {"python": platform.python_version(), **{name: version(name) for name in libraries}}


def read_record(folder: Path) -> Record:
    """Read `rlrr.json`.

    Raises:
        RLRRError: the folder holds no finished run, or was written by a newer version.
    """
    if not folder.is_dir():
        raise RLRRError(f"There is no folder {folder}: give the one that `rlrr train` wrote to.")
    if not (folder / RECORD).exists():
        if (folder / "recipe.yaml").exists():
            raise RLRRError(
                f"The run in {folder} is not finished; go on with it: rlrr train "
                f"--config {shlex.quote(str(folder / 'recipe.yaml'))} --output {shlex.quote(str(folder))} --resume"
            )
        if (folder / PEFT_CONFIG).exists():
            raise RLRRError(
                f"{folder} is a PEFT adapter without {RECORD}: load it with peft.PeftModel.from_pretrained."
            )
        raise RLRRError(f"{folder} holds no {RECORD}, so it is not the folder of a run of `rlrr train`.")
    content = read_json(folder / RECORD)
    written = content.get("format") if isinstance(content, dict) else None
    if not isinstance(written, int):
        raise RLRRError(f"{folder / RECORD} is not the record of an adapter: it names no format.")
    if written > FORMAT:
        raise RLRRError(f"{folder / RECORD} has format {written}, newer than this rlrr reads ({FORMAT}): update rlrr.")
    names = {f.name for f in fields(Record)}
    if content.keys() != names:
        odd = ", ".join(sorted(content.keys() ^ names))
        raise RLRRError(f"{folder / RECORD} is damaged: {odd} missing or stray.")
    backbone = content["backbone"]
    if not isinstance(backbone, dict) or not backbone.keys() >= {"name", "weights", "image_size", "fingerprint"}:
        raise RLRRError(f"{folder / RECORD} is damaged: it does not name the backbone of the adapter.")
    return Record(**content)
