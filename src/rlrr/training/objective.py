"""The loss that a training minimises, as an object; its state is part of every checkpoint.

A method with a loss of its own has a subclass of `Objective`, which its row in `rlrr.methods.table` names.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from inspect import signature
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import torch
from timm.data import Mixup
from torch import Tensor, nn
from torch.nn import functional as F

from rlrr.errors import RLRRError, UsageError
from rlrr.files import atomic
from rlrr.methods.table import find_method
from rlrr.recipes.recipe import Recipe

STATE = "objective.pt"  # in a checkpoint


@dataclass(frozen=True)
class Batch:
    """A batch on the device of the model.

    Attributes:
        images: Augmented and normalised images, float32 (N, 3, H, W).
        targets: Class indices, int64 (N,).
        indices: Position of each image in the split, int64 (N,); in training that is the training split.
    """

    images: Tensor
    targets: Tensor
    indices: Tensor


@dataclass(frozen=True)
class Outcome:
    """The result of an objective on one batch.

    Attributes:
        loss: A scalar to minimise.
        logits: Logits (N, classes), or one such tensor for each head; the last head is the one that classifies.
        logs: Scalars to log, as means over the epoch. Tensors are better than numbers, since reading a number waits
            for the GPU.
    """

    loss: Tensor
    logits: Tensor | Sequence[Tensor]
    logs: Mapping[str, Tensor | float] = field(default_factory=dict)


class Objective:
    """A loss with its state. A subclass computes the loss in `__call__`."""

    def __call__(self, model: nn.Module, batch: Batch, progress: float) -> Outcome:
        """Compute the loss of a training batch.

        Args:
            model: The model in training mode. Call the model itself, since mixed precision acts in its forward pass.
            batch: The batch. Its targets are class indices: an objective that mixes images makes soft targets itself.
            progress: Share of all optimiser steps that are done, from 0 to below 1.
        """
        raise NotImplementedError

    def evaluate(self, model: nn.Module, batch: Batch) -> Outcome:
        """Compute plain cross-entropy on a batch of evaluation, of the last head if there are several."""
        logits = classifying_logits(model(batch.images))
        return Outcome(F.cross_entropy(logits.float(), batch.targets), logits)

    def state_dict(self) -> dict[str, Any]:
        """Return the state that later steps depend on: tensors, numbers, text, and lists and dicts of them.

        The state of a random generator is a tensor too (`torch.Generator.get_state`).
        """
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the state that `state_dict` returned; its tensors are on the CPU."""


class CrossEntropy(Objective):
    """Cross-entropy, on mixed images if there is a `mixup`.

    Args:
        label_smoothing: Share of each label that is spread over all classes; with `mixup`, timm smooths the labels.
        mixup: timm's mixup and CutMix, which give soft labels; None trains on the labels.
    """

    def __init__(self, label_smoothing: float = 0.0, mixup: Mixup | None = None) -> None:
        self.label_smoothing = label_smoothing
        self.mixup = mixup

    def __call__(self, model: nn.Module, batch: Batch, progress: float) -> Outcome:
        """Compute the mean cross-entropy of a training batch."""
        images, targets = batch.images, batch.targets
        smoothing = self.label_smoothing
        if self.mixup is not None:
            images, targets = self.mixup(images, targets)
            smoothing = 0.0
        logits = model(images)
        return Outcome(F.cross_entropy(logits.float(), targets, label_smoothing=smoothing), logits)


def classifying_logits(logits: Tensor | Sequence[Tensor]) -> Tensor:
    """Return the logits that classify: the last head's if there are several."""
    return logits if isinstance(logits, Tensor) else logits[-1]


def make_objective(recipe: Recipe, classes: int, samples: int) -> Objective:
    """Make the objective of a recipe: the method's own if it has one, else cross-entropy.

    Args:
        recipe: The recipe, for its method, the objective's options, label smoothing and mixing.
        classes: Number of classes.
        samples: Number of training images.
    """
    mixup = None
    if recipe.mixup or recipe.cutmix:
        mixup = Mixup(
            mixup_alpha=recipe.mixup,
            cutmix_alpha=recipe.cutmix,
            label_smoothing=recipe.label_smoothing,
            num_classes=classes,
        )
    cross_entropy = CrossEntropy(recipe.label_smoothing, mixup)
    path = find_method(recipe.method).objective
    return named_objective(path, recipe.objective, cross_entropy, classes, samples) if path else cross_entropy


def named_objective(
    path: str, options: Mapping[str, Any], cross_entropy: CrossEntropy, classes: int, samples: int
) -> Objective:
    """Make an objective from its import path.

    Args:
        path: "package.module:Class". The class is called with `cross_entropy`, `classes`, `samples` and the options.
        options: The options of the objective in a recipe.
        cross_entropy: The cross-entropy that the recipe asks for, to build on.
        classes: Number of classes.
        samples: Number of training images.

    Raises:
        RLRRError: there is nothing under the import path, or the objective does not take such options.
    """
    try:
        make = resolve_name(path)
    except (ImportError, AttributeError, ValueError) as error:
        raise RLRRError(f"The objective {path} cannot be imported: {error}.") from error
    arguments = {"cross_entropy": cross_entropy, "classes": classes, "samples": samples, **options}
    try:
        signature(make).bind(**arguments)
    except TypeError as error:
        raise UsageError(f"The objective {path} does not take the options {dict(options)}: {error}.") from error
    return make(**arguments)


def save_state(objective: Objective, folder: Path) -> None:
    """Write the state of an objective into a checkpoint, atomically."""
    with atomic(folder / STATE) as temporary:
        torch.save(objective.state_dict(), temporary)


def load_state(objective: Objective, folder: Path) -> None:
    """Restore the state of an objective from a checkpoint.

    Raises:
        RLRRError: the file is missing or damaged, or the objective does not take its state.
    """
    path = folder / STATE
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises errors of many kinds
        raise RLRRError(
            f"{path} is missing or damaged ({error}): delete the checkpoint {folder}, and resume from the one before."
        ) from error
    try:
        objective.load_state_dict(state)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise RLRRError(
            f"The objective {type(objective).__name__} does not take the state in {path} ({error!r}), as that of "
            "another objective or of another version of it: start the run anew with `overwrite`."
        ) from error
