"""Loading of a backbone by name: a model with its weights, their fingerprint, and its preprocessing."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
from torch import nn

from rlrr.backbones import packaged
from rlrr.backbones import weights as weights_files
from rlrr.backbones.drop_path import DropPathKind, check_kind, drop_elements
from rlrr.backbones.fingerprint import fingerprint
from rlrr.backbones.preprocessing import override
from rlrr.backbones.releases import RELEASES, pretrained_config
from rlrr.errors import UsageError, did_you_mean
from rlrr.files import read_json


@dataclass(frozen=True)
class Backbone:
    """A pretrained model with a fresh classifier, its preprocessing and its identity.

    Attributes:
        model: the timm model; its classifier has `num_classes` outputs, and is left out for 0 classes.
        name: name from which `load_backbone` builds the same backbone: "vit_base_patch16_224.orig_in21k",
            "vit_small_focus", or the path of a local timm folder.
        architecture: timm's name without the tag.
        tag: timm's tag of the pretrained weights, if `name` has one.
        image_size: height and width of the images, in pixels.
        data_config: preprocessing as timm describes it: `input_size` (3, S, S), `mean`, `std`,
            `interpolation`, `crop_pct`, `crop_mode`.
        fingerprint: SHA-256 of the weights, see `fingerprint`.
    """

    model: nn.Module
    name: str
    architecture: str
    tag: str | None
    image_size: int
    data_config: dict[str, Any]
    fingerprint: str


def load_backbone(
    name: str,
    *,
    num_classes: int,
    image_size: int | None = None,
    weights: str | None = None,
    drop_path: float = 0.0,
    drop_path_kind: DropPathKind = "stochastic_depth",
    preprocessing: Mapping[str, Any] | None = None,
) -> Backbone:
    """Build the model of this name with its pretrained weights and a new classifier.

    The classifier is drawn from torch's generator: seed it before the call.

    Args:
        name: a timm name with or without its tag (without: timm's default tag), also with "timm/" or
            "hf-hub:timm/" before it; a name of rlrr: "vit_small_focus", the backbone packaged for use offline (see
            `rlrr.backbones.packaged`), or "vit_base_patch16_224.moco_v3"; or a local folder in timm's format
            (`config.json` and `model.safetensors`). Write "./name" for a folder with the name of a model.
        num_classes: outputs of the classifier; 0 for none.
        image_size: height and width of the images, in pixels; None for the model's own. The tables of
            positions are resized to it.
        weights: a local file or folder to load instead of a download: .safetensors, .pth, original JAX .npz. It has
            to hold every key of the backbone and no other; only a classifier, the momentum encoder and predictor of
            MoCo v3, and the decoder and mask token of MAE are ignored. The preprocessing follows the tag in the name,
            or timm's default tag.
        drop_path: rate of drop path (stochastic depth) in the last block; rises linearly from 0 at the first.
        drop_path_kind: "stochastic_depth" drops the whole output of a branch, per image; "paper" drops single elements
            of the output, as the RLRR paper's ViT code does. (Its Swin code has stochastic depth, and a Swin here has
            it too.)
        preprocessing: entries of `data_config` to replace, see `rlrr.backbones.preprocessing`: VTAB-1k is mostly
            used with {"crop_mode": "squash", "crop_pct": 1.0}.

    Raises:
        RLRRError: there is no such backbone, its weights cannot be downloaded or read or belong to another backbone,
            or an option does not fit the backbone.
    """
    if num_classes < 0:
        raise UsageError(f"`num_classes` is {num_classes}: give 0 (no classifier) or more.")
    if not 0 <= drop_path < 1:
        raise UsageError(f"`drop_path` is {drop_path}: give a rate from 0 to below 1.")
    check_kind(drop_path_kind)
    name, timm_name = _identify(name, weights)
    if name == packaged.NAME:
        image_size = packaged.IMAGE_SIZE if image_size is None else image_size
    elif timm_name.startswith("local-dir:"):
        weights = weights or name
    try:
        arguments = timm.models.resolve_model_input_args(
            timm_name, {"img_size": image_size}, num_classes=0, drop_path_rate=drop_path or None
        )
        skeleton = _skeleton(arguments)
    except Exception as error:  # every family refuses an option in its own way
        raise UsageError(f"timm cannot build {name} like this: {weights_files.brief(error)}.") from error
    if image_size is not None and "img_size" in arguments:
        _check_image_size(name, image_size, skeleton.feature_info[-1]["reduction"])
    config = pretrained_config(name, arguments.pop("pretrained_cfg"), own_terms=weights == name)
    image_size = image_size or config["input_size"][-1]
    data_config = timm.data.resolve_data_config({"img_size": image_size}, pretrained_cfg=config)
    data_config = override(data_config, preprocessing or {})
    model = _with_weights(name, arguments, config, weights, skeleton)
    if drop_path and drop_path_kind == "paper":
        drop_elements(model, name)
    digest = fingerprint(model)
    if num_classes:
        model.reset_classifier(num_classes)
    tag = config.get("tag")
    model.name_or_path = f"timm/{name}" if tag else name  # PEFT records it with an adapter
    return Backbone(
        model=model,
        name=name,
        architecture=config["architecture"],
        tag=tag,
        image_size=image_size,
        data_config=data_config,
        fingerprint=digest,
    )


def expect_backbone(name: str, weights: str | None = None) -> None:
    """Refuse a name of no backbone, or a path of no weights, without loading anything.

    Raises:
        RLRRError: see `load_backbone`.
    """
    _identify(name, weights)
    if weights and not Path(weights).expanduser().exists():
        raise weights_files.no_weights(Path(weights))


def _identify(name: str, weights: str | None) -> tuple[str, str]:
    """Return the name to record, and the name from which timm builds the model.

    Raises:
        RLRRError: there is no backbone of this name, or the name stands for several weights.
    """
    if name == packaged.NAME and weights:
        raise UsageError(f"{name} comes with its weights: leave out `weights`, or name {packaged.ARCHITECTURE}.")
    if name in RELEASES:
        return name, RELEASES[name]["architecture"]
    known = {*timm.list_models(), *timm.list_models(include_tags=True)}
    plain = name.removeprefix("hf-hub:").removeprefix("timm/")
    if plain in known:
        if "." not in plain and not weights and (tag := timm.models.get_pretrained_cfg_value(plain, "tag")):
            plain = f"{plain}.{tag}"
        return plain, plain
    folder = Path(name).expanduser()
    if folder.is_dir():
        config = read_json(folder / "config.json")
        architecture = str(config.get("architecture")) if isinstance(config, dict) else None
        if architecture not in known:
            raise UsageError(
                f"{folder / 'config.json'} names no timm model (architecture: {architecture}): give a folder"
                " in timm's format, such as `rlrr merge` writes.",
            )
        return str(folder.resolve()), f"local-dir:{folder.resolve()}"
    base = plain.removesuffix("_in21k")
    if base != plain and (exact := timm.list_pretrained(f"{base}.*in21k")):
        raise UsageError(
            f"{name} is an old name that does not say which weights are meant: give {' or '.join(exact)}"
            " (orig: the release of 2020, which most papers use; augreg: trained again in 2021).",
        )
    near = did_you_mean(plain, sorted({*known, *RELEASES}))
    raise UsageError(
        f"There is no backbone {name!r}, neither in timm nor as a folder.{near} `rlrr backbones` lists some.",
    )


def _skeleton(arguments: dict[str, Any]) -> Any:
    """Build the model at its own image size on the meta device, to learn its shape."""
    with torch.device("meta"):
        return timm.create_model(**{key: value for key, value in arguments.items() if key != "img_size"})


def _check_image_size(name: str, image_size: int, stride: int) -> None:
    if image_size < stride or image_size % stride:
        below = image_size // stride * stride
        near = " or ".join(str(size) for size in (below, below + stride) if size >= stride)
        raise UsageError(
            f"`image_size` {image_size} does not fit {name}, which takes multiples of {stride}: give {near}.",
        )


def _with_weights(
    name: str, arguments: Mapping[str, Any], config: dict[str, Any], weights: str | None, skeleton: Any
) -> Any:
    """Build the model and load its weights.

    timm's loader of the family renames old keys and resizes tables of positions. For weights that are not from the Hub
    the loader is made strict.
    """
    if name == packaged.NAME:
        source: Path | None = packaged.onnx_file()
        overlay = weights_files.from_tensors(packaged.packaged_weights())
    elif weights or name in RELEASES:
        source = Path(weights).expanduser() if weights else weights_files.download(name, config)
        overlay = weights_files.from_file(source, name, skeleton, config.get("classifier") or ())
    else:
        source, overlay = None, {}
        weights_files.expect_reachable(name, config)
    try:
        with _quiet_hub():
            model: Any = timm.create_model(**arguments, pretrained=True, pretrained_cfg=config | overlay)
    except Exception as error:  # timm's filters raise errors of many kinds on the keys of another model
        if source is None:
            raise weights_files.offline(name, error) from error
        raise weights_files.does_not_fit(source, name, weights_files.brief(error)) from error
    model.pretrained_cfg.pop("state_dict", None)  # else the tensors stay in memory as long as the model
    return model


@contextmanager
def _quiet_hub() -> Iterator[None]:
    """Suppress the Hub's remarks on tokens and retries. Errors are raised all the same."""
    logger = logging.getLogger("huggingface_hub")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
