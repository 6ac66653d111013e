"""VTAB-1k and FGVC to run: tasks, the recipe of a method for each task, and the folders of the images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlrr.compare.plan import Plan
from rlrr.compare.runner import Job
from rlrr.data.benchmarks.fgvc import SETS, find_set, is_fgvc, set_of
from rlrr.data.benchmarks.lists import folder_name
from rlrr.data.benchmarks.vtab import TASKS, is_vtab
from rlrr.errors import RLRRError, UsageError, did_you_mean
from rlrr.recipes.files import overlay, packaged_options
from rlrr.recipes.recipe import Recipe

# Options that make no other recipe of the paper's: where things are, how it is computed, and what the table is of.
_NEUTRAL = ("model", "weights", "method", "threads", "workers")


@dataclass(frozen=True)
class Benchmark:
    """A benchmark.

    Attributes:
        name: As in the names of its recipes and of the paper's numbers.
        groups: The titles of its tasks by name, by the title of their group, in the order of the paper's tables.
        images: Of the original by task: those to train on, with validation, and those to test on.
        variants: Other recipes for it, as folders of packaged recipes by name.
    """

    name: str
    title: str
    groups: Mapping[str, Mapping[str, str]]
    images: Mapping[str, tuple[int, int]]
    variants: Mapping[str, str]

    @property
    def tasks(self) -> dict[str, str]:
        """All titles by name."""
        return {name: title for members in self.groups.values() for name, title in members.items()}

    def chosen(self, names: Sequence[str] | None) -> list[str]:
        """These tasks, in the order of the paper; all if none is named.

        Raises:
            RLRRError: there is no such task.
        """
        for name in names or ():
            if name not in self.tasks:
                message = f"{self.title} has no task {name!r}; it has {', '.join(self.tasks)}."
                raise UsageError(message + did_you_mean(name, self.tasks))
        return [name for name in self.tasks if names is None or name in names]

    def recipe(self, task: str, options: Mapping[str, Any], variant: str | None = None) -> Recipe:
        """Make the recipe of a method (rlrr if `options` names none) for a task, with options in place of its own.

        Raises:
            RLRRError: there is no such variant, or an option is wrong.
        """
        packaged = packaged_options(f"{self.recipes(variant)}/{task}", options.get("method"))
        return Recipe(**overlay(packaged, options))

    def recipes(self, variant: str | None = None) -> str:
        """Give the name of the packaged recipes of a variant.

        Raises:
            UsageError: there is no such variant.
        """
        if variant is None:
            return self.name
        if variant not in self.variants:
            known = f"it has {', '.join(self.variants)}" if self.variants else "it has none"
            raise UsageError(f"{self.title} has no variant {variant!r}; {known}.")
        return self.variants[variant]


_GROUPS = ("natural", "specialized", "structured")
BENCHMARKS = {
    "vtab1k": Benchmark(
        "vtab1k",
        "VTAB-1k",
        {
            group.capitalize(): {name: task.title for name, task in TASKS.items() if task.group == group}
            for group in _GROUPS
        },
        {name: (1000, task.test_images) for name, task in TASKS.items()},
        {},
    ),
    "fgvc": Benchmark(
        "fgvc",
        "FGVC",
        {"FGVC": {name: one.title for name, one in SETS.items()}},
        {name: (one.counts[0] + one.counts[1], one.counts[2]) for name, one in SETS.items()},
        {"aug": "fgvc_aug"},
    ),
}


def changes(options: Mapping[str, Any]) -> dict[str, Any]:
    """Give those of these options that make another recipe of a method than its packaged one."""
    return {name: value for name, value in options.items() if name not in _NEUTRAL}


def without_recipe(method: str, changed: Mapping[str, Any]) -> str:
    """Say by which options a method without a recipe of its own was trained, with those that were changed."""
    differs = "".join(f", {name}={value}" for name, value in changed.items())
    return f"the benchmark's images and training budget, and {method}'s own defaults (it has no recipe here){differs}"


def recipe_of(data: str) -> str | None:
    """The name of the paper's recipe for a folder with a task of VTAB-1k or FGVC; None for other data."""
    folder = Path(data).expanduser()
    if is_vtab(folder) and (name := folder_name(folder)) in TASKS:
        return f"vtab1k/{name}"
    return f"fgvc/{known.name}" if is_fgvc(folder) and (known := set_of(folder)) else None


def benchmark_jobs(
    benchmark: Benchmark,
    root: Path,
    plan: Mapping[str, Any],
    options: Mapping[str, Any],
    output: Path,
    variant: str | None = None,
) -> dict[str, Job]:
    """A job for each task of a benchmark, by name. No data is looked at.

    Args:
        root: Folder with a folder for each task.
        plan: What `Plan` takes beside the recipe.
        options: Of a recipe, in place of the paper's.
        output: Gets a folder for each task.
        variant: Of `benchmark.variants`.
    """
    return {
        name: Job(
            name,
            Plan(benchmark.recipe(name, {**options, "data": str(task_folder(benchmark, root, name))}, variant), **plan),
            output / name,
        )
        for name in benchmark.tasks
    }


def task_folder(benchmark: Benchmark, root: Path, name: str) -> Path:
    """Return the folder of a task, whether it exists or not."""
    if benchmark.name == "vtab1k":
        return root / name
    try:
        return find_set(root, name)
    except RLRRError:
        return root / SETS[name].folders[0]


def check_task_folders(benchmark: Benchmark, root: Path, jobs: Mapping[str, Job]) -> None:
    """Refuse to start if the folder of a task is not there.

    Raises:
        RLRRError: naming all that are missing.
    """
    if not root.is_dir():
        raise UsageError(f"There is no folder {root}: give the one that holds the tasks of {benchmark.title}.")
    if missing := [name for name, job in jobs.items() if not Path(job.plan.recipe.data).is_dir()]:
        raise UsageError(
            f"{root} has no folder of {', '.join(missing)}: put what is missing there, or choose others with --tasks.",
        )
