"""Compute what the report of `rlrr analyze` says; its words stand in `analysis.html.jinja`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rlrr.data.split import enumerated
from rlrr.report.figures import series
from rlrr.report.page import environment
from rlrr.report.page import write_page as write_html
from rlrr.report.table import Table
from rlrr.spectral.analysis import Analysis, WeightMeasures
from rlrr.spectral.report import heatmaps, learned, pictures

UNKNOWN = "\N{EN DASH}"
COLUMNS = (
    "run",
    "method",
    "trained parameters",
    "accuracy",
    "relative change",
    "rotation share",
    "explained by rescaling",
    "effective rank of ΔW",
    "intruders",
)
_TEMPLATE = "analysis.html.jinja"


def write_page(path: Path, analyses: Sequence[Analysis], commands: Sequence[str] = ()) -> None:
    """Write one HTML file that shows runs side by side.

    Args:
        path: The file.
        analyses: The runs, with different labels.
        commands: Commands that make the page again, a line each.

    Raises:
        RLRRError: `path` cannot be written.
    """
    templates = environment("rlrr.spectral.report")
    templates.filters |= {"percent": percent, "share": share, "labels": labels}
    templates.globals |= {
        function.__name__: function
        for function in (
            deviation_ends,
            extremes,
            feature_ends,
            last_deviations,
            leading_tenth,
            mean,
            ratios,
            tensor_quantiles,
            turned_most,
        )
    }
    write_html(path, templates, _TEMPLATE, commands=commands, **page_values(analyses))


def page_values(analyses: Sequence[Analysis]) -> dict[str, Any]:
    """Return the values of the template: the runs, and which of them have what."""
    shown = pictures.with_weights(analyses)
    logged = [analysis for analysis in analyses if series(analysis.deviations, "deviation")[0]]
    by_change = sorted(shown, key=lambda analysis: analysis.relative_change or 0)
    by_rescaling = sorted(shown, key=lambda analysis: analysis.explained_both or 0)
    largest = max((analysis.rows for analysis in analyses), key=len, default=[])
    return {
        "analyses": analyses,
        "shown": shown,
        "by_change": by_change,
        "by_rescaling": by_rescaling,
        "unmerged": [analysis for analysis in analyses if not analysis.rows],
        "still": [analysis for analysis in analyses if analysis.rows and analysis not in shown],
        "learners": [analysis for analysis in analyses if analysis.vectors],
        "logged": logged,
        "logged_by_block": [analysis for analysis in logged if "deviation_0" in analysis.deviations[-1]],
        "compared": [analysis for analysis in analyses if analysis.features],
        "images": sorted({analysis.features_of for analysis in analyses if analysis.features_of}),
        "matrices": len(largest),
        "blocks": len({row.layer for row in largest if row.layer is not None}),
        "numbers": table(analyses),
        "pictures": pictures,
        "heatmaps": heatmaps,
        "learned": learned,
    }


def table(analyses: Sequence[Analysis]) -> Table:
    """Return a table with a line for each run."""
    rows = []
    for analysis in analyses:
        rank = analysis.effective_rank_change
        rows.append(
            [
                analysis.label,
                analysis.method,
                UNKNOWN if analysis.trained is None else f"{analysis.trained:,}",
                UNKNOWN if analysis.accuracy is None else f"{share(analysis.accuracy)} ({analysis.accuracy_of})",
                percent(analysis.relative_change),
                share(analysis.rotation_share),
                percent(analysis.explained_both),
                UNKNOWN if rank is None else f"{rank:.1f}",
                UNKNOWN if analysis.intruders is None else str(analysis.intruders),
            ]
        )
    return Table("The runs in numbers", COLUMNS, rows)


def extremes(run: Analysis, measure: str) -> tuple[WeightMeasures, WeightMeasures]:
    """Return the weights with the least and with the most of a measure."""
    rows = sorted(_defined(run.rows, measure), key=lambda row: getattr(row, measure))
    return rows[0], rows[-1]


def ratios(run: Analysis) -> tuple[float, float]:
    """Return the median over the weights of W' over W, for the largest and for the middle singular value."""
    largest, middle = [], []
    for row in run.rows:
        half = len(row.values_before) // 2
        if row.values_before[:1].any():
            largest.append(row.values_after[0] / row.values_before[0])
        if row.values_before[half : half + 1].any():
            middle.append(row.values_after[half] / row.values_before[half])
    return float(np.median(largest)), float(np.median(middle))


def leading_tenth(run: Analysis) -> tuple[float, float]:
    """Return the shares of the change and of W in the leading tenth of the directions, medians over the weights."""
    rows, tenth = [row for row in run.rows if row.energy.any()], np.array([0.1])
    change = [pictures.cumulated(row.energy, tenth) for row in rows]
    weight = [pictures.cumulated(row.values_before[: len(row.energy)] ** 2, tenth) for row in rows]
    return float(np.median(change)), float(np.median(weight))


def turned_most(run: Analysis, measure: str) -> WeightMeasures | None:
    """Return the changed weight with the most of a measure, if any weight has it."""
    return max(_changed(run, measure), key=lambda row: getattr(row, measure), default=None)


def tensor_quantiles(run: Analysis) -> dict[str, list[float]]:
    """Return the 5 %, 50 % and 95 % quantiles of all learned tensors of a name, by name."""
    values: dict[str, list[np.ndarray]] = {}
    for (name, _), of_blocks in learned.tensors_by_kind(run).items():
        values.setdefault(name, []).extend(of_blocks.values())
    return {name: np.quantile(np.concatenate(parts), (0.05, 0.5, 0.95)).tolist() for name, parts in values.items()}


def deviation_ends(run: Analysis) -> list[tuple[float, float]]:
    """Return the first and the last epoch with the deviation then."""
    points = list(zip(*series(run.deviations, "deviation"), strict=True))
    return [points[0], points[-1]]


def last_deviations(run: Analysis) -> tuple[float, float]:
    """Return the deviation of the first and of the last block after the last epoch."""
    _, field = learned.deviation_field(run)
    return field[0, -1] / 100, field[-1, -1] / 100


def feature_ends(run: Analysis) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """Return the features of the last block, and of the block that is least like before; None if not defined."""
    known = [record for record in run.features if record["cka"] is not None]
    return (known[-1], min(known, key=lambda record: record["cka"])) if known else None


def mean(run: Analysis, measure: str, *, changed: bool = False) -> float:
    """Return the plain mean of a measure over the weights that have it, or over those of them that changed."""
    rows = _changed(run, measure) if changed else _defined(run.rows, measure)
    return float(np.mean([getattr(row, measure) for row in rows]))


def percent(value: float | None) -> str:
    """Format a share with two significant digits."""
    return UNKNOWN if value is None else f"{heatmaps.in_short(100 * float(value))}%"


def share(value: float | None) -> str:
    """Format a share with one decimal."""
    return UNKNOWN if value is None else f"{value:.1%}"


def labels(analyses: Iterable[Analysis]) -> str:
    """List the labels of at most four runs."""
    return enumerated([analysis.label for analysis in analyses], 4)


def _defined(rows: Iterable[WeightMeasures], measure: str) -> list[WeightMeasures]:
    return [row for row in rows if getattr(row, measure) is not None]


def _changed(run: Analysis, measure: str) -> list[WeightMeasures]:
    return _defined([row for row in run.rows if row.relative_change], measure)
