"""Evaluation of a finished run on images with labels."""

from __future__ import annotations

import base64
import io
import logging
from dataclasses import dataclass
from html import escape
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Unpack

import numpy as np

from rlrr.data import ImageData, Split, data_source, load_data, prepare_split
from rlrr.data.layout import inner_data
from rlrr.data.pipeline import preparation
from rlrr.data.split import enumerated, one_form
from rlrr.errors import RLRRError, UsageError
from rlrr.files import write_json
from rlrr.hints import checked
from rlrr.inference.devices import describe_device
from rlrr.inference.predict import Classifier, Loading, load
from rlrr.inference.progress import show_messages

if TYPE_CHECKING:
    from matplotlib.figure import Figure

logger = logging.getLogger(__name__)

COLUMNS = ("class", "precision", "recall", "F1", "images")


@dataclass(frozen=True, repr=False)
class Evaluation:
    """The result on one split.

    Attributes:
        split: Description of the images, in words.
        images: Number of images.
        accuracy: Share that is right.
        classes: Class names.
        per_class: For each class precision, recall, F1 and number of images; a measure that is not defined is None.
        confusion: Counts, (true class, predicted class).
        predicted: Predicted class of each image, by index.
        confidence: Probability of each predicted class.
        skipped: Images that could not be read; each counts in no figure.
    """

    split: str
    images: int
    accuracy: float
    classes: list[str]
    per_class: list[dict[str, float | None]]
    confusion: np.ndarray
    predicted: np.ndarray
    confidence: np.ndarray
    skipped: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return f"Evaluation({self.split}: {self.accuracy:.1%} of {self.images} images right)"

    def _repr_html_(self) -> str:
        """Show the table and, with the extra `report`, the confusion matrix in a notebook."""
        lines = "".join(f"<tr><td>{'<td>'.join(map(escape, row))}</tr>" for row in self.rows)
        table = f"<table><caption>{escape(repr(self))}<tr><th>{'<th>'.join(COLUMNS)}</tr>{lines}</table>"
        if find_spec("matplotlib") is None:
            return table
        confusion_picture(self).savefig(picture := io.BytesIO(), format="png")
        return f'{table}<img alt="" src="data:image/png;base64,{base64.b64encode(picture.getvalue()).decode()}">'

    @property
    def rows(self) -> list[list[str]]:
        """Write the measures of each class as a line of a table, under `COLUMNS`."""
        return [
            [name, *(_percent(row[key]) for key in ("precision", "recall", "f1")), f"{row['images']:.0f}"]
            for name, row in zip(self.classes, self.per_class, strict=True)
        ]

    def to_dict(self) -> dict:
        """Give the figures, without the single images, as JSON has them."""
        return {
            "split": self.split,
            "images": self.images,
            "skipped": list(self.skipped),
            "accuracy": self.accuracy,
            "per_class": dict(zip(self.classes, self.per_class, strict=True)),
            "confusion": self.confusion.tolist(),
        }


@checked
def evaluate(
    run: str | Path | Classifier,
    data: str | Path,
    *,
    split: Literal["test", "val", "train"] | None = None,
    bad_images: Literal["error", "skip"] = "error",
    **loading: Unpack[Loading],
) -> Evaluation:
    """Evaluate a finished run.

    Args:
        run: Folder of the run, or the classifier that `load` gave.
        data: A folder, sample or Hub data set as for `train`.
        split: Name of the split; None is test if there is one. If there is none, it is val, or, where the data has no
            splits of its own and is not what the run was trained on, all images.
        bad_images: "skip" leaves images out that cannot be read, and counts them.
        **loading: Options of `load`, for a run that is given by its folder: weights, device, precision, batch_size,
            workers and threads.

    Raises:
        RLRRError: the data has no such split, has a class that the run does not know, or holds bad images.

    Example:
        >>> rlrr.evaluate("run", "flowers/", device="cpu")
        Evaluation(flowers, test: 96.4% of 1020 images right)
    """
    if isinstance(run, Classifier) and loading:
        raise UsageError(f"The classifier is loaded already: give `{next(iter(loading))}` to `load`.")
    show_messages()
    classifier = run if isinstance(run, Classifier) else load(run, **loading)
    recipe, source = classifier.record.recipe, classifier.record.data.get("source")
    trained_on = source is not None and data_source(data) == source
    content = load_data(data, val_fraction=recipe["val_fraction"] if trained_on else None, seed=recipe.get("seed", 0))
    chosen, name = _choose(content, split)
    if trained_on and (role := _role(name, recipe)):
        name = f"{name}: {role}"
    return evaluate_split(
        classifier, _relabel(chosen, content, classifier, Path(data)), f"{content.name}, {name}", bad_images
    )


