"""A plain model as a folder in timm's Hub format, which timm and transformers both open without `rlrr`."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

import timm
import torch
from timm.models import save_for_hf
from torch import nn

from rlrr.errors import RLRRError
from rlrr.files import cannot_write, read_json, write_json


def write_timm_folder(model: nn.Module, folder: Path, classes: list[str], data_config: dict[str, Any]) -> None:
    """Write `config.json` and `model.safetensors`, both or none.

    Args:
        model: A timm model without adapter. A bias that merging added may be moved into the norm before it.
        folder: A folder that does not exist, or is empty.
        classes: Class names, recorded as the labels.
        data_config: The preprocessing the model was trained with, recorded as timm's.

    Raises:
        RLRRError: the model has a bias where timm's has none and it cannot be moved, or the disk is full.
    """
    _move_extra_biases(model)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as parent:
            scratch = Path(parent) / "model"
            save_for_hf(
                model,
                str(scratch),
                model_config={"label_names": classes},
                safe_serialization=True,
                data_config=dict(data_config),
            )
            config = read_json(scratch / "config.json")
            config["model_args"].pop("num_classes")  # transformers rejects it beside the one at the top
            config["pretrained_cfg"].pop("tag", None)  # of the weights before fine-tuning
            _check_keys(model, config)
            write_json(scratch / "config.json", config)
            # safetensors lets only the owner read what it writes
            shutil.copymode(scratch / "config.json", scratch / "model.safetensors")
            if folder.exists():  # empty; Windows replaces no folder
                folder.rmdir()
            scratch.replace(folder)
    except OSError as error:
        raise cannot_write(folder, error) from error


def _check_keys(model: nn.Module, config: dict[str, Any]) -> None:
    with torch.device("meta"):
        plain = timm.create_model(config["architecture"], num_classes=config["num_classes"], **config["model_args"])
    if extra := sorted(model.state_dict().keys() - plain.state_dict().keys()):
        raise RLRRError(
            f"timm's {config['architecture']} has no place for {extra[0]} ({len(extra)} such), which a merged shift "
            "needs: train with RLRRConfig(shift=False) for a model that merges."
        )


def _move_extra_biases(model: nn.Module) -> None:
    """Move the bias that merging gives to Swin's patch merging, which has none, into the LayerNorm before it.

    `reduction` (W, out <= in, of full rank) follows `norm`, so there is a d with W d = b for the norm's bias.
    """
    for module in model.modules():
        linear, norm = getattr(module, "reduction", None), getattr(module, "norm", None)
        if isinstance(linear, nn.Linear) and linear.bias is not None and isinstance(norm, nn.LayerNorm):
            weight, bias = linear.weight.detach().double(), linear.bias.detach().double()
            moved = torch.linalg.lstsq(weight, bias[:, None]).solution[:, 0]
            if torch.allclose(weight @ moved, bias, rtol=0, atol=1e-6 * bias.abs().max().item()):
                norm.bias.data += moved.to(norm.bias)
                linear.register_parameter("bias", None)
