"""The record of an adapter folder, `rlrr.json`."""

from __future__ import annotations

import platform
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, get_type_hints

from rlrr.backbones import Backbone
from rlrr.backbones.preprocessing import is_data_config
from rlrr.errors import RLRRError
from rlrr.files import file_checksum, read_sealed
from rlrr.hints import fits

FORMAT = 2  # 1 had no checksum of the record itself and of the other files
TENSORS, PEFT_CONFIG, RECORD = "adapter_model.safetensors", "adapter_config.json", "rlrr.json"
_BACKBONE = {"name": str, "weights": str | None, "image_size": int, "fingerprint": str}  # entries that loading needs


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
            its splits, the number of images in each, the names of skipped images, the `duplicates` (as in
            `rlrr.data.duplicates`) and, by split, the `missing_classes`, of which it has no image.
        protocol: How the reported epoch was chosen.
        metrics: Accuracies as fractions, named after the split, and seconds of training.
        parameters: Numbers of trained parameters: `adapter` and `head`.
        versions: Versions of the libraries used.
        tensors_sha256: SHA-256 of `adapter_model.safetensors`.
        files_sha256: SHA-256 of the other files that belong to the adapter, by name; see `check_file`.
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
    files_sha256: dict[str, str] = field(default_factory=dict)
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
    content = read_sealed(folder / RECORD)
    written = content.get("format") if isinstance(content, dict) else None
    if type(written) is not int:
        raise RLRRError(f"{folder / RECORD} is not the record of an adapter: it names no format.")
    if written > FORMAT:
        raise RLRRError(f"{folder / RECORD} has format {written}, newer than this rlrr reads ({FORMAT}): update rlrr.")
    if written < 2:
        content.setdefault("files_sha256", {})
    if problem := _problem(content):
        raise RLRRError(f"{folder / RECORD} is damaged: {problem}.")
    return Record(**content)


def check_file(folder: Path, record: Record, name: str) -> None:
    """Refuse a file of an adapter's folder that is another one than `rlrr.json` was written with, or is gone.

    Of a file that the record knows nothing of nothing is said.

    Raises:
        RLRRError: the file is missing, or another one.
    """
    if (expected := record.files_sha256.get(name)) is None:
        return
    try:
        same = file_checksum(folder / name) == expected
    except OSError:
        raise RLRRError(f"{folder / name} is missing: copy the whole folder, or train again.") from None
    if not same:
        raise RLRRError(
            f"{folder / name} is damaged, or not the file that {RECORD} was written with: copy the folder again."
        )


def _problem(content: Mapping[str, Any]) -> str:
    """Describe the first thing in which a record is not as `save_adapter` writes it; "" if there is none."""
    hints = get_type_hints(Record)
    if odd := sorted(content.keys() ^ hints.keys()):
        return f"{', '.join(odd)} missing or stray"
    if wrong := [name for name, hint in hints.items() if not fits(content[name], hint)]:
        return f"{wrong[0]} has an impossible value"
    backbone = {"name": str, "weights": str | None, "image_size": int, "fingerprint": str}
    if not all(
        name in content["backbone"] and fits(content["backbone"][name], hint) for name, hint in backbone.items()
    ):
        return "it does not name the backbone of the adapter"
    if not content["classes"] or len(set(content["classes"])) < len(content["classes"]):
        return "its classes are none, or two have one name"
    return "" if is_data_config(content["preprocessing"]) else "its preprocessing is none"
