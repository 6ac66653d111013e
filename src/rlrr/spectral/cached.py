"""Decompositions of frozen weights, kept on the disk for every other run that starts from the same weights.

A file holds the singular vectors of the shorter side, from which the rest is made again, and is named by the weight's
content. A place that cannot be written to costs a warning, not the analysis.
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

_FORMAT, _KEY = 1, "basis"  # the number goes up with every change of how a basis is found

logger = logging.getLogger(__name__)


def cached_decomposition(matrix: Tensor, *, rank: int | None = None) -> Decomposition:
    """What `decompose` gives, from the disk if the same matrix was decomposed before.

    Raises:
        RLRRError: `RLRR_CACHE_GIB` is not a number of 0 or more.
    """
    path = _place(matrix, rank)
    basis = _read(path) if path else None
    if basis is None or basis.shape[0] != min(matrix.shape):
        basis = short_basis(matrix, rank=rank)
        if path:
            _keep(path, basis)
    return from_short_basis(matrix, basis, rank=rank)


def _place(matrix: Tensor, rank: int | None) -> Path | None:
    if not cache_limit():
        return None
    head = json.dumps([_FORMAT, rank, str(matrix.dtype), list(matrix.shape)]).encode()
    content = hashlib.sha256(head)
    content.update(matrix.contiguous().numpy().data)
    try:
        return cache_folder("svd") / f"{content.hexdigest()}.safetensors"
    except RuntimeError as error:
        _warn(f"the home folder ({error})")
        return None


def _read(path: Path) -> Tensor | None:
    try:
        basis = load_file(path)[_KEY]
    except (OSError, SafetensorError, KeyError):  # not there, or damaged: it is made again
        return None
    with suppress(OSError):  # the time says when it was last used; a place that is read only has none
        os.utime(path)
    return basis


def _keep(path: Path, basis: Tensor) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        make_room(path.parent, basis.nbytes)
        with atomic(path) as temporary:
            temporary.write_bytes(save({_KEY: basis.contiguous()}))
    except (OSError, RLRRError) as error:
        cause = error.__cause__ or error  # of a file that cannot be written
        _warn(f"{path.parent} ({getattr(cause, 'strerror', None) or cause})")


@functools.cache
def _warn(where: str) -> None:
    """Once, as all weights have the same trouble."""
    logger.warning(
        "Singular vectors of the frozen weights cannot be kept in %s, so the next analysis finds them anew. %s names "
        "another folder, %s the most to keep (0 for none).",
        where,
        FOLDER,
        LIMIT,
    )
