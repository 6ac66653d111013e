"""The recipe of one training run. Only the standard library: `rlrr train --help` reads it."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal, get_type_hints

from rlrr.errors import UsageError, did_you_mean, shown
from rlrr.hints import expected, fits
from rlrr.methods.table import METHODS, find_method
from rlrr.recipes.places import PLACES, place

GROUPS = {  # the title of each group of options, by the first of its options
    "data": "data",
    "model": "backbone",
    "method": "method",
    "epochs": "optimisation",
    "flip": "augmentation",
    "protocol": "protocol",
    "device": "machine",
}
# options that differ from machine to machine
ELSEWHERE = ("data", "weights", "device", "workers", "threads", "compile")
_MOST = {  # beyond which a number is a slip, and would take a machine's memory or be refused by a library
    **dict.fromkeys(("epochs", "cooldown"), 1_000_000),
    **dict.fromkeys(("batch_size", "accumulate", "early_stop", "restart_epochs", "restart_factor"), 1_000_000_000),
    **dict.fromkeys(("weight_decay", "mixup", "cutmix"), 1_000_000),
    **{"image_size": 10_000, "threads": 1024, "workers": 256, "seed": 2**32 - 1},
}
REPORTED = ("log_deviation",)  # options that log more and change no weight


@dataclass(frozen=True)
class Recipe:
    """One training run. The same names hold in Python, in YAML and on the command line.

    Example:
        >>> Recipe("flowers", model="vit_small_focus", method="rlrr", settings={"rank": 2}, epochs=20).epochs
        20
    """

    data: str
    """Folder of images (class/x.jpg, with or without train, val and test), sample:mnist, or hub:OWNER/NAME."""
    val_fraction: float = 0.2
    """Share of the training images kept for validation if the data has no such split."""
    bad_images: Literal["error", "skip"] = "error"
    """Treatment of images that cannot be read: stop before training, or leave them out and count them."""

    model: str = "vit_base_patch16_224.orig_in21k"
    """Backbone: a timm name with its pretrained tag, a local timm folder, or vit_small_focus (works offline)."""
    weights: str | None = None
    """Local file or folder with the backbone's weights, instead of the Hub."""
    image_size: int | None = None
    """Side of the square images in pixels; by default the backbone's own."""
    crop_mode: Literal["center", "squash", "border"] | None = None
    """Way to make images square, in timm's words; by default the backbone's own. squash ignores the aspect ratio."""
    crop_pct: float | None = None
    """Share of the resized image's side that is cropped from its centre; by default the backbone's own."""
    normalization: Literal["imagenet", "half"] | None = None
    """Mean and standard deviation of the pixels: of ImageNet, or 0.5; by default the backbone's own."""

    method: str = "rlrr"
    """Way to fine-tune; `rlrr methods` lists them."""
    settings: dict[str, Any] = field(default_factory=dict)
    """Settings of the method, such as rank=4 sides=in; `rlrr methods NAME` lists them."""
    objective: dict[str, Any] = field(default_factory=dict)
    """Options of the method's loss, as name=value, for methods with a loss of their own."""

    epochs: int = 30
    """Passes over the training images."""
    cooldown: int = 0
    """Cooldown: further epochs at the lowest learning rate. The schedule restarts runs on through them."""
    batch_size: int = 32
    """Images in a step, before gradient accumulation."""
    accumulate: int = 1
    """Gradient accumulation: steps whose gradients are added up before the weights change."""
    learning_rate: float | None = None
    """Peak learning rate of AdamW; by default the method's own, which `rlrr methods` lists."""
    weight_decay: float = 1e-4
    """Weight decay of AdamW; shifts, norms and biases do not decay."""
    schedule: Literal["cosine", "paper", "restarts"] = "cosine"
    """Learning-rate schedule: cosine (per step, to 0), paper (per epoch, as RLRR's) or restarts (per epoch)."""
    warmup: float = 0.1
    """Warm-up of the learning rate, as a share of the epochs. Ignored by the schedule restarts."""
    restart_epochs: int = 10
    """Epochs before the first restart of the schedule restarts."""
    restart_factor: int = 1
    """Factor by which each period of the schedule restarts is longer than the one before."""
    drop_path: float = 0.0
    """Drop path (stochastic depth) of the last block; rises linearly from 0 at the first. Ignored by linear."""
    drop_path_kind: Literal["stochastic_depth", "paper"] = "stochastic_depth"
    """Kind of drop path: whole branches of a sample, or single elements of their outputs (RLRR's code for ViTs)."""
    ema: float | None = None
    """EMA of the trained weights: decay per step, such as 0.9998. The average is then kept. Off by default."""
    early_stop: int | None = None
    """Early stopping: number of epochs without a better validation accuracy that end training. Off by default."""

    flip: bool = False
    """Mirror training images left to right at random. Not for digits, text or directions."""
    random_crop: list[float] | None = None
    """RandomResizedCrop: minimum and maximum share of the image's area, such as 0.5,1. Off by default."""
    random_position: bool = False
    """Crop training images at a random place instead of the centre; needs `crop_pct` below 1."""
    mixup: float = 0.0
    """Mixup: alpha of its Beta distribution; 0 is off."""
    cutmix: float = 0.0
    """CutMix: alpha of its Beta distribution; 0 is off."""
    label_smoothing: float = 0.0
    """Label smoothing: share of each label that is spread over all classes."""

    protocol: Literal["honest", "paper"] = "honest"
    """Protocol; paper is published practice: train on trainval, test each epoch, report the best. Not comparable."""
    train_on: Literal["train", "trainval"] = "train"
    """Images to train on; trainval adds the validation images, and the last epoch is kept."""
    select: Literal["best", "last"] = "best"
    """Epoch to keep: the one with the best validation accuracy (the latest of equal epochs), or the last."""
    test: bool = True
    """Measure the accuracy on the test images, if there are any, once, after training."""
    log_deviation: bool = False
    """Log after each epoch how far the weights have moved from pre-training, in total and by block."""
    seed: int = 0
    """Seed of the split, the initial weights, the order of the images and all augmentation."""

    device: str = "auto"
    """Device: auto (a GPU if there is one), cpu, cuda, a GPU by number such as cuda:1, or mps (Apple's GPU)."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Arithmetic: auto is bf16 where the device has it in hardware, else fp32."""
    compile: bool = False
    """Compile the model with torch.compile, which needs a C++ compiler, and minutes before the first step."""
    workers: int = 0
    """Processes that load images; 0 loads them in the main process, which is best for cached images."""
    threads: int | None = None
    """Threads for computing on the CPU; by default all that this process may use."""

    def __post_init__(self) -> None:
        """Refuse values that cannot be trained with, and name the option.

        The settings are checked by the method's own config, when it is built.

        Raises:
            UsageError: a value is wrong, or two options do not go together.
        """
        self._check_types()
        self._check_ranges()
        self._refuse_combinations()

    def _check_types(self) -> None:
        for name, hint in get_type_hints(type(self)).items():
            if not fits(value := getattr(self, name), hint):
                words, choices = expected(hint)
                _refuse(name, value, words, did_you_mean(str(value), choices))
            if isinstance(value, str) and "\0" in value:  # which no path and no name has
                _refuse(name, value, "text without a null character")
        if self.method not in METHODS and not self.method.startswith("peft:"):
            names = f"one of {', '.join(METHODS)}, or peft:TYPE"
            _refuse("method", self.method, names, did_you_mean(self.method, METHODS))
        find_method(self.method)

    def _check_ranges(self) -> None:
        counts = ("epochs", "batch_size", "accumulate", "image_size", "early_stop", "threads")
        for name in (*counts, "restart_epochs", "restart_factor"):
            self._check_from(1, name)
        for name in ("weight_decay", "mixup", "cutmix", "workers", "seed", "cooldown"):
            self._check_from(0, name)
        for name in ("warmup", "drop_path", "label_smoothing"):
            self._check(name, "from 0 to below 1", lambda value: 0 <= value < 1)
        self._check("learning_rate", "above 0", lambda value: 0 < value < math.inf)
        for name in ("val_fraction", "ema"):
            self._check(name, "between 0 and 1", lambda value: 0 < value < 1)
        self._check("crop_pct", "from 0.05 to 1", lambda value: 0.05 <= value <= 1)
        self._check(
            "random_crop",
            "two shares of the area, the lower one first, above 0 and at most 1",
            lambda value: len(value) == 2 and 0 < value[0] <= value[1] <= 1,
        )

    def _check_from(self, least: int, name: str) -> None:
        """Refuse a number below `least`, or one that is far beyond all use."""
        most = _MOST[name]
        self._check(name, f"{least} or more", lambda value: value >= least)
        self._check(name, f"at most {most:,}", lambda value: value <= most)

    def _check(self, name: str, expected: str, holds: Callable[[Any], bool]) -> None:
        value = getattr(self, name)
        if value is not None and not holds(value):
            _refuse(name, value, expected)

    def _refuse_combinations(self) -> None:
        if self.objective and find_method(self.method).objective is None:
            _exclude("objective", f"the method {self.method}, which trains by the usual loss")
        if self.cooldown and self.schedule == "cosine":
            _exclude("cooldown", "the schedule cosine, which ends at 0")
        if self.schedule != "restarts" and (self.restart_epochs, self.restart_factor) != (10, 1):
            _exclude("restart_epochs" if self.restart_epochs != 10 else "restart_factor", f"schedule {self.schedule}")
        if self.random_crop is not None and self.random_position:
            _exclude("random_position", "`random_crop`, which crops at random places too")
        if self.train_on == "trainval" and self.early_stop:
            _exclude("early_stop", "`train_on` trainval, which has no validation images")
        if self.protocol == "paper":
            for name, usual in (("early_stop", None), ("test", True), ("select", "best")):
                if getattr(self, name) != usual:
                    _exclude(name, "protocol paper, which tests after each epoch and keeps the best")
        if (self.mixup or self.cutmix) and self.batch_size % 2:
            _refuse("batch_size", self.batch_size, "even with mixup or cutmix, which mix images in pairs")

    @property
    def validates(self) -> bool:
        """Whether validation images are kept apart to choose the epoch; if not, they are trained on."""
        return self.train_on == "train" and self.protocol == "honest"

    @property
    def peak_rate(self) -> float:
        """Peak learning rate: the recipe's, or the method's own."""
        return self.learning_rate or find_method(self.method).learning_rate

    def to_dict(self) -> dict[str, Any]:
        """Return all options by name, as they stand in `recipe.yaml`."""
        return asdict(self)

    def digest(self) -> str:
        """Compute the SHA-256, in hexadecimal, of all options that a result depends on: no paths, no machine."""
        content = {name: value for name, value in self.to_dict().items() if name not in ELSEWHERE + REPORTED}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def differences(one: Recipe, other: Recipe) -> list[str]:
    """List the options in which two recipes differ, each as "name: one -> other". Two paths may be one place."""
    pairs = ((option.name, getattr(one, option.name), getattr(other, option.name)) for option in fields(Recipe))
    return [f"{name}: {a} -> {b}" for name, a, b in pairs if a != b and not (name in PLACES and place(a) == place(b))]


def _exclude(name: str, other: str) -> None:
    raise UsageError(f"{name} does not go with {other}: leave it out.", option=name)


def _refuse(name: str, value: Any, expected: str, hint: str = "") -> None:
    raise UsageError(f"{name} must be {expected}, not {shown(value)}.{hint}", option=name)
