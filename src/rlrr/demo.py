"""The demo: a linear probe and RLRR side by side on real images, offline, in minutes on a laptop."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from importlib.resources import as_file, files
from pathlib import Path

from rlrr import plots
from rlrr.adapters import TENSORS, Record
from rlrr.data import Split, decode, load_data
from rlrr.evaluation import Evaluation, evaluate_split, save_evaluation
from rlrr.files import write_json
from rlrr.methods import methods
from rlrr.predict import load
from rlrr.report import Picture, Table, write_report
from rlrr.training.output import METRICS, read_metrics, read_recipe
from rlrr.training.recipe import Recipe
from rlrr.training.run import train

METHODS = ("linear", "rlrr")
COLUMNS = ("method", "test accuracy", "trained parameters", "file", "seconds")


@dataclass(frozen=True)
class Outcome:
    """One run of the demo: its record, its result on the test images, and the size of its file in bytes."""

    record: Record
    evaluation: Evaluation
    bytes: int

    @property
    def row(self) -> list[str]:
        """A line of the table, under `COLUMNS`."""
        return [
            methods()[self.record.method].title,
            f"{self.evaluation.accuracy:.1%}",
            f"{sum(self.record.parameters.values()):,}",
            f"{self.bytes / 1e6:.2f} MB",
            f"{self.record.metrics['train_seconds']:.0f}",
        ]


def demo_recipe() -> Recipe:
    """The recipe both runs share, from `recipes/demo.yaml`."""
    with as_file(files("rlrr") / "recipes" / "demo.yaml") as path:
        return read_recipe(path)


def run_demo(
    recipe: Recipe, folder: Path, *, overwrite: bool = False, say: Callable[[str], None] = lambda text: None
) -> dict[str, Outcome]:
    """Train both methods by one recipe, test them, and write pictures and `report.html`.

    Args:
        recipe: Its `method` is not looked at; its data must have test images.
        folder: Where the runs, one folder for each method, and the report go.
        overwrite: Delete the runs of an earlier demo there.
        say: Told what is being done.

    Returns:
        What came out, by method.
    """
    test = load_data(recipe.data, val_fraction=recipe.val_fraction, seed=recipe.seed).test
    assert test is not None, "the demo's data has test images"
    outcomes = {}
    for method in METHODS:
        say(f"{methods()[method].title}: {methods()[method].summary}")
        record = train(replace(recipe, method=method), folder / method, overwrite=overwrite)
        evaluation = evaluate_split(load(folder / method), test, f"{record.data['name']}, test")
        outcomes[method] = Outcome(record, evaluation, (folder / method / TENSORS).stat().st_size)
    _write_report(recipe, folder, outcomes, test)
    return outcomes


def _write_report(recipe: Recipe, folder: Path, outcomes: Mapping[str, Outcome], test: Split) -> None:
    titles = {method: methods()[method].title for method in outcomes}
    histories = {titles[method]: read_metrics(folder / method / METRICS) for method in outcomes}
    plots.save(plots.curves(histories), folder / "curves.png")
    pictures = [
        Picture(
            folder / "curves.png",
            "Loss and validation accuracy by epoch. The epoch with the best validation accuracy is the one that is tested.",
            "Curves of loss and validation accuracy of both methods over the epochs.",
        )
    ]
    for method, outcome in outcomes.items():
        _, picture = save_evaluation(outcome.evaluation, folder / method)
        pictures.append(
            Picture(
                picture,
                f"{titles[method]}: rows are the true classes, columns the predicted ones; what is off the diagonal is wrong.",
                f"Confusion matrix of {titles[method]} on the test images.",
            )
        )
        pictures.append(_samples(folder, method, outcome.evaluation, test))
    facts = outcomes["rlrr"].record
    write_report(
        folder / "report.html",
        title="rlrr demo",
        summary=(
            f"{titles['linear']} and {titles['rlrr']} on the same {facts.data['train']} images of {facts.data['name']}, "
            f"with the same frozen backbone. {facts.data['val']} other images chose the epoch, and the accuracy below is "
            f"that on {facts.data['test']} test images that had no part in either."
        ),
        tables=[Table("Result", COLUMNS, [outcome.row for outcome in outcomes.values()])],
        pictures=pictures,
        facts={
            "backbone": f"{facts.backbone['name']} at {facts.backbone['image_size']} pixels",
            "weights (SHA-256)": facts.backbone["fingerprint"][:16],
            "data": f"{facts.data['name']}; {facts.data['splits']}",
            "protocol": facts.protocol,
            "seed": str(recipe.seed),
            "versions": ", ".join(f"{name} {version}" for name, version in facts.versions.items()),
        },
        commands=[
            f"rlrr demo --output {folder.name}",
            f"rlrr evaluate {folder.name}/rlrr {recipe.data}",
            f"rlrr merge {folder.name}/rlrr --output merged",
        ],
    )
    write_json(
        folder / "results.json",
        {
            method: {
                "test_accuracy": outcome.evaluation.accuracy,
                "val_accuracy": outcome.record.metrics["val_accuracy"],
                "trained_parameters": sum(outcome.record.parameters.values()),
                "file_bytes": outcome.bytes,
                "seconds": outcome.record.metrics["train_seconds"],
            }
            for method, outcome in outcomes.items()
        },
    )


def _samples(folder: Path, method: str, evaluation: Evaluation, test: Split) -> Picture:
    """The first test images: chosen before anything was trained, so neither method is flattered."""
    shown = range(min(20, len(test)))
    figure = plots.sample_predictions(
        [decode(test.images[i]) for i in shown],
        [evaluation.classes[test.labels[i]] for i in shown],
        [evaluation.classes[evaluation.predicted[i]] for i in shown],
        [float(evaluation.confidence[i]) for i in shown],
        f"{methods()[method].title} on the first test images",
    )
    plots.save(figure, folder / method / "predictions.png")
    return Picture(
        folder / method / "predictions.png",
        f"{methods()[method].title}: the first test images, each with the predicted class and its probability; a cross marks a wrong one.",
        f"A grid of test images with what {methods()[method].title} says of each.",
    )
