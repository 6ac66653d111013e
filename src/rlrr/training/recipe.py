"""What one training run is made of. Only the standard library: `rlrr train --help` reads it."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

from rlrr.errors import RLRRError, did_you_mean

METHODS = ("rlrr", "linear", "full", "lora")


@dataclass(frozen=True)
class Recipe:
    """One training run. The same names hold in Python, in YAML and on the command line."""

    data: str
    """Folder of images (class/x.jpg, with or without train, val and test), sample:mnist, or hub:OWNER/NAME."""
    model: str = "vit_base_patch16_224.orig_in21k"
    """Backbone: a timm name with its pretrained tag, a local timm folder, or vit_small_focus (works offline)."""
    method: str = "rlrr"
    """How to fine-tune: rlrr, linear (probe), full or lora."""
    weights: str | None = None
    """Local file or folder with the backbone's weights, instead of the Hub."""
    image_size: int | None = None
    """Side of the square images in pixels; the backbone's own if not given."""
    rank: int | None = None
    """Rank of the update; the method's own if not given (rlrr 1, lora 8)."""
    target_modules: str | None = None
    """Regex of full module names to adapt, for rlrr and lora on backbones of other families than the usual ViTs."""
    epochs: int = 30
    """Passes over the training images."""
    batch_size: int = 32
    """Images in a step, before gradient accumulation."""
    accumulate: int = 1
    """Steps whose gradients are added up before the weights change."""
    learning_rate: float | None = None
    """Peak learning rate of AdamW; the method's own if not given (rlrr 5e-3, linear 1e-2, full 5e-5, lora 1e-3)."""
    weight_decay: float = 1e-4
    """Weight decay, in the paper's groups: shifts, norms and biases do not decay."""
    warmup: float = 0.1
    """Share of the run in which the learning rate rises from 0; then it falls to 0 by a cosine."""
    drop_path: float = 0.0
    """Stochastic depth at the last block; it rises linearly from 0 at the first. A linear probe has none."""
    label_smoothing: float = 0.0
    """Share of each label that is spread over all classes."""
    flip: bool = False
    """Mirror training images left to right at random. Not for digits, text or directions."""
    random_crop: float | None = None
    """Least share of the area that a random resized crop keeps, as 0.5; no random crop if not given."""
    mixup: float = 0.0
    """Alpha of mixup; 0 is off."""
    cutmix: float = 0.0
    """Alpha of CutMix; 0 is off."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Arithmetic: auto is bf16 where the device has it in hardware, else fp32."""
    val_fraction: float = 0.2
    """Share of the training images kept for validation if the data has no such split."""
    select: Literal["best", "last"] = "best"
    """Keep the epoch with the best validation accuracy (of equal ones the latest), or the last one."""
    early_stop: int | None = None
    """Stop after this many epochs without a better validation accuracy."""
    bad_images: Literal["error", "skip"] = "error"
    """What to do with images that cannot be read: stop before training, or leave them out and count them."""
    workers: int = 0
    """Processes that load images; 0 loads in the main one, which is best for cached images."""
    threads: int | None = None
    """Threads for computing on the CPU; all that this process may use if not given."""
    seed: int = 0
    """Seed of the split, the initial weights, the order of the images and all augmentation."""

    def __post_init__(self) -> None:
        """Refuse values that cannot be trained with, naming the option.

        Raises:
            RLRRError: for a wrong value.
        """
        if self.method not in METHODS:
            _refuse("method", self.method, f"one of {', '.join(METHODS)}", did_you_mean(self.method, METHODS))
        for name in ("epochs", "batch_size", "accumulate", "image_size", "rank", "early_stop", "threads"):
            _check(name, getattr(self, name), "1 or more", lambda value: value >= 1)
        for name in ("weight_decay", "mixup", "cutmix", "workers", "seed"):
            _check(name, getattr(self, name), "0 or more", lambda value: value >= 0)
        for name in ("warmup", "drop_path", "label_smoothing"):
            _check(name, getattr(self, name), "from 0 to below 1", lambda value: 0 <= value < 1)
        _check("learning_rate", self.learning_rate, "above 0", lambda value: 0 < value < math.inf)
        _check("val_fraction", self.val_fraction, "between 0 and 1", lambda value: 0 < value < 1)
        _check("random_crop", self.random_crop, "above 0 and at most 1", lambda value: 0 < value <= 1)
        for name, choices in (
            ("precision", ("auto", "fp32", "bf16", "fp16")),
            ("select", ("best", "last")),
            ("bad_images", ("error", "skip")),
        ):
            value = getattr(self, name)
            _check(name, value, f"one of {', '.join(choices)}", lambda value, choices=choices: value in choices)
        if self.method in ("linear", "full") and (self.rank or self.target_modules):
            name = "rank" if self.rank else "target_modules"
            _refuse(name, getattr(self, name), f"left out with --method {self.method}, which has none")
        if (self.mixup or self.cutmix) and self.batch_size % 2:
            _refuse("batch_size", self.batch_size, "even with mixup or cutmix, which mix images in pairs")

    def to_dict(self) -> dict[str, Any]:
        """All options by name, as they stand in `recipe.yaml`."""
        return asdict(self)


def differences(one: Recipe, other: Recipe) -> list[str]:
    """The options in which two recipes differ, each as "name: one -> other"; a path is the same with a last slash."""
    pairs = ((field.name, getattr(one, field.name), getattr(other, field.name)) for field in fields(Recipe))
    return [f"{name}: {a} -> {b}" for name, a, b in pairs if _without_slash(a) != _without_slash(b)]


def _without_slash(value: Any) -> Any:
    return value.rstrip("/") if isinstance(value, str) else value


def _check(name: str, value: Any, expected: str, holds: Any) -> None:
    if value is not None and not holds(value):
        _refuse(name, value, expected)


def _refuse(name: str, value: Any, expected: str, hint: str = "") -> None:
    raise RLRRError(f"--{name} must be {expected}, not {value!r}.{hint}", usage=True)
