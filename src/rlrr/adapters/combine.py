"""Several runs of RLRR on one backbone as one run, by weights (supplement H of the paper)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from peft import PeftModel

from rlrr.adapters.folder import load_adapter, load_trained_state, save_adapter, trained_state
from rlrr.adapters.record import Record, library_versions, read_record
from rlrr.data.split import enumerated
from rlrr.errors import UsageError
from rlrr.files import expect_new_folder
from rlrr.methods.trainable import parameter_counts
from rlrr.tuners.rlrr.combine import combined_config


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
        runs: Folders of runs of RLRR with the same backbone, classes, preprocessing and settings.
        output: A folder that does not exist yet.
        weights: A number for each run; None for equal ones that add up to 1.
        combination: "exact" adds up what the runs do to the weights, so that their ranks add up; "average" adds up
            their vectors, which keeps the rank.
        backbone_weights: Where the backbone's weights are now, if not where they were in training.

    Returns:
        What `rlrr.json` says of the combination. It has no accuracy: nothing was measured.

    Raises:
        RLRRError: the runs do not go together, a weight is missing, or `output` exists.
    """
    folder, names = Path(output), [str(run) for run in runs]
    expect_new_folder(folder)
    if len(names) < 2:
        raise UsageError(f"There is {len(names)} run to combine: give two or more.")
    shares = [1 / len(names)] * len(names) if weights is None else [float(weight) for weight in weights]
    if len(shares) != len(names):
        raise UsageError(f"There are {len(names)} runs and {len(shares)} weights: give one for each.")
    records = [read_record(Path(run)) for run in runs]
    for name, record in zip(names, records, strict=True):
        _check_goes_with(records[0], record, names[0], name)

    configs, states = {}, []
    for name in names:  # one after the other, as each brings its backbone
        model: Any = load_adapter(Path(name), backbone_weights)[0]
        configs[name] = model.peft_config[model.active_adapter]
        states.append(trained_state(model))
    combined_config(configs, names, shares, combination)  # whose errors name the runs
    adapters = [f"run{i}" for i in range(len(names))]
    for adapter, name, state in zip(adapters, names, states, strict=True):
        model.add_adapter(adapter, configs[name])
        model.set_adapter(adapter)
        load_trained_state(model, state, name)
    model.add_weighted_adapter(adapters, shares, "combined", combination)
    model.set_adapter("combined")
    return save_adapter(folder, model, _record(records, names, shares, combination, model))


def _check_goes_with(first: Record, other: Record, first_name: str, name: str) -> None:
    if other.method != "rlrr":
        raise UsageError(f"{name} is a run of {other.method}: only runs of rlrr can be combined.")
    one, two = first.backbone, other.backbone
    prints = one["fingerprint"], two["fingerprint"]
    sizes = one["image_size"], two["image_size"]
    keys = sorted(key for key in first.preprocessing if first.preprocessing[key] != other.preprocessing.get(key))
    problems = {
        "backbone": prints[0] != prints[1]
        and f"{one['name']} with weights {prints[0][:12]}, and {two['name']} with weights {prints[1][:12]}",
        "image size": sizes[0] != sizes[1] and f"{sizes[0]} and {sizes[1]}",
        "classes": first.classes != other.classes
        and f"{enumerated(first.classes, 5)}, and {enumerated(other.classes, 5)}",
        "preprocessing": keys and enumerated(keys),
    }
    for what, problem in problems.items():
        if problem:
            raise UsageError(f"{first_name} and {name} cannot be combined: they differ in {what} ({problem}).")


def _record(
    records: Sequence[Record], names: Sequence[str], weights: Sequence[float], combination: str, model: PeftModel
) -> Record:
    first, sources = records[0], [(record.data.get("source"), record.data.get("splits")) for record in records]
    data = first.data
    if len(set(sources)) > 1:  # no data is the combination's own
        counts = {"train": sum(record.data.get("train") or 0 for record in records), "val": 0, "test": 0}
        data = {"name": "of several runs", "source": None, "splits": "of each run", **counts, "skipped": []}
    parts = ", ".join(f"{name} ({weight:g})" for name, weight in zip(names, weights, strict=True))
    return replace(
        first,
        recipe=first.recipe | {"note": f"of {names[0]}, one of those that were combined"},
        data=data,
        protocol=f"combined ({combination}) from {parts}; not trained as such",
        metrics={},
        parameters=parameter_counts(model),
        versions=library_versions(),
    )
