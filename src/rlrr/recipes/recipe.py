"""What one training run is made of. Only the standard library: `rlrr train --help` reads it."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import Field, asdict, dataclass, fields
from typing import Any, Literal, get_args, get_origin, get_type_hints

from rlrr.errors import UsageError, did_you_mean
from rlrr.recipes.hints import expected

METHODS = ("rlrr", "linear", "full", "lora")
OF_RLRR = (
    "parts",
    "layers_to_transform",
    "sides",
    "residual",
    "multiply_weight",
    "shift",
    "init_weights",
    "gradient_tokens",
)
ELSEWHERE = ("data", "weights", "workers", "threads", "compile")  # they differ from machine to machine
REPORTED = ("log_deviation",)  # they say more and change nothing


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
    parts: list[str] | None = None
    """Parts of the backbone that rlrr adapts, of attn, mlp, norm, patch_embed and downsample; all if not given."""
    layers_to_transform: list[int] | None = None
    """Indices of the blocks that rlrr adapts, as 0,1,2; all if not given."""
    sides: Literal["both", "in", "out"] = "both"
    """Sides of a weight that rlrr rescales: its inputs, its outputs or both."""
    residual: bool = True
    """Keep the frozen weight beside its rescaled copy; false is an ablation of rlrr."""
    multiply_weight: bool = True
    """Rescale the weight; false adds the low-rank scales to it, as LoRA of rank 1 does (an ablation of rlrr)."""
    shift: bool = True
    """Learn shifts too, with rlrr."""
    init_weights: Literal["paper", "identity", "normal", "uniform", "constant"] = "paper"
    """Where the vectors of rlrr start: paper is near the pre-trained function, identity at it."""
    epochs: int = 30
    """Passes over the training images."""
    cooldown: int = 0
    """Further epochs: at the lowest learning rate in the paper's schedule; restarts run on through them."""
    batch_size: int = 32
    """Images in a step, before gradient accumulation."""
    accumulate: int = 1
    """Steps whose gradients are added up before the weights change."""
    learning_rate: float | None = None
    """Peak learning rate of AdamW; the method's own if not given (rlrr 5e-3, linear 1e-2, full 5e-5, lora 1e-3)."""
    weight_decay: float = 1e-4
    """Weight decay, in the paper's groups: shifts, norms and biases do not decay."""
    schedule: Literal["cosine", "paper", "restarts"] = "cosine"
    """Of the learning rate: cosine to 0, by steps; the paper's, by epochs; or cosine with restarts, by epochs."""
    warmup: float = 0.1
    """Share of the epochs in which the learning rate rises, from 0, or 1e-7 in the paper's; none with restarts."""
    restart_epochs: int = 10
    """Epochs before the first restart, with that schedule."""
    restart_factor: int = 1
    """How many times longer each period is than the one before, with restarts."""
    drop_path: float = 0.0
    """Drop path at the last block; it rises linearly from 0 at the first. A linear probe has none."""
    drop_path_kind: Literal["stochastic_depth", "paper"] = "stochastic_depth"
    """Drop whole branches of a sample, or, as the paper's code for ViTs, single elements of their outputs."""
    label_smoothing: float = 0.0
    """Share of each label that is spread over all classes."""
    flip: bool = False
    """Mirror training images left to right at random. Not for digits, text or directions."""
    crop_mode: Literal["center", "squash", "border"] | None = None
    """How images become square (timm's word); the backbone's own way if not given. Squash ignores the aspect."""
    crop_pct: float | None = None
    """Share of the resized image's side that is cropped from its centre; the backbone's own if not given."""
    normalization: Literal["imagenet", "half"] | None = None
    """Mean and deviation of the pixels: ImageNet's, or 0.5; those the backbone was trained with if not given."""
    random_crop: list[float] | None = None
    """Bounds of the share of the area that RandomResizedCrop keeps, as 0.5,1; no random crop if not given."""
    random_position: bool = False
    """Crop training images at a random place instead of the centre; needs a crop_pct below 1."""
    mixup: float = 0.0
    """Alpha of mixup; 0 is off."""
    cutmix: float = 0.0
    """Alpha of CutMix; 0 is off."""
    ema: float | None = None
    """Decay of a moving average of the trained weights, by steps, as 0.9998; the average is what is kept."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Arithmetic: auto is bf16 where the device has it in hardware, else fp32."""
    gradient_tokens: float = 1.0
    """Share of tokens from which the scales' gradient is estimated, as 0.25: less time and memory; 1 is exact."""
    frozen: Literal["fp32", "bf16"] = "fp32"
    """Type in which frozen weights are held: bf16 halves their memory and rounds them; needs bf16 arithmetic."""
    compile: bool = False
    """Compile the model with torch.compile, which takes a C++ compiler, and minutes before the first step."""
    val_fraction: float = 0.2
    """Share of the training images kept for validation if the data has no such split."""
    train_on: Literal["train", "trainval"] = "train"
    """Images to train on; trainval adds the validation images, so that the last epoch is kept."""
    protocol: Literal["honest", "paper"] = "honest"
    """paper is the published practice: train on trainval, test after each epoch, report the best. Not comparable."""
    select: Literal["best", "last"] = "best"
    """Keep the epoch with the best validation accuracy (of equal ones the latest), or the last one."""
    test: bool = True
    """Measure the accuracy on the test images, if there are any, once, when training is over."""
    early_stop: int | None = None
    """Stop after this many epochs without a better validation accuracy."""
    log_deviation: bool = False
    """Log after each epoch how far the weights have moved from pre-training, in all and by block."""
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
        self._check_types()
        if self.method not in METHODS:
            _refuse("method", self.method, f"one of {', '.join(METHODS)}", did_you_mean(self.method, METHODS))
        counts = ("epochs", "batch_size", "accumulate", "image_size", "rank", "early_stop", "threads")
        for name in (*counts, "restart_epochs", "restart_factor"):
            _check(name, getattr(self, name), "1 or more", lambda value: value >= 1)
        for name in ("weight_decay", "mixup", "cutmix", "workers", "seed", "cooldown"):
            _check(name, getattr(self, name), "0 or more", lambda value: value >= 0)
        for name in ("warmup", "drop_path", "label_smoothing"):
            _check(name, getattr(self, name), "from 0 to below 1", lambda value: 0 <= value < 1)
        _check("learning_rate", self.learning_rate, "above 0", lambda value: 0 < value < math.inf)
        _check("val_fraction", self.val_fraction, "between 0 and 1", lambda value: 0 < value < 1)
        _check("ema", self.ema, "between 0 and 1", lambda value: 0 < value < 1)
        for name in ("crop_pct", "gradient_tokens"):
            _check(name, getattr(self, name), "above 0 and at most 1", lambda value: 0 < value <= 1)
        _check("random_crop", self.random_crop, "two shares of the area, as 0.5,1, the lower first", _is_range)
        self._refuse_combinations()

    def _check_types(self) -> None:
        for name, hint in get_type_hints(type(self)).items():
            if not _fits(value := getattr(self, name), hint):
                words, choices = expected(hint)
                _refuse(name, value, words, did_you_mean(str(value), choices))

    def _refuse_combinations(self) -> None:
        if self.method in ("linear", "full") and (self.rank or self.target_modules):
            name = "rank" if self.rank else "target_modules"
            _exclude(name, f"--method {self.method}, which has none")
        if self.method != "rlrr" and (settings := self.rlrr_settings()):
            _exclude(next(iter(settings)), f"--method {self.method}, as it is an option of rlrr")
        if self.frozen == "bf16" and self.method == "full":
            _exclude("frozen", "--method full, which freezes nothing")
        if self.frozen == "bf16" and self.precision not in ("bf16", "auto"):
            _exclude("frozen", f"--precision {self.precision}, as bf16 weights need bf16 arithmetic")
        if self.cooldown and self.schedule == "cosine":
            _exclude("cooldown", "--schedule cosine, which ends at 0")
        if self.schedule != "restarts" and (self.restart_epochs, self.restart_factor) != (10, 1):
            _exclude("restart_epochs" if self.restart_epochs != 10 else "restart_factor", f"--schedule {self.schedule}")
        if self.random_crop is not None and self.random_position:
            _exclude("random_position", "--random_crop, which crops at random places too")
        if self.train_on == "trainval" and self.early_stop:
            _exclude("early_stop", "--train_on trainval, which has no validation images")
        if self.protocol == "paper":
            for name, usual in (("early_stop", None), ("test", True), ("select", "best")):
                if getattr(self, name) != usual:
                    _exclude(name, "--protocol paper, which tests after each epoch and keeps the best")
        if (self.mixup or self.cutmix) and self.batch_size % 2:
            _refuse("batch_size", self.batch_size, "even with mixup or cutmix, which mix images in pairs")

    @property
    def validates(self) -> bool:
        """Whether validation images are kept apart and chosen on; else all are trained on."""
        return self.train_on == "train" and self.protocol == "honest"

    def rlrr_settings(self) -> dict[str, Any]:
        """The options of rlrr alone that are not at their defaults, by their names in `RLRRConfig`."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name in OF_RLRR and self._is_set(f)}

    def _is_set(self, option: Field[Any]) -> bool:
        return getattr(self, option.name) != option.default

    def to_dict(self) -> dict[str, Any]:
        """All options by name, as they stand in `recipe.yaml`."""
        return asdict(self)

    def digest(self) -> str:
        """SHA-256, in hexadecimal, of all that the result depends on: not of paths, nor of what differs by machine."""
        content = {name: value for name, value in self.to_dict().items() if name not in ELSEWHERE + REPORTED}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def differences(one: Recipe, other: Recipe) -> list[str]:
    """The options in which two recipes differ, each as "name: one -> other"; a path is the same with a last slash."""
    pairs = ((field.name, getattr(one, field.name), getattr(other, field.name)) for field in fields(Recipe))
    return [f"{name}: {a} -> {b}" for name, a, b in pairs if _without_slash(a) != _without_slash(b)]


def _without_slash(value: Any) -> Any:
    return value.rstrip("/") if isinstance(value, str) else value


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value is of a type; a whole number is a number too, and true is not 1."""
    if (kind := get_origin(hint)) is Literal:
        return value in get_args(hint)
    if kind is list:
        return isinstance(value, list) and all(_fits(one, get_args(hint)[0]) for one in value)
    if kind is not None:  # a type or None
        return any(_fits(value, one) for one in get_args(hint))
    if isinstance(value, bool):
        return hint is bool
    return isinstance(value, (int, float) if hint is float else hint)


def _is_range(bounds: list[float]) -> bool:
    return len(bounds) == 2 and 0 < bounds[0] <= bounds[1] <= 1


def _check(name: str, value: Any, expected: str, holds: Any) -> None:
    if value is not None and not holds(value):
        _refuse(name, value, expected)


def _exclude(name: str, other: str) -> None:
    raise UsageError(f"--{name} does not go with {other}: leave it out.")


def _refuse(name: str, value: Any, expected: str, hint: str = "") -> None:
    raise UsageError(f"--{name} must be {expected}, not {value!r}.{hint}")
