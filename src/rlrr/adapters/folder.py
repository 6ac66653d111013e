"""The adapter folder: how a finished run is saved and loaded.

The folder holds `adapter_model.safetensors` (all trained tensors, with the classifier), PEFT's `adapter_config.json` if
the method is a PEFT tuner, and `rlrr.json` with the backbone, classes and preprocessing. A folder is complete once
`rlrr.json` is there, which is written last. Only safetensors and JSON are read.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

from peft import PeftConfig, PeftModel, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from rlrr.adapters.record import PEFT_CONFIG, RECORD, TENSORS, Record, check_file, read_record
from rlrr.backbones import Backbone, load_backbone
from rlrr.backbones.weights import brief
from rlrr.errors import RLRRError
from rlrr.files import atomic, file_checksum, read_json, write_sealed
from rlrr.methods.apply import apply_method
from rlrr.tuners.config import TunerConfig


def trained_state(model: nn.Module) -> dict[str, Tensor]:
    """Collect all trained tensors on the CPU: of a PEFT model under PEFT's names, else under the model's own.

    For a model that is trained as a whole, buffers are included.
    """
    if isinstance(model, PeftModel):
        state = get_peft_model_state_dict(model, adapter_name=model.active_adapter, save_embedding_layers=False)
    else:
        frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
        trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
        state = {name: value for name, value in model.state_dict().items() if not frozen or name in trained}
    return {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}


def load_trained_state(model: nn.Module, state: Mapping[str, Tensor], where: Path | str) -> None:
    """Load the tensors of `trained_state` into a model of the same method.

    Raises:
        RLRRError: tensors are missing, unexpected or of another shape; the model is left as it is.
    """
    expected = {name: tensor.shape for name, tensor in trained_state(model).items()}
    given = {name: tensor.shape for name, tensor in state.items()}
    problems = {
        "missing": sorted(expected.keys() - given.keys()),
        "stray": sorted(given.keys() - expected.keys()),
        "of another shape": [name for name in expected if name in given and expected[name] != given[name]],
    }
    if any(problems.values()):
        listed = "; ".join(
            f"{len(names)} {problem} (such as {names[0]})" for problem, names in problems.items() if names
        )
        raise RLRRError(f"The tensors in {where} do not fit the model: {listed}. Was it saved from another one?")
    if isinstance(model, PeftModel):
        set_peft_model_state_dict(model, dict(state), adapter_name=model.active_adapter)
    else:
        model.load_state_dict(dict(state), strict=False)


def save_trained_state(model: nn.Module, path: Path) -> None:
    """Write `trained_state` as safetensors, atomically; a tensor shared by several layers is written once for each."""
    state, addresses = trained_state(model), set()
    for name, tensor in state.items():
        state[name] = tensor.clone() if tensor.data_ptr() in addresses else tensor  # safetensors refuses shared memory
        addresses.add(tensor.data_ptr())
    with atomic(path) as temporary:  # written by Python, since its errors name a full disk
        temporary.write_bytes(save(state, metadata={"format": "pt"}))


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file.

    Raises:
        RLRRError: the file is missing, cut short or damaged.
    """
    try:
        return load_file(path)
    except FileNotFoundError:
        raise RLRRError(f"{path} is missing: copy the whole folder, or train again.") from None
    except (SafetensorError, OSError) as error:
        raise RLRRError(f"{path} is damaged or cut short ({error}): copy it again, or train again.") from None


def save_adapter(folder: Path, model: nn.Module, record: Record, beside: Sequence[str] = ()) -> Record:
    """Write the adapter folder, each file atomically and `rlrr.json` last.

    Args:
        folder: The folder.
        model: The model whose trained tensors are the adapter.
        record: The record, without checksums.
        beside: Names of files in the folder that belong to the adapter and are not written any more.

    Returns:
        The record as written, with the checksums of all files.
    """
    save_trained_state(model, folder / TENSORS)
    files = [*beside]
    if isinstance(model, PeftModel):
        config = model.peft_config[model.active_adapter]
        with atomic(folder / PEFT_CONFIG) as temporary, tempfile.TemporaryDirectory() as scratch:
            origin = {"backbone_sha256": record.backbone["fingerprint"]} if isinstance(config, TunerConfig) else {}
            saved = type(config)(**{**config.to_dict(), "inference_mode": True, **origin})
            saved.save_pretrained(scratch)
            temporary.write_bytes((Path(scratch) / PEFT_CONFIG).read_bytes())
        files.append(PEFT_CONFIG)
    checksums = {"tensors_sha256": _sha256(folder / TENSORS), "files_sha256": {f: _sha256(folder / f) for f in files}}
    write_sealed(folder / RECORD, asdict(record) | checksums)
    return read_record(folder)


