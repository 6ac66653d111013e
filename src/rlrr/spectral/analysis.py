"""Measure all weights of a run, for the report and for `rlrr.spectral.export`."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from rlrr.errors import RLRRError, UsageError, require
from rlrr.spectral.cached import cached_decomposition
from rlrr.spectral.decompose import Decomposition, decompose, singular_values
from rlrr.spectral.measures import (
    acted_on,
    departure_from_orthogonality,
    effective_rank,
    energy_by_direction,
    explained_by_scaling,
    intruder_dimensions,
    principal_angles,
    relative,
    stable_rank,
)
from rlrr.spectral.tuned import Pair, Tuned

# Weights measured at once, each on its share of the threads: the threads of LAPACK wait for each other at every step,
# which is slow on a busy machine. More than two weights would take more memory.
_AT_ONCE = 2
_INTRUDER_CANDIDATES = 10  # leading directions that are looked at, as in PEFT's `reduce_intruder_dimension`


@dataclass(frozen=True, eq=False)
class WeightMeasures:
    """Hold all measures of one weight, named as the columns of `analysis.csv`. None means not defined.

    Attributes:
        name: Name of the weight, as in `Pair`, with `layer` and `kind`.
        rows: Number of outputs; `columns` is the number of inputs.
        norm_before: ‖W‖_F; `norm_change` is ‖ΔW‖_F.
        relative_change: ‖ΔW‖_F / ‖W‖_F.
        spectrum_share: Share of ‖ΔW‖_F² that moves singular values, to first order; see `Energy` for it and for
            `rotation_share`.
        effective_rank_before: Effective rank of W; `_after` of W', `_change` of ΔW.
        stable_rank_before: Stable rank, likewise.
        left_angle: Largest principal angle in degrees between the spans of the leading left singular vectors, as many
            as `Analysis.directions`, of W and W'; `left_angle_mean` is the mean of all. `right_angle` likewise.
        left_orthogonality: Root mean square cosine between the leading left vectors once W' acted on them: how far
            they departed from orthogonality. `right_orthogonality` likewise.
        intruders: How many of the 10 leading left directions of W' are unlike any of W.
        explained_left: Share of ‖ΔW‖_F² that `diag(a) W` explains; `_right` of `W diag(b)`, `_both` of `(a bᵀ) ⊙ W`.
        values_before: Singular values of W, descending, (min(rows, columns)); `values_after` of W',
            `values_change` of ΔW.
        energy: Share of ‖ΔW‖_F² by singular direction of W, leading first: `Energy.by_direction`.
        energy_diagonal: The part of `energy` that moves the singular value: `Energy.diagonal`.
    """

    name: str
    layer: int | None
    kind: str
    rows: int
    columns: int
    norm_before: float
    norm_change: float
    relative_change: float | None
    spectrum_share: float | None
    rotation_share: float | None
    effective_rank_before: float | None
    effective_rank_after: float | None
    effective_rank_change: float | None
    stable_rank_before: float | None
    stable_rank_after: float | None
    stable_rank_change: float | None
    left_angle: float | None
    right_angle: float | None
    left_angle_mean: float | None
    right_angle_mean: float | None
    left_orthogonality: float | None
    right_orthogonality: float | None
    intruders: int
    explained_left: float | None
    explained_right: float | None
    explained_both: float | None
    values_before: np.ndarray
    values_after: np.ndarray
    values_change: np.ndarray
    energy: np.ndarray
    energy_diagonal: np.ndarray


@dataclass(frozen=True, eq=False, repr=False)
class Analysis:
    """Hold the measures of one run. None means not defined, as for a run without a weight form.

    Attributes:
        label: Name in tables and legends.
        method: As in `Tuned`, as are `trained`, `accuracy`, `accuracy_of`, `neutral` and `deviations`.
        directions: Number of leading singular directions that make a subspace.
        rows: Measures of each weight, in the model's order; none for a method that has no weight form.
        vectors: As in `Tuned`, of the modules that name neutral values.
        features: Changes of features by layer, if they were measured.
        features_of: Description of the images on which features were measured.
    """

    label: str
    method: str
    trained: int | None
    accuracy: float | None
    accuracy_of: str
    directions: int
    rows: list[WeightMeasures]
    vectors: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    neutral: dict[str, dict[str, float]] = field(default_factory=dict)
    deviations: list[dict[str, Any]] = field(default_factory=list)
    features: list[dict[str, Any]] = field(default_factory=list)
    features_of: str = ""

    def __repr__(self) -> str:
        change = "" if self.relative_change is None else f", relative change {self.relative_change:.1%}"
        return f"Analysis({self.label}: {self.method}, {len(self.rows)} weights{change})"

    @property
    def relative_change(self) -> float | None:
        """Relative change of all weights as one: √(Σ ‖ΔW‖_F² / Σ ‖W‖_F²)."""
        before = math.hypot(*(row.norm_before for row in self.rows))
        return math.hypot(*(row.norm_change for row in self.rows)) / before if before else None

    @property
    def rotation_share(self) -> float | None:
        """Mean of `rotation_share` by energy."""
        return self.mean_by_energy("rotation_share")

    @property
    def explained_both(self) -> float | None:
        """Mean of `explained_both` by energy."""
        return self.mean_by_energy("explained_both")

    @property
    def effective_rank_change(self) -> float | None:
        """Plain mean of the effective rank of ΔW over the weights that changed."""
        ranks = [row.effective_rank_change for row in self.rows if row.effective_rank_change is not None]
        return sum(ranks) / len(ranks) if ranks else None

    @property
    def intruders(self) -> int | None:
        """Sum of the intruders of all weights; None for a run without weights."""
        return sum(row.intruders for row in self.rows) if self.rows else None

    def mean_by_energy(self, measure: str) -> float | None:
        """Average a measure over the weights that changed, weighted by ‖ΔW‖_F²; None if none changed."""
        changed = [(row.norm_change**2, getattr(row, measure)) for row in self.rows if row.norm_change]
        total = math.fsum(energy for energy, _ in changed)
        return math.fsum(energy * value for energy, value in changed) / total if total else None


def analyze(
    source: Tuned,
    *,
    directions: int = 16,
    progress: Callable[[str], object] | None = None,
) -> Analysis:
    """Measure what a run did to each of its weights; two weights at a time are held in double precision.

    Args:
        source: The run.
        directions: Number of leading singular directions that make a subspace.
        progress: Called with the name of each weight after it is measured.

    Raises:
        RLRRError: An argument is out of range, or a weight holds NaN or infinity.
    """
    if directions < 1:
        raise UsageError(f"directions must be 1 or more, not {directions}.")
    for module, vectors in source.vectors.items():
        if not all(torch.isfinite(vector).all() for vector in vectors.values()):
            raise RLRRError(
                f"{source.label}: what {module} has learned holds NaN or infinity; was the training stable?"
            )
    require("report")
    from joblib import Parallel, delayed

    threads = torch.get_num_threads()
    at_once = min(threads, _AT_ONCE)
    pairs = source.pairs() if source.has_weight_form else ()
    options = {"directions": directions, "threads": threads // at_once}
    rows = []
    try:
        jobs = (delayed(_measured)(source.label, pair, **options) for pair in pairs)
        for row in Parallel(at_once, backend="threading", return_as="generator")(jobs):
            rows.append(row)
            if progress:
                progress(row.name)
    finally:
        torch.set_num_threads(threads)
    if rows and not any(row.norm_before for row in rows):
        raise RLRRError(f"{source.label}: all weights before tuning are zero; are they those it was tuned from?")
    return Analysis(
        label=source.label,
        method=source.method,
        trained=source.trained,
        accuracy=source.accuracy,
        accuracy_of=source.accuracy_of,
        directions=directions,
        rows=rows,
        vectors={module: tensors for module, tensors in source.vectors.items() if module in source.neutral},
        neutral=source.neutral,
        deviations=list(source.deviations),
    )


def measure(pair: Pair, *, directions: int = 16) -> WeightMeasures:
    """Apply every measure to one weight.

    Args:
        pair: The weight before and after, finite numbers.
        directions: As in `analyze`.
    """
    old = cached_decomposition(pair.before)
    before = pair.before.double()
    change = pair.after.double() - before
    norm_before, norm_change = before.norm().item(), change.norm().item()
    energy, explained = energy_by_direction(old, change), explained_by_scaling(before, change)
    values_change = singular_values(change)
    del before, change  # each takes twice the memory of the weight, and the rest needs as much again
    after = pair.after.double()
    new = decompose(after) if norm_change else old
    left, right = acted_on(old, after, directions)
    left_angles, right_angles = _angles(old, new, directions)
    values_before, values_after = (_padded(decomposition.values, after) for decomposition in (old, new))
    return WeightMeasures(
        name=pair.name,
        layer=pair.layer,
        kind=pair.kind,
        rows=after.shape[0],
        columns=after.shape[1],
        norm_before=norm_before,
        norm_change=norm_change,
        relative_change=relative(norm_change, norm_before),
        spectrum_share=energy.spectrum_share,
        rotation_share=energy.rotation_share,
        effective_rank_before=effective_rank(values_before),
        effective_rank_after=effective_rank(values_after),
        effective_rank_change=effective_rank(values_change),
        stable_rank_before=stable_rank(values_before),
        stable_rank_after=stable_rank(values_after),
        stable_rank_change=stable_rank(values_change),
        left_angle=left_angles.max().item() if len(left_angles) else None,
        right_angle=right_angles.max().item() if len(right_angles) else None,
        left_angle_mean=left_angles.mean().item() if len(left_angles) else None,
        right_angle_mean=right_angles.mean().item() if len(right_angles) else None,
        left_orthogonality=departure_from_orthogonality(left),
        right_orthogonality=departure_from_orthogonality(right),
        intruders=intruder_dimensions(old.left, new.left[:, :_INTRUDER_CANDIDATES]),
        explained_left=explained.by_left,
        explained_right=explained.by_right,
        explained_both=explained.by_both,
        values_before=values_before.numpy(),
        values_after=values_after.numpy(),
        values_change=values_change.numpy(),
        energy=energy.by_direction.numpy(),
        energy_diagonal=energy.diagonal.numpy(),
    )


def _measured(label: str, pair: Pair, *, directions: int, threads: int) -> WeightMeasures:
    """Check one weight and measure it on `threads` threads of torch."""
    torch.set_num_threads(threads)
    for when, weight in (("before", pair.before), ("after", pair.after)):
        if not torch.isfinite(weight).all():
            raise RLRRError(
                f"{label}: the weight {pair.name} holds NaN or infinity {when} tuning, so it has no singular values;"
                " was the training stable, and the file copied whole?"
            )
    return measure(pair, directions=directions)


def _padded(values: Tensor, matrix: Tensor) -> Tensor:
    """Append the singular values that are 0, which a decomposition leaves out."""
    return F.pad(values, (0, min(matrix.shape) - len(values)))


def _angles(old: Decomposition, new: Decomposition, directions: int) -> Sequence[Tensor]:
    """Return the principal angles of the leading left and right subspaces; empty if either matrix is zero."""
    count = min(directions, len(old.values), len(new.values))
    sides = ((old.left, new.left), (old.right, new.right))
    return [principal_angles(first[:, :count], second[:, :count]) for first, second in sides]
