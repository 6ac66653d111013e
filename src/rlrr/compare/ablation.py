"""The paper's ablations of RLRR, as settings of the method."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from pathlib import Path
from typing import Any

from torch import nn

from rlrr.backbones.families import stage_depth
from rlrr.compare.plan import Plan, learning_rate
from rlrr.compare.published import Ablation, published_ablation
from rlrr.compare.runner import Job
from rlrr.data import load_data
from rlrr.errors import UsageError, did_you_mean
from rlrr.recipes.recipe import Recipe
from rlrr.training.schedule import batches_of, step_rates

TABLES = {  # title, and the paper's numbers in `published`
    "table6": ("One side, both sides, with and without the residual (Table 6)", "sides"),
    "fig2": ("Which parts and how many blocks are adapted (Fig. 2)", "parts"),
    "table10": ("Where the vectors start (Table 10)", "init_weights"),
    "table11": ("With and without W (Table 11)", "multiply_weight"),
    "decay": ("What decay pulls to: to W (product form), or to 0 (without residual)", ""),
}
FULL = "full"
PULLS = (0.0, 0.1, 0.5, 1.0)


@dataclass(frozen=True)
class Variation:
    """One row.

    Attributes:
        name: Its name, which is also its folder's.
        title: Its title.
        settings: The settings that differ from the full method's.
        pull: Sum over all steps of the learning rate times the weight decay, which makes the recipe's decay; None
            leaves the recipe its own.
    """

    name: str
    title: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    pull: float | None = None


@dataclass(frozen=True)
class AblationTable:
    """One of the paper's tables: its rows, the full method last, and what the paper prints, if we know."""

    name: str
    title: str
    variations: tuple[Variation, ...]
    paper: Ablation | None

    def printed(self, variation: Variation) -> dict[str, float]:
        """Give the paper's accuracies of a row, in percent; empty if we know of none."""
        rows = self.paper.variants if self.paper else ()
        return next((row.accuracy for row in rows if row.settings == dict(variation.settings)), {})


def ablation_tables(names: Sequence[str], depth: int) -> list[AblationTable]:
    """Make the tables of these names.

    Args:
        names: Names in `TABLES`.
        depth: Number of blocks of the backbone.

    Raises:
        RLRRError: there is no such table.
    """
    if unknown := [name for name in names if name not in TABLES]:
        raise UsageError(
            f"There is no table {unknown[0]!r}; there are {', '.join(TABLES)}.{did_you_mean(unknown[0], TABLES)}",
        )
    full = Variation(FULL, "the full method")
    rows = {
        "table6": (*_sides(), replace(full, title="both sides")),
        "fig2": (*_parts(), *_blocks(depth), replace(full, title=f"all parts of all {depth} blocks")),
        "table10": (*_starts(), replace(full, title="the paper's")),
        "table11": (_without_weight(), replace(full, title="with W")),
        "decay": (*_decays(), replace(full, title="the full method, with the recipe's own decay")),
    }
    return [
        AblationTable(
            name, TABLES[name][0], rows[name], published_ablation(TABLES[name][1]) if TABLES[name][1] else None
        )
        for name in dict.fromkeys(names)
    ]


def ablation_jobs(
    tables: Sequence[AblationTable], plans: Mapping[str, Plan], output: Path
) -> dict[str, dict[str, Job]]:
    """Make the jobs of all tables, by data and variation; a variation that two tables share is one job.

    Args:
        plans: Plans of the full method, by the name of the data; all must have test images.
        output: Gets a folder for each data set, with one for each variation.

    Raises:
        RLRRError: a recipe is an ablation itself, or some data cannot be used.
    """
    settings = (*_sides(), *_parts(), *_blocks(depth=4), *_starts(), _without_weight(), *_decays())
    varied = {name for variation in settings for name in variation.settings}
    images: dict[str, int] = {}
    for title, plan in plans.items():
        recipe = plan.recipe
        if recipe.method != "rlrr":
            raise UsageError(f"The recipe is of {recipe.method}, and the ablations are of rlrr: leave method out.")
        if taken := sorted(varied & recipe.settings.keys()):
            raise UsageError(f"The recipe sets {', '.join(taken)}, which the ablations vary: leave it out.")
        data = load_data(recipe.data, val_fraction=recipe.val_fraction, seed=plan.seeds[0])
        if not data.test:
            raise UsageError(f"{recipe.data} has no test images: give data with a test split.")
        images[title] = len(data.train) + len(data.val)
    variations = {variation.name: variation for table in tables for variation in table.variations}
    return {
        title: {
            name: Job(
                f"{title}, {name}",
                replace(plan, recipe=_varied(plan, variation, images[title])),
                output / title / name,
            )
            for name, variation in variations.items()
        }
        for title, plan in plans.items()
    }


