"""Recipes as YAML: the one reader and writer, and the packaged recipes by name.

`benchmarks/NAME.yaml` holds what a benchmark gives every method: its images and the training budget. `METHOD/NAME.yaml`
holds what a method adds. Both have the options of all tasks under `all`; a benchmark has a row for each task, and a
method for those that differ.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any, get_type_hints

import yaml

from rlrr.errors import RLRRError, UsageError, did_you_mean
from rlrr.files import at_line, atomic
from rlrr.hints import members
from rlrr.recipes.places import found, heading
from rlrr.recipes.recipe import Recipe

RECIPE = "recipe.yaml"
_FOLDER = Path(str(files(__package__)))
_BENCHMARKS = "benchmarks"
_METHOD_OPTIONS = ("settings", "objective")
# Options that are chosen for a method. The others are of the data, the backbone, the training budget or the machine.
_TUNED = (
    *("learning_rate", "weight_decay", "schedule", "warmup", "cooldown", "restart_epochs", "restart_factor"),
    *("drop_path", "drop_path_kind", "ema"),
)


class _Loader(yaml.SafeLoader):
    """Safe YAML in which 1e-3 is a number; for YAML it is text, since it has no point."""


class _Dumper(yaml.SafeDumper):
    """Safe YAML in which the text "1e-3" has quotes."""


for _kind in (_Loader, _Dumper):
    _kind.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(r"[-+]?\d+[eE][-+]?\d+$"), list("-+0123456789"))


def parse_yaml(text: str) -> Any:
    """Parse YAML in which 1e-3 is a number.

    Raises:
        yaml.YAMLError: the text is not YAML.
    """
    return yaml.load(text, _Loader)


def packaged_recipes() -> list[str]:
    """List the names of the packaged recipes, in order: BENCHMARK/TASK, and those of a file of their own."""
    benchmarks = {benchmark: _content(_BENCHMARKS, benchmark).keys() - {"all"} for benchmark in _benchmarks()}
    tasks = [f"{benchmark}/{task}" for benchmark, rows in benchmarks.items() for task in rows]
    return sorted([*tasks, *(path.stem for path in _FOLDER.glob("*.yaml"))])


def packaged_options(name: str, method: str | None = None) -> dict[str, Any]:
    """Return the options of a packaged recipe for a method. The option `data` is the usual folder of the images.

    A method without a recipe of its own takes the benchmark's images and training budget, and defaults for the rest.

    Args:
        name: As "vtab1k/cifar", with or without `.yaml`.
        method: Name of a method; None for the recipe's own, which is rlrr for the tasks of a benchmark.

    Raises:
        UsageError: there is no recipe of this name.
    """
    bare = name.removesuffix(".yaml")
    if bare not in (names := packaged_recipes()):
        raise UsageError(f"There is no packaged recipe {name!r}.{did_you_mean(bare, names)}")
    benchmark, _, task = bare.rpartition("/")
    if not benchmark:
        return read_options(_FOLDER / f"{bare}.yaml") | ({"method": method} if method else {})
    method = method or "rlrr"
    options = _row(_BENCHMARKS, benchmark, task) | {"method": method}
    return options | (_row(method, benchmark, task) if has_recipe(method, benchmark) else {})


def has_recipe(method: str, benchmark: str) -> bool:
    """Tell whether a method has a packaged recipe of its own for a benchmark, be it of settings alone."""
    return (_FOLDER / method / f"{benchmark}.yaml").is_file()


def is_tuned(method: str, benchmark: str) -> bool:
    """Tell whether a method's packaged recipe for a benchmark has hyper-parameters that its authors chose for it."""
    return has_recipe(method, benchmark) and any(
        not options.keys().isdisjoint(_TUNED) for options in _content(method, benchmark).values()
    )


def load_recipe(name: str, method: str | None = None) -> Recipe:
    """Make the packaged recipe of a name, for a method; see `packaged_options`.

    Raises:
        UsageError: there is no recipe of this name.
    """
    return Recipe(**{"data": ""} | packaged_options(name, method))


