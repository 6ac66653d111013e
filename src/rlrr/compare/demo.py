"""The demo: a linear probe and RLRR side by side on real images, offline, in minutes on a laptop."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from rlrr.adapters.record import TENSORS, Record
from rlrr.data import Split, decode, load_data
from rlrr.errors import UsageError
from rlrr.files import write_json
from rlrr.inference.evaluate import Evaluation, confusion_picture, evaluate_split, save_evaluation
from rlrr.inference.predict import load
from rlrr.methods.table import find_method
from rlrr.recipes.files import RECIPE, load_recipe
from rlrr.recipes.recipe import Recipe
from rlrr.report.figures import curves, sample_predictions
from rlrr.report.page import Picture, write_report
from rlrr.report.svg import save
from rlrr.report.table import Table
from rlrr.training.output import METRICS, read_metrics
from rlrr.training.run import train

COMPARED = ("linear", "rlrr")
_OURS = (*COMPARED, "curves.png", "report.html", "results.json")
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
            find_method(self.record.method).title,
            f"{self.evaluation.accuracy:.1%}",
            f"{sum(self.record.parameters.values()):,}",
            f"{self.bytes / 1e6:.2f} MB",
            f"{self.record.metrics['train_seconds']:.0f}",
        ]


def demo_recipe() -> Recipe:
    """Load the recipe that both runs share."""
    return load_recipe("demo")


def run_demo(
    recipe: Recipe,
    folder: Path,
    *,
    overwrite: bool = False,
    resume: bool = False,
    say: Callable[[str], None] = lambda text: None,
) -> dict[str, Outcome]:
    """Train both methods by one recipe, test them, and write pictures and `report.html`.

    Args:
        recipe: The shared recipe; its `method` is not read, and its data must have test images.
        folder: Where the runs, one folder for each method, and the report go.
        overwrite: Delete the runs of an earlier demo there.
        resume: Go on with a demo that was stopped.
        say: Told what is being done.

    Returns:
        Outcomes, by method.
    """
    if folder.is_dir() and (others := sorted({path.name for path in folder.iterdir()} - set(_OURS))):
        raise UsageError(f"{folder} holds something else ({others[0]}): give another `output`.")
    test = load_data(recipe.data, val_fraction=recipe.val_fraction, seed=recipe.seed).test
    assert test is not None, "the demo's data has test images"
    outcomes = {}
    for method in COMPARED:
        say(f"{find_method(method).title}: {find_method(method).summary}")
        started = (folder / method / RECIPE).exists()
        record = train(replace(recipe, method=method), folder / method, overwrite=overwrite, resume=resume and started)
        evaluation = evaluate_split(load(folder / method, device=recipe.device), test, f"{record.data['name']}, test")
        outcomes[method] = Outcome(record, evaluation, (folder / method / TENSORS).stat().st_size)
    _write_report(recipe, folder, outcomes, test)
    return outcomes


def results(outcomes: Mapping[str, Outcome]) -> dict[str, dict[str, float]]:
    """Give the numbers of each method, as they stand in `results.json`."""
    return {
        method: {
            "test_accuracy": outcome.evaluation.accuracy,
            "val_accuracy": outcome.record.metrics["val_accuracy"],
            "trained_parameters": sum(outcome.record.parameters.values()),
            "file_bytes": outcome.bytes,
            "seconds": outcome.record.metrics["train_seconds"],
        }
        for method, outcome in outcomes.items()
    }


def _write_report(recipe: Recipe, folder: Path, outcomes: Mapping[str, Outcome], test: Split) -> None:
    titles = {method: find_method(method).title for method in outcomes}
    histories = {titles[method]: read_metrics(folder / method / METRICS) for method in outcomes}
    save(curves(histories), folder / "curves.png")
    pictures = [
        Picture(
            curves(histories),
            "Loss and validation accuracy by epoch. The epoch with the best validation accuracy is the one tested.",
            "Curves of loss and validation accuracy of both methods over the epochs.",
        )
    ]
    for method, outcome in outcomes.items():
        save_evaluation(outcome.evaluation, folder / method, titles[method])
        caption = f"{titles[method]}: a row for each true class, a column for each predicted one. Mistakes are off the "
        pictures.append(
            Picture(
                confusion_picture(outcome.evaluation, titles[method]),
                f"{caption}diagonal.",
                f"Confusion matrix of {titles[method]} on the test images: {outcome.evaluation.accuracy:.1%} of them "
                "are on the diagonal.",
            )
        )
    pictures += [_samples(folder, method, outcome.evaluation, test) for method, outcome in outcomes.items()]
    facts, accuracy = outcomes["rlrr"].record, {m: f"{o.evaluation.accuracy:.1%}" for m, o in outcomes.items()}
    run = shlex.quote(str(folder / "rlrr"))
    write_report(
        folder / "report.html",
        title=f"A linear probe and RLRR on {facts.data['name']}",
        summary=(
            f"RLRR gets {accuracy['rlrr']} of {len(test):,} test images right, and a linear probe "
            f"{accuracy['linear']}, with the same frozen backbone and the same {facts.data['train']:,} training "
            f"images. {facts.data['val']:,} other images chose the epoch; the test images had no part in either."
        ),
        tables=[
            Table(
                f"Accuracy on {len(test):,} test images, and its price",
                COLUMNS,
                [outcome.row for outcome in outcomes.values()],
                note=f"Both train the classifier, which has {facts.parameters['head']:,} of the parameters. The file "
                "is what has to be kept beside the backbone; seconds are those of training.",
            )
        ],
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
            f"rlrr train --config {run}/recipe.yaml --output again",
            f"rlrr evaluate {run} {shlex.quote(recipe.data)}",
            f"rlrr merge {run} --output merged",
        ],
    )
    write_json(folder / "results.json", results(outcomes))


def _samples(folder: Path, method: str, evaluation: Evaluation, test: Split) -> Picture:
    """Test images at even distances: chosen before anything was trained, so neither method is flattered."""
    title, count = find_method(method).title, min(20, len(test))
    shown = [i * len(test) // count for i in range(count)]
    figure = sample_predictions(
        [decode(test.images[i]) for i in shown],
        [evaluation.classes[test.labels[i]] for i in shown],
        [evaluation.classes[evaluation.predicted[i]] for i in shown],
        [float(evaluation.confidence[i]) for i in shown],
        f"{title} on {count} test images",
    )
    save(figure, folder / method / "predictions.png")
    caption = f"{title}: {count} test images at even distances in the list, each with the predicted class and its "
    return Picture(
        figure,
        f"{caption}probability. A cross marks a mistake, with the true class below.",
        f"A grid of test images with what {title} says of each.",
    )
