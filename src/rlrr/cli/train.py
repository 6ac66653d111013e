"""`rlrr train`."""

from __future__ import annotations

import sys
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from rlrr.cli.parser import Parser
from rlrr.errors import UsageError
from rlrr.recipes.files import packaged_recipes
from rlrr.recipes.recipe import Recipe

USAGE = "DATA [options]"
EXAMPLE = "rlrr train flowers/ --model vit_small_focus --epochs 20 --output run"


def add_arguments(parser: Parser) -> None:
    """The options of a recipe, and where to put the run."""
    parser.add_argument(
        "data", metavar="DATA", nargs="?", type=str, help="Folder of images, sample:NAME or hub:OWNER/NAME."
    )
    parser.add_argument("--output", metavar="FOLDER", type=str, default="run", help="Folder to write the run to.")
    parser.add_argument(
        "--config",
        metavar="FILE",
        type=str | None,
        default=None,
        help="YAML file with options, such as a run's recipe.yaml, or a packaged recipe, such as vtab1k/cifar; options "
        "given here come before it.",
    )
    parser.add_argument("--resume", type=bool, default=False, help="Go on with the run in --output, by its own recipe.")
    parser.add_argument("--overwrite", type=bool, default=False, help="Delete an earlier run in --output first.")
    parser.add_argument("--json", type=bool, default=False, help="Print the result as JSON.")
    parser.add_class_arguments(Recipe, skip={"data"})


def run(options: Any) -> None:
    """Train and say what came out."""
    values = options.as_dict()
    output, resume, overwrite, as_json = (values.pop(name) for name in ("output", "resume", "overwrite", "json"))
    _warn_of_another_task(values.pop("config"), values["data"])
    if not values["data"] and not resume:
        raise UsageError("Say what to train on: a folder of images, sample:mnist, or hub:OWNER/NAME.")

    from rlrr.cli.show import print_json, print_record
    from rlrr.recipes.files import RECIPE, read_recipe
    from rlrr.training.run import train

    if values["data"]:
        recipe = Recipe(**values)
    else:  # `--resume` alone goes on by the run's own recipe; what is given beside it has to agree
        given = {f.name: values[f.name] for f in fields(Recipe) if f.name != "data" and values[f.name] != f.default}
        recipe = replace(read_recipe(Path(output) / RECIPE), **given)
    record = train(recipe, output, resume=resume, overwrite=overwrite)
    if as_json:
        print_json(record.__dict__)
    else:
        print_record(record, output)


def _warn_of_another_task(config: str | None, data: str | None) -> None:
    """Say so if a packaged recipe is of another task than the data, by the name of its folder."""
    recipe, folder = (config or "").removesuffix(".yaml"), Path(data or "").name
    kind, _, task = recipe.rpartition("/")
    if task != folder and {recipe, f"{kind}/{folder}"} <= set(packaged_recipes()):
        print(f"rlrr: {config} is the recipe of {task}, and the data is {folder}", file=sys.stderr)