def find_options(source: str, method: str | None = None) -> dict[str, Any]:
    """Return the options of a YAML file, of a run by its folder, or of a packaged recipe.

    Where a file names another method than `method`, the options that were chosen for that method are left out.

    Raises:
        RLRRError: there is no such file or packaged recipe, or the file is not a recipe.
    """
    path = Path(source).expanduser()
    if not path.is_file() and source.removesuffix(".yaml") in packaged_recipes():
        return packaged_options(source, method)
    if not path.exists():
        near = did_you_mean(source, packaged_recipes())
        raise UsageError(f"There is no file {source}: give a YAML file, or a packaged recipe.{near}")
    options = read_options(path / RECIPE if path.is_dir() else path)
    if method and method != options.get("method", method):
        options = {name: value for name, value in options.items() if name not in _METHOD_OPTIONS + _TUNED}
    return options


def overlay(options: Mapping[str, Any], others: Mapping[str, Any]) -> dict[str, Any]:
    """Replace options by others of the same name; settings and options of the objective are replaced one by one."""
    joined = {name: options[name] | others[name] for name in _METHOD_OPTIONS if name in options and name in others}
    return dict(options) | dict(others) | joined


def write_recipe(recipe: Recipe, folder: Path) -> None:
    """Write `recipe.yaml`, from which the same run can be started again, also in another folder (see `places`)."""
    with atomic(folder / RECIPE) as temporary:
        text = heading() + yaml.dump(recipe.to_dict(), Dumper=_Dumper, sort_keys=False, allow_unicode=True)
        temporary.write_text(text, encoding="utf-8")


def read_recipe(path: Path) -> Recipe:
    """Read a recipe from YAML. A file without `data` is allowed, for commands that are given the data apart.

    Raises:
        RLRRError: the file is missing, or has a key or value that no recipe has.
    """
    return Recipe(**{"data": ""} | read_options(path))


def read_options(path: Path) -> dict[str, Any]:
    """Read the options that a YAML file sets. Paths in a run's recipe are found from another folder too.

    Raises:
        RLRRError: the file is missing, or has a key or value that no recipe has; the message names the line.
    """
    try:
        text = path.read_text(encoding="utf-8")
        content = parse_yaml(text)
    except FileNotFoundError:
        raise RLRRError(f"There is no recipe {path}.") from None
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:  # an impossible date is a ValueError
        raise UsageError(f"{path} is not a recipe: {' '.join(str(error).split())}.") from None
    if not isinstance(content, dict):
        raise UsageError(f"{path} is not a recipe: each line is an option, such as `epochs: 20`.")
    hints = get_type_hints(Recipe)
    if unknown := [str(key) for key in content if key not in hints]:
        raise UsageError(
            f"{at_line(path, text, unknown[0])}: there is no option {unknown[0]!r}.{did_you_mean(unknown[0], hints)} "
            "The options of a method stand under settings, as `settings: {rank: 2}`.",
            option=unknown[0],
        )
    options = found({key: _number(value, hints[key]) for key, value in content.items()}, text)
    try:
        Recipe(**{"data": ""} | options)
    except RLRRError as error:
        option = error.option or ""
        raise UsageError(f"{at_line(path, text, option)}: {error}", option=option) from error
    return options


def _number(value: Any, hint: Any) -> Any:
    """Convert a whole number to float where the option is a float, so that equal recipes have one digest."""
    if list[float] in members(hint) and isinstance(value, list):
        return [_number(member, float) for member in value]
    try:
        return float(value) if type(value) is int and float in members(hint) else value
    except OverflowError:
        return math.inf


def _benchmarks() -> list[str]:
    return [path.stem for path in (_FOLDER / _BENCHMARKS).glob("*.yaml")]


def _row(folder: str, benchmark: str, task: str) -> dict[str, Any]:
    """Read the row of a task, which a method's file need not have, over the options of all tasks."""
    content = _content(folder, benchmark)
    return overlay(content.get("all", {}), content.get(task, {}))


def _content(folder: str, benchmark: str) -> dict[str, dict[str, Any]]:
    return parse_yaml((_FOLDER / folder / f"{benchmark}.yaml").read_text(encoding="utf-8"))
