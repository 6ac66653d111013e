"""Combination of several runs of one method on one backbone into one run, by weights (supplement H of the paper)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from peft import PeftModel

from rlrr.adapters.folder import load_adapter, load_trained_state, save_adapter, trained_state
from rlrr.adapters.record import Record, library_versions, read_record
from rlrr.data.split import enumerated
from rlrr.errors import RLRRError, UsageError
from rlrr.files import expect_new_folder
from rlrr.methods.capabilities import can_combine
from rlrr.methods.trainable import parameter_counts
from rlrr.words import counted


def combine(
    runs: Sequence[str | Path],
    output: str | Path,
    *,
    weights: Sequence[float] | None = None,
    combination: Literal["exact", "average"] = "exact",
    backbone_weights: str | None = None,
) -> Record:
    """Combine finished runs and write the result as the folder of a run.

    Args:
        runs: Folders of runs with the same method, backbone, classes, preprocessing and settings.
        output: A folder that does not exist yet.
        weights: A number for each run; None for equal ones that add up to 1.
        combination: "exact" sums the runs' changes of the weights, so that their ranks add up; "average" sums their
            vectors, which keeps the rank.
        backbone_weights: Where the backbone's weights are now, if not where they were in training.

    Returns:
        The content of `rlrr.json`. The combination has no accuracy: nothing was measured.

    Raises:
        RLRRError: the runs do not go together or cannot be combined, a weight is missing, or `output` exists.
    """
    folder, names = Path(output), [str(run) for run in runs]
    expect_new_folder(folder)
    if len(names) < 2:
        raise UsageError(f"There is {len(names)} run to combine: give two or more.")
    shares = [1 / len(names)] * len(names) if weights is None else [float(weight) for weight in weights]
    if len(shares) != len(names):
        raise UsageError(
            f"There are {counted(len(names), 'run')} and {counted(len(shares), 'weight')}: give one for each."
        )
    if not all(map(math.isfinite, shares)):
        raise UsageError(f"`weights` must be finite numbers, not {', '.join(map(str, shares))}.")
    records = [read_record(Path(run)) for run in runs]
    for name, record in zip(names, records, strict=True):
        if problem := _difference(records[0], record):
            raise UsageError(f"{names[0]} and {name} cannot be combined: they differ in {problem}.")

    configs, states = [], []
    for name in names:  # one after the other, since each loads a backbone
        model: Any = load_adapter(Path(name), backbone_weights)[0]
        if not can_combine(model):
            raise UsageError(
                f"Runs of {records[0].method} cannot be combined: the method has no sum of adapters with their "
                "classifiers. Use the runs one by one."
            )
        configs.append(model.peft_config[model.active_adapter])
        states.append(trained_state(model))
    adapters = [f"run{number}" for number in range(1, len(names) + 1)]
    try:
        for adapter, name, config, state in zip(adapters, names, configs, states, strict=True):
            model.add_adapter(adapter, config)
            model.set_adapter(adapter)
            load_trained_state(model, state, name)
        model.add_weighted_adapter(adapters, shares, "combined", combination)
    except RLRRError as error:
        numbered = ", ".join(f"{adapter} is {name}" for adapter, name in zip(adapters, names, strict=True))
        raise UsageError(f"{error} ({numbered}.)") from error
    model.set_adapter("combined")
    return save_adapter(folder, model, _record(records, names, shares, combination, model))


def _difference(first: Record, other: Record) -> str:
    """Describe the first difference that keeps two runs from being combined; "" if there is none."""
    backbones = (first.backbone, other.backbone)
    if first.method != other.method:
        return f"method ({first.method} and {other.method})"
    if backbones[0]["fingerprint"] != backbones[1]["fingerprint"]:
        described = (f"{backbone['name']} with weights {backbone['fingerprint'][:12]}" for backbone in backbones)
        return f"backbone ({', and '.join(described)})"
    sizes = [backbone["image_size"] for backbone in backbones]
    if sizes[0] != sizes[1]:
        return f"image size ({sizes[0]} and {sizes[1]})"
    if first.classes != other.classes:
        return f"classes ({enumerated(first.classes, 5)}, and {enumerated(other.classes, 5)})"
    keys = sorted(key for key in first.preprocessing if first.preprocessing[key] != other.preprocessing.get(key))
    return f"preprocessing ({enumerated(keys)})" if keys else ""


def _record(
    records: Sequence[Record], names: Sequence[str], weights: Sequence[float], combination: str, model: PeftModel
) -> Record:
    first, sources = records[0], [(record.data.get("source"), record.data.get("splits")) for record in records]
    data = first.data
    if len(set(sources)) > 1:  # then the combination belongs to no single data set
        counts = {"train": sum(record.data.get("train") or 0 for record in records), "val": 0, "test": 0}
        data = {"name": "of several runs", "source": None, "splits": "of each run", **counts, "skipped": []}
    parts = ", ".join(f"{name} ({weight:g})" for name, weight in zip(names, weights, strict=True))
    return replace(
        first,
        recipe=first.recipe | {"note": f"recipe of {names[0]}, one of the combined runs"},
        data=data,
        protocol=f"combined ({combination}) from {parts}; not trained as such",
        metrics={},
        parameters=parameter_counts(model),
        versions=library_versions(),
    )
