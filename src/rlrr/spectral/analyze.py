"""Analyse what tuning did to the weights of runs, and write the report and its numbers."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from torch.utils.data import DataLoader
from tqdm import tqdm

from rlrr.data import PreparedImages, Split, load_data, prepare_split
from rlrr.data.pipeline import preparation
from rlrr.errors import UsageError
from rlrr.files import cannot_write, nearest_existing
from rlrr.spectral.analysis import Analysis
from rlrr.spectral.analysis import analyze as measure_weights
from rlrr.spectral.export import write_csv, write_json
from rlrr.spectral.features import feature_changes
from rlrr.spectral.report.page import write_page
from rlrr.spectral.tuned import Tuned, labels, open_tuned
from rlrr.words import counted

REPORT, DATA, TABLE = "report.html", "analysis.json", "analysis.csv"
IMAGES = 64  # on which features are compared


def analyze(
    runs: Sequence[str | Path],
    output: str | Path,
    *,
    start: str | Path | None = None,
    weights: str | None = None,
    images: str | Path | None = None,
    directions: int = 16,
    commands: Sequence[str] = (),
) -> list[Analysis]:
    """Measure what tuning did to the weights of some runs and write report.html, analysis.json and analysis.csv.

    One run is held in memory at a time, and nothing is written before all are measured.

    Args:
        runs: Paths for `rlrr.spectral.tuned.open_tuned`: folders of runs, adapters or models, or files of weights.
        output: A folder; it is made if it does not exist.
        start: The weights before tuning, for runs that do not name them.
        weights: Where the backbone's weights are now, if not where they were in training.
        images: Data on which features are compared block by block too, as `train` takes it. For a run whose changes
            are none of weights its own data, if not given.
        directions: How many leading singular directions make a subspace.
        commands: Commands that the report shows.

    Returns:
        The analyses, in the order of `runs`.

    Raises:
        RLRRError: a run cannot be opened or measured, or `output` cannot be written.
    """
    folder = Path(output)
    _expect_writable(folder)
    analyses, split = [], None if images is None else _some(images)
    for run, label in zip(runs, labels(runs), strict=True):
        source = open_tuned(run, start=start, weights=weights, label=label)
        features = {}
        if images is not None or not source.has_weight_form:  # first, as they are quick, and may be refused
            features = _features(source, split, directions)
        analyses.append(replace(_measured(source, directions), **features))
    write_json(folder / DATA, analyses)
    write_csv(folder / TABLE, analyses)
    write_page(folder / REPORT, analyses, commands)
    return analyses


def _expect_writable(folder: Path) -> None:
    """Refuse a folder that cannot be written to before minutes are spent on measuring."""
    nearest = nearest_existing(folder)
    if not nearest.is_dir():
        raise cannot_write(folder, NotADirectoryError(errno.ENOTDIR, f"{nearest} is a file"))
    if not os.access(nearest, os.W_OK):
        raise cannot_write(folder, PermissionError(errno.EACCES, os.strerror(errno.EACCES)))


def _measured(source: Tuned, directions: int) -> Analysis:
    with tqdm(total=len(source.names), desc=source.label, unit="weight", disable=None) as bar:
        return measure_weights(source, directions=directions, progress=lambda _: bar.update())


def _some(data: str | Path) -> tuple[Split, str]:
    """Take a few images of the validation, test or training split, from all of its classes, and describe them."""
    loaded = load_data(data, val_fraction=None)
    splits = {"val": loaded.val, "test": loaded.test, "train": loaded.train}
    name, split = next((name, split) for name, split in splits.items() if split)
    split = split.subset(range(0, len(split), max(1, len(split) // IMAGES))[:IMAGES])
    split = prepare_split(split, None, bad_images="skip", what="images")[0]
    return split, f"{counted(len(split), 'image')} of {loaded.name} ({name})"


def _features(source: Tuned, split: tuple[Split, str] | None, directions: int) -> dict[str, Any]:
    """Return `Analysis.features` and `features_of`, on the given images or on some of the run's own data."""
    before, after, config = source.before.model, source.after.model, source.preprocessing
    if before is None or after is None or config is None:
        raise UsageError(
            f"{source.label}: features need the model that makes them and how it takes images, which files of weights "
            "do not tell: leave out `images`.",
        )
    if split is None:
        own = source.record.data.get("source") if source.record else None
        if own is None:
            raise UsageError(
                f"{source.label}: what {source.method} learned is no change of weights, so that features are compared: "
                "give some images with `images`.",
            )
        split = _some(own)
    images, described = split
    prepared = PreparedImages(images, preparation(config), mean=config["mean"], std=config["std"])
    (batch,) = DataLoader(prepared.pixels, len(images))
    changes = feature_changes(before, after, prepared.transform(batch["pixel_values"]), directions=directions)
    return {"features": [asdict(change) for change in changes], "features_of": described}
