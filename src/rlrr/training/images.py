"""The images of a run: images to train on, images to measure after each epoch, and their preparation.

The test images are used by `protocol="paper"` only; otherwise no code here can reach them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, IMAGENET_INCEPTION_MEAN, IMAGENET_INCEPTION_STD
from torch import Tensor

from rlrr.data import ImageData, PreparedImages, Split, prepare_split
from rlrr.data.duplicates import Duplicates
from rlrr.data.pipeline import RandomCrop, flip, preparation, random_resize, uncropped
from rlrr.data.split import enumerated
from rlrr.errors import UsageError
from rlrr.recipes.recipe import Recipe

logger = logging.getLogger(__name__)

_NORMALIZATION = {
    "imagenet": {"mean": IMAGENET_DEFAULT_MEAN, "std": IMAGENET_DEFAULT_STD},
    "half": {"mean": IMAGENET_INCEPTION_MEAN, "std": IMAGENET_INCEPTION_STD},
}


@dataclass(frozen=True)
class TrainingImages:
    """The images that a trainer is given.

    Attributes:
        train: The images to train on.
        watched: The images to measure after each epoch, which may choose the epoch that is kept, or None.
        skipped: "name: reason" of the images that cannot be read and were left out.
        duplicates: The images that are there twice.
        missing_classes: The classes without an image in val or test, by split.
    """

    train: PreparedImages
    watched: PreparedImages | None
    skipped: tuple[str, ...]
    duplicates: Duplicates
    missing_classes: dict[str, list[str]]


def preprocessing(recipe: Recipe) -> dict[str, Any]:
    """Return the changes that a recipe makes to the backbone's own preprocessing, in timm's words."""
    chosen = {"crop_mode": recipe.crop_mode, "crop_pct": recipe.crop_pct}
    return {key: value for key, value in chosen.items() if value is not None} | _NORMALIZATION.get(
        recipe.normalization or "", {}
    )


def training_images(recipe: Recipe, data: ImageData, data_config: Mapping[str, Any]) -> TrainingImages:
    """Read and check the images of a run.

    Args:
        recipe: The recipe, for its protocol, its split to train on and its augmentation.
        data: The data set; its test images are touched by `protocol="paper"` only.
        data_config: Preprocessing, as timm describes it.

    Raises:
        RLRRError: images cannot be read, or there are no test images for the paper's protocol, or too few to train on.
    """
    on_test = recipe.protocol == "paper"
    if on_test and not data.test:
        raise UsageError(
            f"The paper's `protocol` tests after each epoch, and {data.name} has no test images: add a test split, or "
            "use `protocol` honest."
        )
    watched: Split | None = None
    if on_test:
        watched = data.test
    elif recipe.validates:
        watched = data.val
    prepared: PreparedImages | None = None
    skipped: tuple[str, ...] = ()
    if watched:
        prepared, skipped = _prepared(recipe, watched, data_config, "test" if on_test else "val")
    chosen = data.train if recipe.validates else data.train + data.val
    train, skipped_train = _prepared(recipe, chosen, data_config, "train", augment=True)
    if (recipe.mixup or recipe.cutmix) and len(train) < recipe.batch_size:
        raise UsageError(f"Mixing needs one full batch: `batch_size` must be at most {len(train)}.")
    duplicates = Duplicates()
    duplicates.add("train", chosen)
    if watched:
        duplicates.add("test" if on_test else "val", watched)
    return TrainingImages(train, prepared, skipped_train + skipped, duplicates, _missing_classes(recipe, data))


def _missing_classes(recipe: Recipe, data: ImageData) -> dict[str, list[str]]:
    """Find the classes of which a split that is measured has no image, and warn of them."""
    measured = {"val": data.val if recipe.validates else None, "test": data.test if recipe.test else None}
    missing = {}
    for name, split in measured.items():
        if split and (absent := data.absent_classes(split)):
            missing[name] = absent
            these = "this class" if len(absent) == 1 else f"these {len(absent)} of the {len(data.classes)} classes"
            logger.warning(
                "%s has no image of %s: its accuracy says nothing of %s.", name, enumerated(absent, 5), these
            )
    return missing


def _prepared(
    recipe: Recipe, split: Split, config: Mapping[str, Any], name: str, augment: bool = False
) -> tuple[PreparedImages, tuple[str, ...]]:
    """Check and prepare the images of one split; the second value names the skipped images."""
    prepare = preparation(config)
    steps: list[Callable[[Tensor], Tensor]] = []
    if augment and recipe.random_position:
        if config["crop_pct"] >= 1:
            raise UsageError(
                "`random_position` has no room to move, as `crop_pct` is 1: give a smaller `crop_pct`, such as 0.875."
            )
        prepare = uncropped(config)
        steps.append(RandomCrop(*config["input_size"][-2:]))
    if augment and recipe.flip:
        steps.append(flip)
    resize = random_resize(config, recipe.random_crop) if augment and recipe.random_crop else None
    # decoded once and cached, unless each epoch resizes anew
    split, cache, skipped = prepare_split(split, None if resize else prepare, bad_images=recipe.bad_images, what=name)
    images = PreparedImages(
        split,
        resize or prepare,
        cache=cache,
        augment=steps,
        mean=config["mean"],
        std=config["std"],
    )
    return images, skipped
