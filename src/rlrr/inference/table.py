"""Predictions as a file: CSV, JSON, or a line of JSON for each image."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rlrr.errors import UsageError
from rlrr.files import atomic, expect_new_file
from rlrr.inference.predict import Prediction

_FORMS = (".csv", ".json", ".jsonl")


def expect_table(path: Path) -> None:
    """Refuse a file that exists, or whose ending names no form, before anything is computed.

    Raises:
        UsageError: the file is refused.
    """
    if path.suffix.lower() not in _FORMS:
        raise UsageError(f"`output` must end in one of {', '.join(_FORMS)}, not {path.name!r}.")
    expect_new_file(path)


def write_table(path: Path, predictions: Sequence[Prediction]) -> None:
    """Write predictions to a file, atomically, in the form that its ending names.

    In CSV, a line has the columns image, class and probability, then class_2, probability_2 and so on.

    Raises:
        RLRRError: the file cannot be written.
    """
    with atomic(path) as temporary, temporary.open("w", encoding="utf-8", errors="surrogateescape", newline="") as file:
        match path.suffix.lower():
            case ".csv":
                numbers = ["", *(f"_{place}" for place in range(2, 1 + max(len(one.classes) for one in predictions)))]
                writer = csv.writer(file)
                writer.writerow(
                    ["image", *(f"{name}{number}" for number in numbers for name in ("class", "probability"))]
                )
                for one in predictions:
                    pairs = zip(one.classes, one.probabilities, strict=True)
                    writer.writerow([one.image, *(value for pair in pairs for value in pair)])
            case ".json":
                file.write(json.dumps([as_dict(one) for one in predictions], indent=2) + "\n")
            case _:
                file.writelines(json.dumps(as_dict(one)) + "\n" for one in predictions)


def as_dict(prediction: Prediction) -> dict[str, Any]:
    """Return a prediction as JSON has it."""
    pairs = zip(prediction.classes, prediction.probabilities, strict=True)
    return {"image": prediction.image, "top": [{"class": name, "probability": value} for name, value in pairs]}
