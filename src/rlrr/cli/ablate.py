"""`rlrr ablate`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rlrr.cli.measuring import add_measuring, publish, say_runs_only
from rlrr.cli.parser import Parser
from rlrr.cli.recipe_options import add_recipe_options, given_options

USAGE = "DATA [DATA ...] [options]"
EXAMPLE = "rlrr ablate sample:mnist --tables table6 --model vit_small_focus --image-size 70 --output ablation"
TABLES = ("table6", "fig2", "table10", "table11")
_OVERRIDES = (
    *("model", "weights", "image_size", "settings", "epochs", "cooldown", "batch_size", "learning_rate"),
    *("weight_decay", "schedule", "warmup", "drop_path", "drop_path_kind", "precision", "val_fraction"),
    *("device", "workers", "threads"),
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
        "vectors) or table11 (without W); and decay (what it pulls to), which is ours.",
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
    from rlrr.compare.run import plan_fields, run_ablation

    say_runs_only()
    document, outcomes = run_ablation(
        options.data,
        options.output,
        tables=options.tables,
        config=options.config,
        plan=plan_fields(options.protocol, options.seeds, options.rates, (1.0,)),
        jobs=options.jobs,
        options=given_options(options, _OVERRIDES),
    )
    publish(document, Path(options.output), options.json)
    outcomes.raise_failures()