def evaluate_split(
    classifier: Classifier, split: Split, what: str, bad_images: Literal["error", "skip"] = "error"
) -> Evaluation:
    """Evaluate on a split whose labels are indices into the classifier's classes."""
    split, cache, skipped = prepare_split(
        split, preparation(classifier.record.preprocessing), bad_images=bad_images, what=what
    )
    logger.info("%s: measuring %d images on %s", what, len(split), describe_device(classifier.device))
    probabilities = classifier.logits(classifier.dataset(split, cache)).softmax(-1)
    confidence, predicted = (tensor.numpy() for tensor in probabilities.max(-1))
    labels, count = np.asarray(split.labels), len(classifier.classes)
    confusion = np.bincount(labels * count + predicted, minlength=count**2).reshape(count, count)
    return Evaluation(
        split=what,
        images=len(split),
        accuracy=float((labels == predicted).mean()),
        classes=list(classifier.classes),
        per_class=per_class(confusion),
        confusion=confusion,
        predicted=predicted,
        confidence=confidence,
        skipped=skipped,
    )


def per_class(confusion: np.ndarray) -> list[dict[str, float | None]]:
    """Compute precision, recall, F1 and number of images of each class.

    Recall and F1 are None, not defined, for a class without images, and precision for a class that is never predicted.

    Args:
        confusion: Counts, (true class, predicted class).
    """
    right, images, predicted = confusion.diagonal(), confusion.sum(1), confusion.sum(0)
    return [
        {
            "precision": float(r / p) if p else None,
            "recall": float(r / n) if n else None,
            "f1": float(2 * r / (n + p)) if n else None,
            "images": int(n),
        }
        for r, n, p in zip(right, images, predicted, strict=True)
    ]


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.1%}"


def confusion_picture(evaluation: Evaluation, who: str = "") -> Figure:
    """Draw the confusion matrix of an evaluation under a title that begins with `who`."""
    from rlrr.report.figures import confusion_matrix

    title = f"{who or evaluation.split}: {evaluation.accuracy:.1%} of {evaluation.images} images right"
    return confusion_matrix(evaluation.confusion, evaluation.classes, title)


def save_evaluation(evaluation: Evaluation, folder: Path, who: str = "") -> list[Path]:
    """Write `evaluation.json` and, with the extra `report`, the picture `confusion.png`; give the paths.

    Args:
        evaluation: The result.
        folder: Folder to write to.
        who: Beginning of the picture's title.
    """
    numbers, picture = folder / "evaluation.json", folder / "confusion.png"
    written = [numbers]
    if find_spec("matplotlib") is not None:
        from rlrr.report.svg import save

        save(confusion_picture(evaluation, who), picture)
        written.append(picture)
    write_json(numbers, evaluation.to_dict())  # last: with it the evaluation is whole
    return written


def _role(split: str, recipe: dict[str, Any]) -> str | None:
    """Describe the part that the images of a split had in the run itself, if any."""
    if recipe.get("protocol") == "paper":
        return "best test epoch, they chose it" if split == "test" else "they were trained on"
    if split == "train" or (split == "val" and recipe.get("train_on") == "trainval"):
        return "they were trained on"
    return "they chose the epoch" if split == "val" and recipe.get("select", "best") == "best" else None


def _choose(data: ImageData, name: str | None) -> tuple[Split, str]:
    splits = {"test": data.test, "val": data.val, "train": data.train}
    present = {key: split for key, split in splits.items() if split}
    if name is None:
        name = next(iter(present))
        return present[name], "all images" if name == "train" else name
    if name not in present:
        raise UsageError(f"{data.name} has no {name} split, only {', '.join(present)}.")
    return present[name], name


def _relabel(split: Split, data: ImageData, classifier: Classifier, folder: Path) -> Split:
    """Relabel a split with the classifier's indices, by class name."""
    known, named = ([*map(one_form, names)] for names in (classifier.classes, data.classes))
    unknown = sorted(set(named) - set(known))
    if unknown:
        inner = inner_data(folder) if len(unknown) == len(named) and folder.is_dir() else None
        meant = f"Did you mean {inner}?" if inner else "Is this the data of the run? If so, rename their folders."
        raise RLRRError(
            f"{data.name} has classes that the run does not know ({enumerated(unknown, 5)}); it knows "
            f"{enumerated(classifier.classes, 5)}. {meant}"
        )
    index = [known.index(name) for name in named]
    return Split(split.images, [index[label] for label in split.labels], split.names)
