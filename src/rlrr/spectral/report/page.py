"""What goes into the report of `rlrr analyze`: the table, and the pictures with how to read them and what they show."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from rlrr.data.split import enumerated
from rlrr.report.figures import renderings, series
from rlrr.report.page import Picture, Table, write_report
from rlrr.spectral.analysis import Analysis, WeightMeasures
from rlrr.spectral.report import learned, pictures

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


START = (
    "RLRR starts away from pre-training unless it was trained with --set init_weights=identity (see docs/methods/rlrr.md): a "
    "part of its change, and often most of it, was there before the first step; --log-deviation tells how much."
)


def write_page(path: Path, analyses: Sequence[Analysis], commands: Sequence[str] = ()) -> None:
    """Write one HTML file that shows some runs side by side.

    Args:
        path: where to write.
        analyses: the runs, with labels that differ.
        commands: what to type to make it again, a line each.

    Raises:
        RLRRError: `path` cannot be written.
    """
    shown = pictures.with_weights(analyses)
    alone = f": {analyses[0].label}" if len(analyses) == 1 else f": {len(analyses)} runs side by side"
    write_report(
        path,
        title=f"What tuning did to the weights{alone}",
        summary=_summary(analyses, shown),
        tables=[table(analyses)],
        pictures=[*_of_weights(shown, analyses), *_of_vectors(analyses), *_of_training(analyses)],
        facts=_facts(analyses),
        commands=commands,
    )


def table(analyses: Sequence[Analysis]) -> Table:
    """One line for each run."""
    return Table(
        "The runs in numbers",
        COLUMNS,
        [
            [
                analysis.label,
                analysis.method,
                UNKNOWN if analysis.trained is None else f"{analysis.trained:,}",
                UNKNOWN if analysis.accuracy is None else f"{analysis.accuracy:.1%} ({analysis.accuracy_of})",
                _percent(analysis.relative_change),
                UNKNOWN if analysis.rotation_share is None else f"{analysis.rotation_share:.1%}",
                _percent(analysis.explained_both),
                UNKNOWN
                if analysis.effective_rank_change is None
                else f"{'≥ ' if analysis.truncation_error else ''}{analysis.effective_rank_change:.1f}",
                UNKNOWN
                if analysis.intruders is None
                else f"{'≤ ' if analysis.truncation_error else ''}{analysis.intruders}",
            ]
            for analysis in analyses
        ],
        note="Trained parameters are those without the classifier. Relative change is ‖ΔW‖ / ‖W‖ over all weights as "
        "one. Rotation share and explained by rescaling are parts of ‖ΔW‖²: what is off the diagonal of Uᵀ ΔW V, and "
        "what the best (a bᵀ) ⊙ W makes. Effective rank is the mean over the weights that changed. Intruders are, of "
        "the ten leading left directions of each weight, those unlike any that was there before, over all weights. "
        "A change that has nothing to do with W has a rotation share of about 1 - 1/n, with n the larger side of a "
        "weight, and a rescaling explains about (√out + √in)² / (out in) of it, 1 % of 384 by 384."
        + (f" {START}" if any(analysis.method == "rlrr" for analysis in analyses) else "")
        + (f" {bounds}" if (bounds := truncation(analyses)) else ""),
    )


def truncation(analyses: Sequence[Analysis]) -> str:
    """What decompositions that were truncated do not tell, in a sentence; nothing if all are exact."""
    ranks = {analysis.rank for analysis in analyses if analysis.truncation_error}
    if not ranks:
        return ""
    return (
        f"With {enumerated([str(rank) for rank in ranks])} singular directions of each weight, rotation cannot be told "
        "from a change of the spectrum, effective ranks are lower bounds and intruders upper ones; relative changes "
        "and what a rescaling explains are exact."
    )


def _summary(analyses: Sequence[Analysis], shown: Sequence[Analysis]) -> str:
    sentences = []
    if len(shown) == 1:
        (one,) = shown
        sentences.append(
            f"{one.label} moved the weights by {_percent(one.relative_change)} of their norm. A rescaling of outputs "
            f"and inputs explains {_percent(one.explained_both)} of the change's energy"
            + ("." if one.rotation_share is None else f", and {one.rotation_share:.1%} of it turns the singular bases.")
        )
    elif shown:
        near, *_, far = sorted(shown, key=lambda analysis: analysis.relative_change or 0)
        unlike, *_, like = sorted(shown, key=lambda analysis: analysis.explained_both or 0)
        sentences.append(
            f"{near.label} stayed nearest to pre-training: it moved the weights by {_percent(near.relative_change)} of "
            f"their norm, and {far.label}, which went furthest, by {_percent(far.relative_change)}. A rescaling of "
            f"outputs and inputs explains from {_percent(unlike.explained_both)} ({unlike.label}) to "
            f"{_percent(like.explained_both)} ({like.label}) of the change."
        )
    view = "This is the view of the weights: each one before tuning against the same one after." if shown else ""
    if any(analysis.features for analysis in analyses):
        measured = enumerated([analysis.label for analysis in analyses if analysis.features], 4)
        view = (
            f"{view} What the blocks put out is compared, too, for {measured}."
            if view
            else ("This is the view of the features: what the blocks put out before tuning against after.")
        )
    sentences += [view] if view else []
    if unmerged := [analysis.label for analysis in analyses if not analysis.rows]:
        sentences.append(
            f"Not in the pictures of weights: {enumerated(unmerged, 4)}, whose method cannot be written as a change of "
            "the weights."
        )
    if still := [analysis.label for analysis in analyses if analysis.rows and analysis not in shown]:
        sentences.append(f"No weight was changed by {enumerated(still, 4)}.")
    return " ".join(sentences)


def _facts(analyses: Sequence[Analysis]) -> dict[str, str]:
    facts = {}
    if rows := max((analysis.rows for analysis in analyses), key=len, default=[]):
        blocks = len({row.layer for row in rows} - {None})
        facts["weights"] = f"{len(rows)} matrices (outputs by inputs), in {blocks} blocks and outside"
        facts["subspaces"] = f"of the {analyses[0].directions} leading singular directions"
        errors = {analysis.label: analysis.truncation_error for analysis in analyses if analysis.truncation_error}
        facts["decompositions"] = (
            f"randomised, of rank {analyses[0].rank}; they miss at most {max(errors.values()):.2%} of a weight's norm"
            if errors
            else "exact, in float64"
        )
    if images := {analysis.features_of for analysis in analyses if analysis.features_of}:
        facts["features"] = f"of {' and '.join(sorted(images))}: the class token beside the mean of the patches"
    return facts


def _of_weights(shown: Sequence[Analysis], analyses: Sequence[Analysis]) -> list[Picture]:
    """`shown` are those of `analyses` whose weights changed; colours are given out over all."""
    if not shown:
        return []
    k, exact = shown[0].directions, not any(analysis.truncation_error for analysis in shown)
    return [
        _picture(
            "At a glance: how far, and in what way",
            partial(pictures.overview, analyses),
            "A small dot is one weight, a large one its run as a whole; the further to the right, the further from "
            "pre-training. Upwards: the share of the change's energy that turns the singular bases and does not "
            "stretch along them; the share that numbers for each output and each input explain, as in RLRR; and how "
            "many directions the change takes.",
            _by_run(
                shown,
                lambda run: (
                    f"relative change {_percent(run.relative_change)}, of which {_percent(run.explained_both)} is "
                    f"explained by a rescaling; effective rank of the change {run.effective_rank_change or 0:.1f}"
                    + ("" if run.rotation_share is None else f"; {run.rotation_share:.1%} of it turns the bases")
                ),
            ),
        ),
        _heat_map(
            "How far each weight moved",
            analyses,
            "relative_change",
            "A cell is one weight, a line one block: ‖ΔW‖ / ‖W‖ in percent. All runs have the same colours, which "
            "follow the square root, so that small changes can be told apart.",
        ),
        *([_turning(analyses)] if exact else []),
        _heat_map(
            "How much of the change is a rescaling",
            analyses,
            "explained_both",
            "Percent of ‖ΔW‖² that the best (a bᵀ) ⊙ W makes, one number for each output and each input. RLRR of "
            "rank 1 has 100 by its form; of a change that has nothing to do with W it makes about (√out + √in)² / "
            "(out in), 1 of 384 by 384. Where a cell is blank, the weight did not change.",
        ),
        _picture(
            "Which side a rescaling would have to take",
            partial(pictures.scalings, analyses),
            "How much of the change is explained by numbers for the outputs alone (diag(a) W), for the inputs alone "
            "(W diag(b)), or for both. Marks are means over the weights, by the energy of their change; lines span the "
            "middle 80 % of the weights.",
            _by_run(shown, _scalings_in_words),
        ),
        _picture(
            "What became of the singular values",
            partial(pictures.ratios, analyses),
            "Singular values after over those before, largest first: the median over the blocks"
            + (", with the middle 80 % shaded" if len(shown) <= pictures.BANDS else "")
            + ". On the line at 1 the spectrum is as it was. A bump at the left is a few strong directions; a rise at "
            "the right, weak ones that were filled; a level line above 1 is a weight that grew as a whole. The "
            "smallest twentieth may leave the frame.",
            _by_run(shown, _ratios_in_words),
        ),
        _picture(
            "The spectra: before, after, and of the change",
            partial(pictures.spectra, analyses),
            "Singular values over the largest of W, largest first, medians over the blocks; both axes are logarithmic. "
            "A dashed line that drops early is a change of low rank, one that runs beside the spectrum of W is spread "
            "over all directions.",
            _by_run(
                shown,
                lambda run: (
                    f"mean effective rank of W {_mean(run.rows, 'effective_rank_before'):.0f}, after "
                    f"{_mean(run.rows, 'effective_rank_after'):.0f}, of the change {run.effective_rank_change or 0:.1f}"
                ),
            ),
        ),
        *([_lying(analyses, shown)] if exact else []),
        _picture(
            "How far the leading subspaces turned",
            partial(pictures.by_block, analyses, "{side}_angle_mean", "Mean angle (degrees)"),
            f"The mean angle between the spans of the {k} leading singular vectors before and after, of outputs (left "
            "vectors) and inputs (right vectors). At 0 they span the same, at 90 nothing is left of the old span.",
            _by_run(shown, lambda run: _sides_in_words(run, "{side}_angle_mean", "{:.1f}°")),
        ),
        _picture(
            "How far the bases depart from orthogonality",
            partial(pictures.by_block, analyses, "{side}_orthogonality", "Root mean square cosine"),
            f"Cosines between what W' makes of the {k} leading singular vectors of W, in the view of the paper: 0 if "
            "they stay at right angles to each other, as under W itself; 1 if they all point the same way.",
            _by_run(shown, lambda run: _sides_in_words(run, "{side}_orthogonality", "{:.3f}")),
        ),
    ]


def _turning(analyses: Sequence[Analysis]) -> Picture:
    return _heat_map(
        "How much of the change turns the bases",
        analyses,
        "rotation_share",
        "Percent of ‖ΔW‖² that is off the diagonal of Uᵀ ΔW V. At 0 singular values changed and nothing else; at "
        "100 only their directions turned. A change that has nothing to do with W is near 100, too. Where "
        "a cell is blank, the weight did not change.",
    )


def _lying(analyses: Sequence[Analysis], shown: Sequence[Analysis]) -> Picture:
    return _picture(
        "In which directions of W the change lies",
        partial(pictures.energies, analyses),
        "The share of ‖ΔW‖² in the leading singular directions of W, medians over the blocks. Along the grey line "
        "the change lies where W is strong; along the dotted one it is spread evenly, as noise is; below that it "
        "lies where W is weak.",
        _by_run(shown, _energies_in_words),
    )


def _of_vectors(analyses: Sequence[Analysis]) -> list[Picture]:
    return [
        _picture(
            f"The learned vectors of {analysis.label}",
            partial(learned.learned_vectors, analysis),
            "A bar for each block: the ring is the median, the thick line the middle half and the thin one 5 to 95 % "
            "of the values. Those on the grey line leave a module as it was. A vector has one scale in all panels.",
            _vectors_in_words(analysis),
        )
        for analysis in analyses
        if analysis.vectors
    ]


def _of_training(analyses: Sequence[Analysis]) -> list[Picture]:
    """Deviation over the epochs, and features, where there are any."""
    found = []
    if logged := [analysis for analysis in analyses if series(analysis.deviations, "deviation")[0]]:
        found.append(
            _picture(
                "The way there: deviation from pre-training",
                partial(learned.deviations, analyses),
                "‖ΔW‖ / ‖W‖ of the whole backbone after each epoch, as it was logged in training. Epoch 0 is where the "
                "method starts. A line that still rises at the end had not settled.",
                _by_run(logged, _deviation_in_words),
            )
        )
    if blocks := [analysis for analysis in logged if "deviation_0" in analysis.deviations[-1]]:
        found.append(
            _picture(
                "The way there, block by block",
                partial(learned.deviations_by_block, analyses),
                "The same for each block: a line is a block, a column an epoch, and all runs have the same colours.",
                _by_run(blocks, _blocks_in_words),
            )
        )
    if measured := [analysis for analysis in analyses if analysis.features]:
        found.append(
            _picture(
                "What the blocks put out",
                partial(learned.features, analyses),
                "Features of the same images before and after tuning. Likeness (linear CKA) is 1 where they are the "
                "same but for a turn and a scale. The angle is the mean between the subspaces in which they vary most. "
                "Relative change is ‖X' - X‖ / ‖X‖.",
                _by_run(measured, _features_in_words),
            )
        )
    return found


def _picture(title: str, draw: Callable[..., Figure], reading: str, words: str) -> Picture:
    return Picture(renderings(draw), reading, words, title)


def _heat_map(title: str, analyses: Sequence[Analysis], measure: str, reading: str) -> Picture:
    draw = partial(pictures.heat_maps, analyses, measure, whole=measure != "relative_change")
    shown = pictures.with_weights(analyses)
    words = f"Heat maps, blocks by {', '.join(pictures.kinds_of(shown))}. "
    return _picture(title, draw, reading, words + _by_run(shown, lambda run: _ends_in_words(run, measure)))


def _by_run(analyses: Iterable[Analysis], words: Callable[[Analysis], str]) -> str:
    return "; ".join(f"{analysis.label}: {words(analysis)}" for analysis in analyses) + "."


def _ends_in_words(run: Analysis, measure: str) -> str:
    rows = _defined(run.rows, measure)
    least, *_, most = sorted([*rows, *rows], key=lambda row: getattr(row, measure))
    return (
        f"mean {_percent(_mean(rows, measure))}, least {_percent(getattr(least, measure))} ({least.name}), most "
        f"{_percent(getattr(most, measure))} ({most.name})"
    )


def _scalings_in_words(run: Analysis) -> str:
    means = {name: run.mean_by_energy(measure) for measure, (name, _) in pictures.SCALINGS.items()}
    return ", ".join(f"{name} {_percent(mean)}" for name, mean in means.items())


def _ratios_in_words(run: Analysis) -> str:
    rows = [row for row in run.rows if row.values_before[:1].any()]
    first = np.median([row.values_after[0] / row.values_before[0] for row in rows])
    middle = [row for row in rows if row.values_before[len(row.values_before) // 2]]
    half = np.median([np.divide(*(v[len(v) // 2] for v in (row.values_after, row.values_before))) for row in middle])
    return f"median over the weights {first:.3f} for the largest singular value, {half:.3f} for the middle one"


def _energies_in_words(run: Analysis) -> str:
    rows = [row for row in run.rows if row.energy.any()]
    tenth = np.array([0.1])
    change = np.median([pictures.cumulated(row.energy, tenth) for row in rows])
    own = np.median([pictures.cumulated(row.values_before[: len(row.energy)] ** 2, tenth) for row in rows])
    return f"the leading tenth of the directions holds {_percent(change)} of the change and {_percent(own)} of W"


def _sides_in_words(run: Analysis, measure: str, form: str) -> str:
    words = []
    for side, name in pictures.SIDES.items():
        field = measure.format(side=side)
        if rows := _defined([row for row in run.rows if row.relative_change], field):
            most = max(rows, key=lambda row: getattr(row, field))
            mean, top = (form.format(value) for value in (_mean(rows, field), getattr(most, field)))
            words.append(f"{name} {mean} on average and at most {top} ({most.name})")
    return ", ".join(words)


def _vectors_in_words(run: Analysis) -> str:
    values: dict[str, list[np.ndarray]] = {}
    for (name, _), of_blocks in learned.vectors_by_kind(run).items():
        values.setdefault(name, []).extend(of_blocks.values())
    quantiles = {name: np.quantile(np.concatenate(parts), (0.05, 0.5, 0.95)) for name, parts in values.items()}
    return "; ".join(
        f"{name}: median {middle:.3f}, 5 to 95 % from {low:.3f} to {high:.3f}"
        for name, (low, middle, high) in quantiles.items()
    )


def _deviation_in_words(run: Analysis) -> str:
    epochs, values = series(run.deviations, "deviation")
    return f"{_percent(values[0])} at epoch {epochs[0]:g}, {_percent(values[-1])} at epoch {epochs[-1]:g}"


def _blocks_in_words(run: Analysis) -> str:
    _, field = learned.deviation_field(run)
    last = field[:, -1] / 100
    return f"at the end {_percent(last[0])} in the first block, {_percent(last[-1])} in the last"


def _features_in_words(run: Analysis) -> str:
    known = [record for record in run.features if record["cka"] is not None]
    if not known:
        return "not defined"
    least = min(known, key=lambda record: record["cka"])
    last = f"likeness {known[-1]['cka']:.2f} after the last block"
    return f"{last}, and at least {least['cka']:.2f} (block {least['layer']})"


def _defined(rows: Iterable[WeightMeasures], measure: str) -> list[WeightMeasures]:
    return [row for row in rows if getattr(row, measure) is not None]


def _mean(rows: Iterable[WeightMeasures], measure: str) -> float:
    return float(np.mean([getattr(row, measure) for row in _defined(rows, measure)]))


def _percent(share: float | None) -> str:
    return UNKNOWN if share is None else f"{pictures.in_short(100 * float(share))}%"