def load_adapter(folder: Path, weights: str | None = None) -> tuple[nn.Module, Record]:
    """Build the backbone of an adapter and load the adapter into it, in evaluation mode.

    Args:
        folder: The adapter folder.
        weights: File or folder with the backbone's weights, if they have moved since training.

    Raises:
        RLRRError: the folder is incomplete or damaged, the backbone cannot be loaded or is another one, or keys
            are missing or unexpected.
    """
    record = read_record(folder)
    return put_adapter(load_start(folder, record, weights), folder, record), record


def load_start(folder: Path, record: Record, weights: str | None = None) -> nn.Module:
    """Load the backbone of an adapter, with a new classifier; the adapter's tensors are checked first.

    Raises:
        RLRRError: the tensors are not the ones that `rlrr.json` was written with, or the backbone cannot be loaded or
            is another one.
    """
    if _sha256(folder / TENSORS) != record.tensors_sha256:
        read_tensors(folder / TENSORS)  # raises if the file is cut short
        raise RLRRError(f"{folder / TENSORS} is not the file that {RECORD} was written with: copy the folder again.")
    name, weights = record.backbone["name"], weights or record.backbone["weights"]
    if Path(name).is_absolute() and not Path(name).exists():  # a local timm folder that was moved
        if not weights or not (Path(weights) / "config.json").is_file():
            raise RLRRError(
                f"The backbone of {folder} was in {name}, which is gone: give its present folder as `weights`."
            )
        name, weights = weights, None
    backbone = load_backbone(
        name, num_classes=len(record.classes), image_size=record.backbone["image_size"], weights=weights
    )
    check_fingerprint(backbone, record, folder)
    return backbone.model


def put_adapter(model: nn.Module, folder: Path, record: Record) -> nn.Module:
    """Load an adapter into its backbone, which is changed in place and put in evaluation mode.

    Raises:
        RLRRError: the folder is incomplete, or keys are missing or unexpected.
    """
    check_file(folder, record, PEFT_CONFIG)
    if (folder / PEFT_CONFIG).exists():
        model = _with_config(model, folder)
    else:
        model = apply_method(model, record.method, record.recipe.get("settings"))
        if isinstance(model, PeftModel):
            raise RLRRError(f"{folder / PEFT_CONFIG} is missing: copy the whole folder, or train again.")
    load_trained_state(model, read_tensors(folder / TENSORS), folder / TENSORS)
    return model.eval()


def check_fingerprint(backbone: Backbone, record: Record, folder: Path) -> None:
    """Refuse a backbone other than the one that the adapter was trained on.

    Raises:
        RLRRError: the fingerprints of the weights differ.
    """
    if backbone.fingerprint != record.backbone["fingerprint"]:
        raise RLRRError(
            f"The adapter in {folder} was trained on {record.backbone['name']} with weights "
            f"{record.backbone['fingerprint'][:12]}, and these are {backbone.fingerprint[:12]}: "
            "give the weights of the training as `weights`."
        )


def merged_model(model: nn.Module) -> nn.Module:
    """Write the adapter into the weights (see `can_merge`) and return the plain model.

    A model without an adapter is returned as it is.
    """
    return model.merge_and_unload() if isinstance(model, PeftModel) else model


def _with_config(model: nn.Module, folder: Path) -> PeftModel:
    path = folder / PEFT_CONFIG
    content = read_json(path)
    kind = content.get("peft_type") if isinstance(content, dict) else None
    if not isinstance(kind, str):
        raise RLRRError(f"{path} is damaged: it names no method of PEFT or rlrr. Copy it again.")
    if kind not in PEFT_TYPE_TO_CONFIG_MAPPING:
        raise RLRRError(
            f"{path} is of a method {kind}, which neither this rlrr nor PEFT {version('peft')} knows: update them "
            "if it is of a newer version, or copy it again."
        )
    try:
        config = PeftConfig.from_pretrained(str(folder))
        if isinstance(config, TunerConfig):  # the backbone is checked already
            config.backbone_sha256 = None
        return get_peft_model(cast(Any, model), config)
    except RLRRError:
        raise
    except Exception as error:  # each method of PEFT refuses values in its own way
        raise RLRRError(f"{path} is damaged, or of another backbone: {brief(error)}. Copy it again.") from error


def _sha256(path: Path) -> str:
    try:
        return file_checksum(path)
    except FileNotFoundError:
        raise RLRRError(f"{path} is missing: copy the whole folder, or train again.") from None
