"""Decompositions of frozen weights, cached on disk for other runs that start from the same weights.

A file holds the singular vectors of the shorter side, from which `from_short_basis` computes the rest, and is named by
the weight's content. A cache folder that cannot be written to costs a warning, not the analysis.
"""

from __future__ import annotations

import functools
import hashlib
import json
import logging
import os
from contextlib import suppress
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from rlrr.cache import FOLDER, LIMIT, cache_folder, cache_limit, make_room
from rlrr.errors import RLRRError
from rlrr.files import atomic
from rlrr.spectral.decompose import Decomposition, from_short_basis, short_basis

_FORMAT, _KEY = 1, "basis"  # raise the number with every change of how a basis is computed

logger = logging.getLogger(__name__)


def cached_decomposition(matrix: Tensor) -> Decomposition:
    """Return `decompose(matrix)`, from the disk if the same matrix was decomposed before.

    Raises:
        RLRRError: `RLRR_CACHE_GIB` is not a number of 0 or more.
    """
    path = _cache_path(matrix)
    basis = _read(path) if path else None
    if basis is None or basis.shape[0] != min(matrix.shape):
        basis = short_basis(matrix)
        if path:
            _keep(path, basis)
    return from_short_basis(matrix, basis)


def _cache_path(matrix: Tensor) -> Path | None:
    if not cache_limit():
        return None
    digest = hashlib.sha256(json.dumps([_FORMAT, str(matrix.dtype), list(matrix.shape)]).encode())
    digest.update(matrix.contiguous().numpy().data)
    try:
        return cache_folder("svd") / f"{digest.hexdigest()}.safetensors"
    except RuntimeError as error:
        _warn(f"the home folder ({error})")
        return None


def _read(path: Path) -> Tensor | None:
    try:
        basis = load_file(path)[_KEY]
    except (OSError, SafetensorError, KeyError):  # missing or damaged: the caller computes it
        return None
    with suppress(OSError):  # the time says when the file was last used; a read-only folder has none
        os.utime(path)
    return basis


def _keep(path: Path, basis: Tensor) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        make_room(path.parent, basis.nbytes)
        with atomic(path, shared=True) as temporary:
            temporary.write_bytes(save({_KEY: basis.contiguous()}))
    except (OSError, RLRRError) as error:
        cause = error.__cause__ or error
        _warn(f"{path.parent} ({getattr(cause, 'strerror', None) or cause})")


@functools.cache
def _warn(where: str) -> None:
    """Warn once per process, as all weights have the same trouble."""
    logger.warning(
        "Singular vectors of the frozen weights cannot be cached in %s, so the next analysis computes them again. %s "
        "names another folder, %s the size of the cache (0 for none).",
        where,
        FOLDER,
        LIMIT,
    )
