"""Where the vectors of an adapter start: what `RLRRConfig.init_weights` means in numbers."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from rlrr.tuners.rlrr.config import RLRRConfig

SPREAD = 0.02  # standard deviation about 1 of the scales that the paper's code has after norms


def scales(config: RLRRConfig, rows: int, columns: int, blocks: int) -> tuple[Tensor | None, ...]:
    """Draw the scales of a weight (rows, columns): Kaiming-uniform as in the paper's code, or as `init_weights` says.

    The fan-in of `scale_out` is the rank, so that the paper's starts in ±√6 at rank 1 whatever the width, and S,
    the product of both sides, has root mean square 2/√columns at every rank. The other distributions of Table 10
    have that too, evenly shared between the sides.

    Returns:
        (rows, rank), or None if only inputs are rescaled; (rank, columns), with `blocks` > 1 (blocks, rank, columns),
        or None if only outputs are.
    """
    start = _start(config)
    bound_out, bound_in = _bounds(config, start, columns)
    draw = DISTRIBUTIONS.get(str(start), _uniform)
    scale_out = None if config.sides == "in" else draw((rows, config.rank), bound_out)
    shape = (config.rank, columns) if blocks == 1 else (blocks, config.rank, columns)
    scale_in = None if config.sides == "out" else draw(shape, bound_in)
    identity = start is True
    if identity and config.form == "product":
        return tuple(None if side is None else side.zero_() for side in (scale_out, scale_in))
    if identity:  # one side is zero and the other stays random, as two zeros would get no gradient
        (scale_in if scale_out is None else scale_out).zero_()
    if not config.residual and start is not False:
        # S is 1, or near it: the first of the r terms makes it
        for side in (scale_out, None if scale_in is None else scale_in.transpose(-1, -2)):
            if side is not None:
                side[..., 0] = 1 + side[..., 0] * (not identity)
    return scale_out, scale_in


def _start(config: RLRRConfig) -> bool | str:
    """Resolve "paper" for variants that the paper's code does not have.

    The code's Kaiming bounds are those of a product of two sides beside the residual. One side alone would begin at
    ±√6, and without the residual nothing would be left of W.
    """
    if config.init_weights != "paper":
        return config.init_weights
    if not config.multiply_weight:
        return True  # as LoRA, which the variant is
    if not config.residual:
        return "normal"  # N(1, 0.02), which stands in the paper's code as a comment
    return "paper" if config.sides == "both" else "uniform"


def _bounds(config: RLRRConfig, start: bool | str, columns: int) -> tuple[float, float]:
    """Give the half-widths of the uniform start of scale_out and scale_in; others have the same root mean square."""
    if config.form == "product":
        return SPREAD * math.sqrt(3), SPREAD * math.sqrt(3)
    if start not in DISTRIBUTIONS:
        return math.sqrt(6 / config.rank), math.sqrt(6 / columns)
    if not config.residual:
        rms = 0.0 if start == "constant" else SPREAD
    elif config.sides == "both":
        rms = math.sqrt(2 / math.sqrt(columns * config.rank))
    else:
        rms = 2 / math.sqrt(columns)
    return rms * math.sqrt(3), rms * math.sqrt(3)


def shift(config: RLRRConfig, features: int) -> Tensor | None:
    """Make the shift of a linear or of a rescaled convolution: 0, but for `init_weights=False`."""
    if not config.shift:
        return None
    return torch.randn(features) * SPREAD if config.init_weights is False else torch.zeros(features)


def affine(config: RLRRConfig, features: int) -> tuple[Tensor, Tensor | None]:
    """Draw scale and shift after a norm: N(1, 0.02) and N(0, 0.02) as in the paper's code; 1 and 0 if exact."""
    spread = 0.0 if config.init_weights in (True, "constant") else SPREAD
    scale = 1 + spread * torch.randn(features)
    return scale, spread * torch.randn(features) if config.shift else None


def _uniform(shape: tuple[int, ...], bound: float) -> Tensor:
    return torch.empty(shape).uniform_(-1, 1) * bound


def _normal(shape: tuple[int, ...], bound: float) -> Tensor:
    return torch.randn(shape) * (bound / math.sqrt(3))


def _constant(shape: tuple[int, ...], bound: float) -> Tensor:
    return torch.full(shape, bound / math.sqrt(3))


# Each has the root mean square of a uniform distribution in ±bound.
DISTRIBUTIONS: dict[str, Callable[[tuple[int, ...], float], Tensor]] = {
    "normal": _normal,
    "uniform": _uniform,
    "constant": _constant,
}
