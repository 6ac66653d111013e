"""`rlrr train`."""

from __future__ import annotations

import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

from rlrr.cli.parser import Parser
from rlrr.cli.recipe_options import add_recipe_options, given_options
from rlrr.errors import UsageError
from rlrr.recipes.files import RECIPE, find_options, is_tuned, overlay, packaged_recipes, read_options
from rlrr.recipes.recipe import Recipe

USAGE = "DATA [options]"
EXAMPLE = "rlrr train flowers/ --model vit_small_focus --epochs 20 --output run"


def add_arguments(parser: Parser) -> None:
    """Add the data, the folder of the run, a file of options, and the options of a recipe."""
    parser.add_argument(
        "data", metavar="DATA", nargs="?", type=str, help="Folder of images, sample:NAME or hub:OWNER/NAME."
    )
    parser.add_argument("--output", metavar="FOLDER", type=str, default="run", help="Folder for the run.")
    parser.add_argument(
        "--config",
        metavar="FILE",
        type=str | None,
        default=None,
        help="Recipe: a YAML file with options, such as a run's recipe.yaml, or a packaged recipe such as "
        "vtab1k/cifar. Options on the command line override it.",
    )
    parser.add_argument(
        "--resume", type=bool, default=False, help="Go on with the run in --output, by the recipe it was started with."
    )
    parser.add_argument("--overwrite", type=bool, default=False, help="Delete an earlier run in --output first.")
    parser.add_argument("--json", type=bool, default=False, help="Print the result as JSON.")
    add_recipe_options(parser)


def run(options: Any) -> None:
    """Train by the recipe and print the result."""
    given = given_options(options, [option.name for option in fields(Recipe) if option.name != "data"])
    if options.data:
        given["data"] = options.data
    values = overlay(_base(options, given.get("method")), given)
    if not values.get("data"):
        raise UsageError("There is no data to train on: give a folder of images, sample:mnist, or hub:OWNER/NAME.")
    recipe = Recipe(**values)
    if options.config:
        _remark(options.config, recipe)

    from rlrr.cli.show import print_json, print_record
    from rlrr.methods.apply import method_config
    from rlrr.training.run import train

    try:
        method_config(recipe.method, recipe.settings)
    except UsageError as error:
        if options.config is None or "settings" in given:
            raise
        raise UsageError(f"{options.config}: {error}") from error
    record = train(recipe, options.output, resume=options.resume, overwrite=options.overwrite)
    if options.json:
        print_json(record.__dict__)
    else:
        print_record(record, options.output)


def _base(options: Any, method: str | None) -> dict[str, Any]:
    """Read the options of a file or an earlier run, over which those of the command line are put."""
    if options.config:
        return find_options(options.config, method)
    if options.resume and not options.data:  # `--resume` alone goes on by the run's own recipe
        return read_options(Path(options.output) / RECIPE)
    return {}


def _remark(config: str, recipe: Recipe) -> None:
    """Warn of a packaged recipe for another task than the data (by the folder's name), or for another method."""
    name, folder = config.removesuffix(".yaml"), Path(recipe.data).name
    benchmark, _, task = name.rpartition("/")
    packaged = packaged_recipes()
    if name not in packaged or not benchmark:
        return
    if task != folder and f"{benchmark}/{folder}" in packaged:
        print(f"rlrr: {name} is the recipe of {task}, and the data is {folder}", file=sys.stderr)
    if not is_tuned(recipe.method, benchmark):
        print(f"rlrr: {no_recipe(recipe.method, benchmark)}", file=sys.stderr)


def no_recipe(method: str, benchmark: str) -> str:
    """Describe the options of a method without hyper-parameters of its own for a benchmark."""
    return (
        f"{method} has no published hyper-parameters for {benchmark}: it takes the benchmark's images and training "
        f"budget, and {method}'s own defaults"
    )
