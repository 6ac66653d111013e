"""`rlrr analyze`."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import Any

from rlrr.cli.machine import add_machine, machine_of
from rlrr.cli.parser import Parser
from rlrr.errors import UsageError
from rlrr.files import remove_remains

USAGE = "RUN [RUN ...] [options]"
EXAMPLE = "rlrr analyze run-rlrr run-lora --output analysis"


def add_arguments(parser: Parser) -> None:
    """Add the runs, the comparison's options and the output folder."""
    parser.add_argument(
        "runs",
        metavar="RUN",
        type=str,
        nargs="+",
        help="Folders of finished runs, of any method. With --start also folders of PEFT adapters, folders of models, "
        "or files of weights (.safetensors, .pth).",
    )
    parser.add_argument(
        "--start",
        metavar="MODEL",
        type=str | None,
        default=None,
        help="Weights before tuning, for everything but runs: a backbone's name, a folder or a file.",
    )
    parser.add_argument(
        "--images",
        metavar="DATA",
        type=str | None,
        default=None,
        help="Images on which features are compared too (64 at most): a folder, sample:NAME or hub:OWNER/NAME.",
    )
    parser.add_argument(
        "--output",
        metavar="FOLDER",
        type=str | None,
        default=None,
        help="Folder for the report and the numbers; by default RUN/analysis, overwritten, if there is one run.",
    )
    parser.add_argument(
        "--directions", type=int, default=16, help="Number of leading singular directions whose subspaces are compared."
    )
    parser.add_weights()
    parser.add_argument("--json", type=bool, default=False, help="Print the means of each run as JSON.")
    add_machine(parser, "device", "threads")


def run(options: Any) -> None:
    """Analyse the runs, print a line for each and the path of the report."""
    folder = _output(options.runs, options.output)
    from rlrr.cli.show import print_json, print_table
    from rlrr.spectral.analyze import DATA, REPORT, TABLE, analyze
    from rlrr.spectral.export import summary
    from rlrr.spectral.report.page import table

    analyses = analyze(
        options.runs,
        folder,
        start=options.start,
        **machine_of(options),
        images=options.images,
        directions=options.directions,
        commands=[_typed(options)],
    )
    if options.json:
        print_json([summary(analysis) for analysis in analyses])
        return
    shown = table(analyses)
    print_table(shown.columns, shown.rows)
    for analysis in analyses:
        if not analysis.rows:
            print(f"\n{analysis.label}: {analysis.method} changes no weight: the report compares features alone.")
    print(f"\nreport   {folder / REPORT}\nnumbers  {folder / DATA}\n         {folder / TABLE}")


def _output(runs: list[str], output: str | None) -> Path:
    """Choose the output folder; only the default folder of an earlier analysis is overwritten."""
    if output is None:
        if len(runs) > 1 or os.path.isfile(runs[0]):  # `Path.is_file` fails on a name that is too long
            raise UsageError("Where to? Give a folder with --output.")
        return Path(runs[0]) / "analysis"
    remove_remains(Path(output))
    if Path(output).exists() and (not Path(output).is_dir() or any(Path(output).iterdir())):
        raise UsageError(f"{output} is not empty: give another --output.")
    return Path(output)


def _typed(options: Any) -> str:
    """Return the command line, for the report."""
    names = ("start", "images", "directions", "weights", "output")
    given = [(f"--{name}", str(value)) for name in names if (value := getattr(options, name)) is not None]
    return shlex.join(["rlrr", "analyze", *options.runs, *(word for pair in given for word in pair)])
