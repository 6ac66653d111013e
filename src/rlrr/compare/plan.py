"""The plan of a measurement on one task, and its result."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from rlrr.errors import UsageError
from rlrr.recipes.recipe import Recipe

Protocol = Literal["honest", "paper"]

SEEDS, PAPER_SEED = (0, 1, 2), 42
RATES = (0.3, 1.0, 3.0)


@dataclass(frozen=True)
class Plan:
    """The plan of a measurement on one task.

    Attributes:
        recipe: The recipe to measure; the protocol sets `train_on`, `protocol`, `select`, `test` and `seed` instead.
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
            raise UsageError(f"`seeds` must be different and 0 or more, not {listed(self.seeds)}.")
        if not self.rates or len(set(self.rates)) < len(self.rates) or min(self.rates) <= 0:
            raise UsageError(f"`rates` must be different and above 0, not {listed(self.rates)}.")
        if self.protocol == "paper" and (len(self.seeds) > 1 or self.rates != (1.0,)):
            raise UsageError("`protocol` paper is one seed at the recipe's own learning rate.")
        for rate in self.rates:
            self.tested(self.seeds[0], rate)

    def tuned(self, rate: float) -> Recipe:
        """Give the run that measures a factor of the learning rate on validation images."""
        return replace(self.tested(self.seeds[0], rate), train_on="train", test=False)

    def tested(self, seed: int, rate: float) -> Recipe:
        """Give the run whose accuracy on the test images is the result for a seed."""
        if self.protocol == "paper":
            return replace(self.recipe, protocol="paper", select="best", test=True, seed=seed)
        honest = replace(self.recipe, protocol="honest", select="last", train_on="trainval", test=True, seed=seed)
        return replace(honest, learning_rate=learning_rate(self.recipe, rate))

    def tuning(self) -> dict[str, Recipe]:
        """Give the runs that choose the learning rate, by the names of their folders; none if there is no choice."""
        return {f"rate-{plain(rate)}": self.tuned(rate) for rate in self.rates} if len(self.rates) > 1 else {}

    def testing(self, rate: float) -> dict[str, Recipe]:
        """Give the runs that are tested, one for each seed, by the names of their folders."""
        kind = "paper" if self.protocol == "paper" else "seed"
        return {f"{kind}-{seed}": self.tested(seed, rate) for seed in self.seeds}

    @property
    def epoch(self) -> str:
        """Name the epoch that is reported, in three words."""
        return "best test epoch" if self.protocol == "paper" else "last epoch"

    @property
    def label(self) -> str:
        """Say how the number came about; these words stand wherever the number does."""
        if self.protocol == "paper":
            return self.epoch
        rate = "chosen on validation images" if len(self.rates) > 1 else "not tuned"
        return f"{self.epoch}, tested once; learning rate {rate}"

    def options(self) -> dict[str, Any]:
        """Give all that a result depends on but the data, as it stands in `options.json`."""
        return {
            "protocol": self.protocol,
            "seeds": list(self.seeds),
            "rates": list(self.rates),
            "recipe": self.recipe.to_dict(),
        }


@dataclass(frozen=True)
class Result:
    """The result of a plan, as it stands in `result.json`. Accuracies are fractions.

    Attributes:
        name: Name of the task.
        protocol: Protocol of the plan.
        label: How the accuracies came about: `Plan.label`.
        seeds: Seeds of the plan.
        rates: Factors of the learning rate in the plan.
        recipe: Recipe of the plan, before the learning rate was chosen.
        recipe_sha256: Digest of the recipe.
        backbone: Name of the backbone.
        fingerprint: SHA-256 of the backbone's weights.
        data_sha256: SHA-256 of the training and validation images by seed; equal unless the seed draws the split.
        test_sha256: SHA-256 of the test images, by seed.
        accuracies: Accuracies by seed.
        mean: Mean over the seeds.
        deviation: Sample deviation over the seeds; None for a single one.
        candidates: Each with its `rate`, `learning_rate` and `val_accuracy`; none if nothing was tuned.
        rate: The factor that was chosen.
        learning_rate: The learning rate by that factor.
        images: Numbers of images of the last training (`train`), of tuning (`val`) and of the test (`test`).
        parameters: Numbers of trained parameters in the `adapter` and in the `head`.
        versions: Versions of the libraries.
        device: The device of training.
        seconds: Seconds of training, over all runs.
        peak_memory_mb: Peak memory of any run, in MiB: of the GPU, or else of the process.
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
    """Multiply the peak rate of a recipe by a factor, without the dust of floating point."""
    return float(f"{recipe.peak_rate * rate:.12g}")


def plain(number: float) -> str:
    """Write a number with the digits that tell it from others, and no more: 1, 0.3."""
    return repr(number).removesuffix(".0")


def listed(numbers: Sequence[float]) -> str:
    """Write numbers with all their digits."""
    return " ".join(map(plain, numbers))
