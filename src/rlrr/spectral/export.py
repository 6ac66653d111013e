"""Write analyses as data: everything as JSON, one line for each weight as CSV."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rlrr.files import atomic
from rlrr.spectral.analysis import Analysis, WeightMeasures

FORMAT = 1
_QUANTILES = {"minimum": 0.0, "5%": 0.05, "25%": 0.25, "median": 0.5, "75%": 0.75, "95%": 0.95, "maximum": 1.0}
_ARRAYS = ("values_before", "values_after", "values_change", "energy", "energy_diagonal")
COLUMNS = [column.name for column in fields(WeightMeasures) if column.name not in _ARRAYS]


def write_json(path: Path, analyses: Sequence[Analysis]) -> None:
    """Write analyses to a JSON file, atomically. Learned vectors, which the run itself has, are summed up."""
    content = {"format": FORMAT, "analyses": [_content(analysis) for analysis in analyses]}
    with atomic(path) as temporary:
        temporary.write_text(json.dumps(content, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")


def write_csv(path: Path, analyses: Sequence[Analysis]) -> None:
    """Write a CSV file, atomically, with a line for each weight of each run: run, method and scalar measures."""
    with atomic(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        lines = csv.writer(file)
        lines.writerow(["run", "method", *COLUMNS])
        for analysis in analyses:
            for row in analysis.rows:
                lines.writerow([analysis.label, analysis.method, *(getattr(row, column) for column in COLUMNS)])


def summary(analysis: Analysis) -> dict[str, Any]:
    """Sum up a run as a whole for JSON."""
    names = ("label", "method", "trained", "accuracy", "accuracy_of", "directions", "intruders", "features_of")
    means = ("relative_change", "rotation_share", "explained_both", "effective_rank_change")
    of_run = {name: getattr(analysis, name) for name in names}
    return of_run | {"means": {name: getattr(analysis, name) for name in means}}


def _content(analysis: Analysis) -> dict[str, Any]:
    vectors = {
        module: {name: _summary(tensor) for name, tensor in tensors.items()}
        for module, tensors in analysis.vectors.items()
    }
    return summary(analysis) | {
        "weights": [_weight(row) for row in analysis.rows],
        "vectors": vectors,
        "deviations": analysis.deviations,
        "features": analysis.features,
    }


def _weight(row: WeightMeasures) -> dict[str, Any]:
    arrays = {name: [float(f"{value:.7g}") for value in getattr(row, name)] for name in _ARRAYS}
    return {name: getattr(row, name) for name in COLUMNS} | arrays


def _summary(tensor: Tensor) -> dict[str, Any]:
    values = tensor.detach().double().flatten()
    quantiles = np.quantile(values.numpy(), list(_QUANTILES.values())).tolist()
    of_all = {"mean": values.mean().item(), "deviation": torch.std(values, correction=0).item()}
    return {"shape": list(tensor.shape), **of_all, **dict(zip(_QUANTILES, quantiles, strict=True))}
