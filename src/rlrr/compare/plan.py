"""What is measured on one task, and how; and what came out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from rlrr.errors import UsageError
from rlrr.methods.apply import methods
from rlrr.recipes.recipe import Recipe

Protocol = Literal["honest", "paper"]

SEEDS, PAPER_SEED = (0, 1, 2), 42
RATES = (0.3, 1.0, 3.0)


@dataclass(frozen=True)
class Plan:
    """What is measured on one task, and how.

    Attributes:
        recipe: Its `train_on`, `protocol`, `select`, `test` and `seed` are those of the protocol instead.
        protocol: honest or paper.
        seeds: One run each; in the paper's protocol one.
        rates: Factors of the recipe's learning rate to choose from; one alone is taken without tuning.
    """

    recipe: Recipe
    protocol: Protocol = "honest"
    seeds: tuple[int, ...] = SEEDS
    rates: tuple[float, ...] = RATES

    def __post_init__(self) -> None:
        """Refuse what cannot be measured.

        Raises:
            RLRRError: naming the option.
        """
        if self.recipe.early_stop:
            raise UsageError("The recipe has early_stop: leave it out, since all epochs are run here.")
        if not self.seeds or len(set(self.seeds)) < len(self.seeds) or min(self.seeds) < 0:
            raise UsageError(f"--seeds must be different and 0 or more, not {listed(self.seeds)}.")
        if not self.rates or len(set(self.rates)) < len(self.rates) or min(self.rates) <= 0:
            raise UsageError(f"--rates must be different and above 0, not {listed(self.rates)}.")
        if self.protocol == "paper" and (len(self.seeds) > 1 or self.rates != (1.0,)):
            raise UsageError("--protocol paper is one seed at the recipe's own learning rate.")
        for rate in self.rates:
            self.tested(self.seeds[0], rate)

    def tuned(self, rate: float) -> Recipe:
        """The run that shows, on validation images, how good a factor of the learning rate is."""
        return replace(self.tested(self.seeds[0], rate), train_on="train", test=False)

    def tested(self, seed: int, rate: float) -> Recipe:
        """The run whose accuracy on the test images is the result for a seed."""
        if self.protocol == "paper":
            return replace(self.recipe, protocol="paper", select="best", test=True, seed=seed)
        honest = replace(self.recipe, protocol="honest", select="last", train_on="trainval", test=True, seed=seed)
        return replace(honest, learning_rate=learning_rate(self.recipe, rate))

    @property
    def epoch(self) -> str:
        """Which epoch's number it is, in three words."""
        return "best test epoch" if self.protocol == "paper" else "last epoch"

    @property
    def label(self) -> str:
        """What the number is, in words; it stands wherever the number does."""
        if self.protocol == "paper":
            return self.epoch
        rate = "chosen on validation images" if len(self.rates) > 1 else "not tuned"
        return f"{self.epoch}, tested once; learning rate {rate}"

    def options(self) -> dict[str, Any]:
        """What a result depends on but the data, as it stands in `options.json`."""
        return {
            "protocol": self.protocol,
            "seeds": list(self.seeds),
            "rates": list(self.rates),
            "recipe": self.recipe.to_dict(),
        }


@dataclass(frozen=True)
class Result:
    """What came out, as it stands in `result.json`. Accuracies are fractions.

    Attributes:
        name: Of the task.
        protocol: The plan's.
        label: What the accuracies are: `Plan.label`.
        seeds: The plan's.
        rates: The plan's.
        recipe: The plan's, before the learning rate was chosen.
        recipe_sha256: Its digest.
        backbone: Its name.
        fingerprint: SHA-256 of its weights.
        data_sha256: Of the training and validation images, by seed; the same number unless the seed draws the split.
        test_sha256: Of the test images, by seed.
        accuracies: By seed.
        mean: Over the seeds.
        deviation: Of a sample, over the seeds; None of a single one.
        candidates: Each with its `rate`, `learning_rate` and `val_accuracy`; none if nothing was tuned.
        rate: The factor that was chosen.
        learning_rate: What it gives.
        images: Numbers of those trained on at last (`train`), tuned on (`val`) and tested on (`test`).
        parameters: Numbers of trained ones, in the `adapter` and the `head`.
        versions: Of the libraries.
        device: What was trained on.
        seconds: Of training, over all runs.
        peak_memory_mb: The most in any run, in MiB: of the GPU, or else of the process.
    """

    name: str
    protocol: Protocol
    label: str
    seeds: list[int]
    rates: list[float]
    recipe: dict[str, Any]
    recipe_sha256: str
    backbone: str
    fingerprint: str
    data_sha256: list[str]
    test_sha256: list[str]
    accuracies: list[float]
    mean: float
    deviation: float | None
    candidates: list[dict[str, float]]
    rate: float
    learning_rate: float
    images: dict[str, int]
    parameters: dict[str, int]
    versions: dict[str, str]
    device: str
    seconds: float
    peak_memory_mb: int | None


def learning_rate(recipe: Recipe, rate: float = 1.0) -> float:
    """The peak rate of a recipe times a factor, without the dust of floating point."""
    own = recipe.learning_rate or methods()[recipe.method].learning_rate
    return float(f"{own * rate:.12g}")


def plain(number: float) -> str:
    """All digits of a number that tell it from others, and no more: 1, 0.3."""
    return repr(number).removesuffix(".0")


def listed(numbers: Sequence[float]) -> str:
    """Numbers with all their digits."""
    return " ".join(map(plain, numbers))
