"""The paper's Table 1 as a measurement: what each way of tuning did to the weights, beside what the paper says of it.

    python benchmarks/spectral.py --output bench/spectral --page docs/spectral.md

It fine-tunes the packaged ViT-S/14 on the offline samples by each of `CASES`, measures every run as `rlrr analyze`
does, and writes the page out of spectral.md.jinja, whose statements take their numbers, and whether they hold, from the
runs. It goes on where it was stopped: a run that is there is not made again.

    linear       the classifier alone
    shift        RLRR's shifts alone, with its scales held at zero: as BitFit, which trains biases
    ssf          one scale for each output and the shift: diag(s) W, as SSF
    lora         PEFT's LoRA of rank 8
    rlrr         the paper's method
    identity     the same from a start at pre-training, where the paper's is not
    no_residual  RLRR without the frozen weight beside its rescaled copy
    full         every weight, for 24 epochs: in 6 it does not even reach the linear probe

The samples are small and easy; what they show is what the methods do, and not which is best.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from typing import Any
from unittest.mock import patch

import jinja2
from measure import command_line, machine, markdown_table
from peft import PeftModel
from torch import Tensor

from rlrr import train
from rlrr.adapters.record import RECORD
from rlrr.files import atomic
from rlrr.methods.trainable import check_adapted
from rlrr.recipes.files import load_recipe
from rlrr.spectral.analysis import Analysis, analyze
from rlrr.spectral.export import write_csv, write_json
from rlrr.spectral.tuned import open_tuned
from rlrr.training import run

SAMPLES = ("mnist", "digits", "lfw")
CASES: dict[str, dict[str, Any]] = {  # options of a recipe
    "linear": {"method": "linear"},
    "shift": {"settings": {"init_weights": "identity"}},
    "ssf": {"settings": {"sides": "out", "residual": False, "init_weights": "identity"}},
    "lora": {"method": "lora"},
    "rlrr": {"method": "rlrr"},
    "identity": {"settings": {"init_weights": "identity"}},
    "no_residual": {"settings": {"residual": False}},
    "full": {"method": "full", "epochs": 24},
}
TITLES = {
    "linear": "linear probe",
    "shift": "shifts alone (BitFit-like)",
    "ssf": "one side (SSF-like)",
    "lora": "LoRA, rank 8",
    "rlrr": "RLRR",
    "identity": "RLRR, started at pre-training",
    "no_residual": "RLRR without residual",
    "full": "full fine-tuning",
}
TEMPLATE = Path(__file__).with_suffix(".md.jinja")


def _check_and_hold_scales(model: PeftModel, example: Tensor) -> None:
    check_adapted(model, example)
    for name, parameter in model.named_parameters():
        if "rlrr_scale" in name:
            parameter.requires_grad_(False)


@contextmanager
def _only_shifts() -> Iterator[None]:
    """Let RLRR train no scale; at its identity they change nothing."""
    with patch.object(run, "check_adapted", _check_and_hold_scales):
        yield


def _tune(folder: Path, sample: str, case: str, epochs: int, image_size: int) -> None:
    demo = load_recipe("demo")
    common = {"data": f"sample:{sample}", "epochs": epochs, "image_size": image_size, "select": "last", "threads": 1}
    with _only_shifts() if case == "shift" else nullcontext():
        train(replace(demo, **common | CASES[case]), folder / sample / case, overwrite=True)


def measured(folder: Path, sample: str, case: str) -> Analysis:
    """A run, analysed; called by its case."""
    return analyze(open_tuned(folder / sample / case, label=f"{case}, {sample}"))


MEASURES: dict[str, Callable[[Analysis], float | None]] = {
    "accuracy": lambda run: run.accuracy,
    "trained": lambda run: run.trained,
    "change": lambda run: run.relative_change,
    "spectrum": lambda run: _mean(run, "spectrum_share"),
    "rotation": lambda run: run.rotation_share,
    "out_angle": lambda run: _mean(run, "left_angle_mean"),
    "in_angle": lambda run: _mean(run, "right_angle_mean"),
    "out_orthogonality": lambda run: _mean(run, "left_orthogonality"),
    "in_orthogonality": lambda run: _mean(run, "right_orthogonality"),
    "rank": lambda run: run.effective_rank_change,
    "left": lambda run: _mean(run, "explained_left"),
    "right": lambda run: _mean(run, "explained_right"),
    "both": lambda run: run.explained_both,
    "predicted": lambda run: _predicted_spectrum(run),
    "weights": lambda run: len(run.rows),
    "intruders": lambda run: statistics.mean(row.intruders for row in run.rows),
}


def _mean(run: Analysis, name: str) -> float | None:
    """Over the weights: of shares of ‖ΔW‖² by energy, as `Analysis` has it, else the plain one."""
    if name.startswith(("spectrum", "explained")):
        return run.mean_by_energy(name)
    values = [getattr(row, name) for row in run.rows if getattr(row, name) is not None]
    return statistics.mean(values) if values else None


def _predicted_spectrum(run: Analysis) -> float | None:
    """For RLRR `mean(l)² mean(r)² / (mean(l²) mean(r²)) + 1 / max(out, in)`, the mean over its linears."""
    shares = []
    for vectors in run.vectors.values():
        if {"scale_out", "scale_in"} <= vectors.keys():
            factors = [
                its.mean(-1).square() / its.square().mean(-1)
                for its in (vectors["scale_out"].flatten(), vectors["scale_in"].flatten(0, -2))
            ]
            sides = vectors["scale_out"].shape[0] / len(factors[1]), vectors["scale_in"].shape[-1]
            shares.append((factors[0] * factors[1]).mean().item() + 1 / max(sides))
    return statistics.mean(shares) if shares else None


def numbers(runs: Mapping[tuple[str, str], Analysis], cases: Sequence[str]) -> dict[str, dict[str, list[float]]]:
    """For each case and measure the values of all samples; none where it is not defined, as nothing has changed."""
    return {
        case: {
            name: [value for (_, its), run in runs.items() if its == case and (value := of(run)) is not None]
            for name, of in MEASURES.items()
        }
        for case in cases
    }


def text(values: Sequence[float], scale: float = 1.0, decimals: int = 1, unit: str = "") -> str:
    """The mean over the samples, and the smallest and largest in brackets; a dash for none."""
    if not values:
        return "-"
    low, mean, high = (f"{scale * v:.{decimals}f}" for v in (min(values), statistics.mean(values), max(values)))
    return f"{mean}{unit} ({low}–{high})" if low != high else f"{mean}{unit}"  # noqa: RUF001


def render(found: dict[str, dict[str, list[float]]], about: dict[str, Any], options: dict[str, Any]) -> str:
    """The page of these numbers."""
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.globals.update(mean=statistics.mean, max=max, min=min)
    environment.filters.update(
        percent=partial(text, scale=100, unit=" %"),
        number=text,
        degrees=partial(text, unit="°"),
        fine=partial(text, decimals=3),
        hundredths=partial(text, decimals=2),
        hundredths_percent=partial(text, scale=100, decimals=2, unit=" %"),
    )
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    return template.render(runs=found, tables=tables(found), machine=about, **options) + "\n"


def tables(found: dict[str, dict[str, list[float]]]) -> dict[str, str]:
    """The two tables of the page, in Markdown."""
    percent, degrees = partial(text, scale=100), text
    first = ["method", "accuracy, %", "‖ΔW‖/‖W‖, %", "effective rank of ΔW", "by diag(a) W, %", "by W diag(b), %"]
    second = ["method", "spectrum, %", "rotation, %", "turn of outputs, °", "turn of inputs, °"]
    of_runs = [
        [
            *(TITLES[case], percent(its["accuracy"]), text(its["change"], 100, 2), text(its["rank"])),
            *(percent(its[name]) for name in ("left", "right", "both")),
        ]
        for case, its in found.items()
    ]
    of_terms = [
        [
            *(TITLES[case], text(its["spectrum"], 100, 2), percent(its["rotation"])),
            *(degrees(its[name]) for name in ("out_angle", "in_angle")),
            *(text(its[name], decimals=3) for name in ("out_orthogonality", "in_orthogonality")),
            text(its["intruders"], decimals=2),
        ]
        for case, its in found.items()
    ]
    return {
        "runs": markdown_table([*first, "by (a bᵀ) ⊙ W, %"], of_runs),
        "terms": markdown_table([*second, "cosines, outputs", "cosines, inputs", "intruders"], of_terms),
    }


def main(
    output: Path = Path("bench/spectral"),
    page: Path = Path("docs/spectral.md"),
    samples: list[str] = list(SAMPLES),  # noqa: B006
    cases: list[str] = list(CASES),  # noqa: B006
    epochs: int = 6,
    image_size: int = 56,
    jobs: int = 2,
) -> None:
    """Tune, measure, write the page.

    Args:
        output: Folder for the runs, and for spectral.json and spectral.csv.
        page: The page.
        samples: Offline samples.
        cases: Ways to tune; the page needs all.
        epochs: Of each run.
        image_size: In pixels; 56 gives 16 patches.
        jobs: Runs at a time, of one thread each.
    """
    work = [
        (sample, case) for sample, case in product(samples, cases) if not (output / sample / case / RECORD).exists()
    ]
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        for done in [pool.submit(_tune, output, *one, epochs, image_size) for one in work]:
            done.result()
    runs = {(sample, case): measured(output, sample, case) for case, sample in product(cases, samples)}
    write_json(output / "spectral.json", list(runs.values()))
    write_csv(output / "spectral.csv", list(runs.values()))
    options = {"samples": samples, "epochs": epochs, "image_size": image_size}
    with atomic(page) as temporary:
        temporary.write_text(render(numbers(runs, cases), machine(), options), encoding="utf-8")
    print(page)


if __name__ == "__main__":
    command_line(main)
