"""`rlrr ablate`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rlrr.cli.measuring import add_measuring, plan_of, publish, say, say_runs_only
from rlrr.cli.parser import Parser
from rlrr.cli.recipe_options import add_recipe_options, given_options

USAGE = "DATA [DATA ...] [options]"
EXAMPLE = "rlrr ablate sample:mnist --tables table6 --model vit_small_focus --image-size 70 --output ablation"
TABLES = ("table6", "fig2", "table10", "table11")
_OVERRIDES = (
    *("model", "weights", "image_size", "settings", "epochs", "cooldown", "batch_size", "learning_rate"),
    *("weight_decay", "schedule", "warmup", "drop_path", "drop_path_kind", "precision", "val_fraction"),
    *("workers", "threads"),
)


def add_arguments(parser: Parser) -> None:
    """Add the data, the tables, and the recipe of the full method."""
    parser.add_argument(
        "data", metavar="DATA", nargs="+", type=str, help="Folders of images, sample:NAME or hub:OWNER/NAME."
    )
    parser.add_argument(
        "--tables",
        metavar="TABLE",
        nargs="+",
        type=str,
        default=list(TABLES),
        help="Tables of the paper: table6 (sides and residual), fig2 (parts and blocks), table10 (start of the "
        "vectors) or table11 (without W).",
    )
    parser.add_argument(
        "--output", metavar="FOLDER", type=str, default="ablation", help="Folder for the runs and the tables."
    )
    parser.add_argument(
        "--config",
        metavar="FILE",
        type=str | None,
        default=None,
        help="Recipe of the full method: a YAML file, or a packaged recipe such as vtab1k/cifar. By default the "
        "paper's recipe for a folder of VTAB-1k or FGVC, and the defaults of rlrr train for other data. Options given "
        "here take precedence.",
    )
    add_measuring(parser, rates="1, the same rate for all variants")
    add_recipe_options(parser, _OVERRIDES)


def run(options: Any) -> None:
    """Run the variations that have no result yet, and print the tables."""
    from rlrr.backbones import load_backbone
    from rlrr.compare.ablation import ablation_jobs, ablation_tables, data_names, depth_of
    from rlrr.compare.benchmarks import changes, recipe_of
    from rlrr.compare.document import ablation_document, paper_recipe, recipe_options
    from rlrr.compare.plan import Plan
    from rlrr.compare.runner import run_jobs
    from rlrr.methods.apply import method_config
    from rlrr.recipes.files import find_options, overlay
    from rlrr.recipes.recipe import Recipe

    say_runs_only()
    changed, protocol, output = given_options(options, _OVERRIDES), plan_of(options, (1.0,)), Path(options.output)
    plans, recipes = {}, {}
    for data, name in data_names(options.data).items():
        packaged = None if options.config else recipe_of(data)
        source = options.config or packaged
        recipe = Recipe(**overlay(find_options(source) if source else {}, changed | {"data": data}))
        method_config(recipe.method, recipe.settings)
        plans[name] = Plan(recipe, **protocol)
        recipes[name] = paper_recipe(changes(changed)) if packaged else recipe_options(recipe)
    depth = 1
    if "fig2" in options.tables:
        depth = depth_of(load_backbone(recipe.model, num_classes=0, weights=recipe.weights).model)
    tables = ablation_tables(options.tables, depth)
    jobs = ablation_jobs(tables, plans, output)
    outcomes = run_jobs([job for data_jobs in jobs.values() for job in data_jobs.values()], options.jobs, say)
    results = {
        data: {name: outcomes.results[job.name] for name, job in data_jobs.items() if job.name in outcomes.results}
        for data, data_jobs in jobs.items()
    }
    publish(ablation_document(tables, plans, results, recipes, outcomes.preprocessing), output, options.json)
    outcomes.raise_failures()
