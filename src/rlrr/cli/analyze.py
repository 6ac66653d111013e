"""`rlrr analyze`."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import Any

from rlrr.cli.parser import Parser
from rlrr.errors import UsageError

USAGE = "RUN [RUN ...] [options]"
EXAMPLE = "rlrr analyze run-rlrr run-lora --output analysis"


def add_arguments(parser: Parser) -> None:
    """Add the runs, the accuracy of the analysis, and the folder of the report."""
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
        help="Pre-trained model, if RUN is no run of rlrr train: the name of a backbone, a folder or a file.",
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
        help="Folder for the report and the numbers. By default RUN/analysis, which is overwritten; needed with "
        "several runs.",
    )
    parser.add_argument(
        "--directions", type=int, default=16, help="Number of leading singular directions whose subspaces are compared."
    )
    parser.add_argument(
        "--rank",
        type=int | None,
        default=None,
        help="Number of singular directions to compute, for large models: by a randomised SVD whose error is shown. "
        "Rotation is then left out, and ranks are bounds.",
    )
    parser.add_weights()
    parser.add_argument("--json", type=bool, default=False, help="Print the means of each run as JSON.")


def run(options: Any) -> None:
    """Analyse the runs, print a line for each and the path of the report."""
    folder = _output(options.runs, options.output)
    from rlrr.cli.show import print_json, print_table
    from rlrr.spectral.analyze import DATA, REPORT, TABLE, analyze
    from rlrr.spectral.export import summary
    from rlrr.spectral.report.page import table, truncation

    analyses = analyze(
        options.runs,
        folder,
        start=options.start,
        weights=options.weights,
        images=options.images,
        directions=options.directions,
        rank=options.rank,
        commands=[_command(options)],
    )
    if options.json:
        print_json([summary(analysis) for analysis in analyses])
        return
    shown = table(analyses)
    print_table(shown.columns, shown.rows)
    if bounds := truncation(analyses):
        print(f"\n{bounds}")
    print(f"\nreport   {folder / REPORT}\nnumbers  {folder / DATA}\n         {folder / TABLE}")


def _output(runs: list[str], output: str | None) -> Path:
    """Choose the folder of the report. Only the default folder of a run may hold an earlier report.

    Raises:
        UsageError: no folder is given where one is needed, or the given one is not empty.
    """
    if output is None:
        if len(runs) > 1 or os.path.isfile(runs[0]):  # Path.is_file would fail on a name that is too long
            raise UsageError("The report needs a folder: give one with --output.")
        return Path(runs[0]) / "analysis"
    if Path(output).exists() and (not Path(output).is_dir() or any(Path(output).iterdir())):
        raise UsageError(f"{output} is not empty: give another --output.")
    return Path(output)


def _command(options: Any) -> str:
    """Write the command with the given options, for the report."""
    names = ("start", "images", "directions", "rank", "weights", "output")
    given = [(f"--{name}", str(value)) for name in names if (value := getattr(options, name)) is not None]
    return shlex.join(["rlrr", "analyze", *options.runs, *(word for pair in given for word in pair)])
