"""Analyse what tuning did to the weights of runs, and write the report and its numbers."""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from rlrr.data import PreparedImages, Split, load_data, prepare_split
from rlrr.data.pipeline import preparation
from rlrr.errors import UsageError, counted
from rlrr.files import atomic_folder, cannot_write, nearest_existing
from rlrr.hints import checked
from rlrr.inference.devices import resolve_device, use_threads
from rlrr.inference.progress import show_messages
from rlrr.spectral.analysis import Analysis
from rlrr.spectral.analysis import analyze as measure_weights
from rlrr.spectral.export import write_csv, write_json
from rlrr.spectral.features import feature_changes
from rlrr.spectral.report.page import write_page
from rlrr.spectral.tuned import Tuned, labels, open_tuned

REPORT, DATA, TABLE = "report.html", "analysis.json", "analysis.csv"
IMAGES = 64  # on which features are compared

logger = logging.getLogger(__name__)


@checked
def analyze(
    runs: str | Path | Sequence[str | Path],
    output: str | Path,
    *,
    start: str | Path | None = None,
    weights: str | Path | None = None,
    images: str | Path | None = None,
    directions: int = 16,
    device: str = "auto",
    threads: int | None = None,
    commands: Sequence[str] = (),
) -> list[Analysis]:
    """Measure what tuning did to the weights of some runs and write report.html, analysis.json and analysis.csv.

    One run is held in memory at a time, and nothing is written before all are measured. A new folder gets all three
    files at once; in another each takes the place of an earlier one.

    Args:
        runs: Paths, or one, for `rlrr.spectral.tuned.open_tuned`: folders of runs, adapters or models, or files of
            weights.
        output: A folder; it is made if it does not exist.
        start: The weights before tuning, for runs that do not name them.
        weights: Where the backbone's weights are now, if not where they were in training.
        images: Data on which features are compared block by block too, as `train` takes it. For a run whose changes
            are none of weights its own data, if not given.
        directions: How many leading singular directions make a subspace.
        device: Device on which features are computed, as for `load`; weights are decomposed on the CPU.
        threads: Threads for computing on the CPU, as for `load`.
        commands: Commands that the report shows.

    Returns:
        The analyses, in the order of `runs`.

    Raises:
        RLRRError: a run cannot be opened or measured, or `output` cannot be written.
    """
    show_messages()
    folder, place, runs = Path(output), resolve_device(device), [runs] if isinstance(runs, (str, Path)) else runs
    use_threads(threads)
    _expect_writable(folder)
    analyses, split = [], None if images is None else _some(images)
    for number, (run, label) in enumerate(zip(runs, labels(runs), strict=True), start=1):
        source = open_tuned(run, start=start, weights=None if weights is None else str(weights), label=label)
        what = f"{len(source.names)} weights on the CPU" if source.has_weight_form else f"features on {place}"
        logger.info("%s, %d of %d: measuring %s", label, number, len(runs), what)
        features = {}
        if images is not None or not source.has_weight_form:  # first, as they are quick, and may be refused
            features = _features(source, split, directions, place)
        analyses.append(replace(_measured(source, directions), **features))
    is_new = not folder.exists() or not any(folder.iterdir())
    with atomic_folder(folder) if is_new else nullcontext(folder) as written:
        write_json(written / DATA, analyses)
        write_csv(written / TABLE, analyses)
        write_page(written / REPORT, analyses, commands)
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


def _features(source: Tuned, split: tuple[Split, str] | None, directions: int, device: torch.device) -> dict[str, Any]:
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
    before, after = before.to(device), after.to(device)
    changes = feature_changes(before, after, prepared.transform(batch["pixel_values"]), directions=directions)
    return {"features": [asdict(change) for change in changes], "features_of": described}