def _varied(plan: Plan, variation: Variation, images: int) -> Recipe:
    """Give the recipe of a variation, with the weight decay whose pull it names.

    Raises:
        UsageError: a pull is named, and the learning rate is yet to be chosen.
    """
    recipe = replace(plan.recipe, settings=plan.recipe.settings | dict(variation.settings))
    if variation.pull is None:
        return recipe
    if len(plan.rates) > 1:
        raise UsageError("The pull of decay depends on the learning rate: give one of `rates`, or leave out decay.")
    batches = batches_of(recipe, images)
    steps = math.ceil(batches / min(recipe.accumulate, batches))
    total = sum(step_rates(recipe, steps, learning_rate(recipe, plan.rates[0])))
    return replace(recipe, weight_decay=float(f"{variation.pull / total:.6g}"))


def data_names(data: Sequence[str]) -> dict[str, str]:
    """Give each data set a short name, which is its folder's; by data.

    Raises:
        RLRRError: two have the same.
    """
    names = {source: re.split(r"[/:]", source.rstrip("/"))[-1] for source in data}
    for name in names.values():
        same = [other for other in names if names[other] == name]
        if len(same) > 1 or not name.strip("."):
            raise UsageError(
                f"The data {' and '.join(same)} have no name of their own ({name!r}): give them one run of rlrr ablate "
                "each, with another `output`.",
            )
    return names


def depth_of(model: nn.Module) -> int:
    """Return the number of blocks of a backbone; in Swin and ResNet of the longest stage.

    Raises:
        RLRRError: the blocks are not known, so that none can be chosen.
    """
    if depth := stage_depth(model):
        return depth
    raise UsageError(f"The blocks of this {type(model).__name__} are not known: leave out `tables` fig2.")


def _sides() -> list[Variation]:
    """Vary the sides. The paper's left vector runs over the inputs, since it writes x W."""
    bare: dict[str, Any] = {"residual": False}
    return [
        Variation("in-no-residual", "inputs only, no residual", {"sides": "in"} | bare),
        Variation("out-no-residual", "outputs only, no residual", {"sides": "out"} | bare),
        Variation("both-no-residual", "both sides, no residual", bare),
        Variation("in", "inputs only", {"sides": "in"}),
        Variation("out", "outputs only", {"sides": "out"}),
    ]


def _parts() -> list[Variation]:
    titles = {"attn": "MHA", "mlp": "FFN", "norm": "LayerNorm"}
    chosen = [parts for size in (1, 2) for parts in combinations(titles, size)]
    return [
        Variation("-".join(parts), " and ".join(titles[part] for part in parts), {"parts": list(parts)})
        for parts in chosen
    ]


def _blocks(depth: int) -> list[Variation]:
    """Adapt the first quarter, half and three quarters of the blocks."""
    numbers = sorted({math.ceil(depth * share / 4) for share in (1, 2, 3)} - {depth})
    return [
        Variation(f"first-{number}", f"first {number} of {depth} blocks", {"layers_to_transform": list(range(number))})
        for number in numbers
    ]


def _starts() -> list[Variation]:
    """Vary the start. The paper's "zero" is taken for one side at zero: two zero vectors would get no gradient."""
    titles = {"normal": "normal", "identity": "zero (one side)", "constant": "constant", "uniform": "uniform"}
    return [Variation(f"start-{start}", title, {"init_weights": start}) for start, title in titles.items()]


def _decays() -> list[Variation]:
    """Vary what decay pulls to, and how far, from one start: the pre-trained weights."""
    forms: dict[str, dict[str, Any]] = {
        "product": {"form": "product"},
        "no-residual": {"residual": False, "init_weights": "identity"},
    }
    targets = {"product": "to W", "no-residual": "to 0"}
    return [
        Variation(f"decay-{name}-{pull:g}", f"decay {targets[name]}, pull {pull:g}", settings, pull)
        for pull in PULLS
        for name, settings in forms.items()
    ]


def _without_weight() -> Variation:
    return Variation("no-weight", "without W", {"multiply_weight": False})
