"""Would it pay to estimate the gradient of RLRR's vectors from fewer rows? Two unbiased ways, against the exact one.

    python benchmarks/estimates.py variance --output bench
    python benchmarks/estimates.py accuracy --output bench

The gradient of the vectors is reduced from `dYᵀX`, a sum over all T rows (tokens) of a batch, which is the third of a
training step's three products and the reason why every layer keeps its input. Here m of T rows are kept:

- tokens: the first token of each image, the class token, and a random part of the others, scaled (`gradient_tokens`);
- sketch: every row, with a random sign, added into one of m (a count sketch), which is here alone.

The gradients of the input and of the shift stay exact. `variance` gives the mean squared error of a layer's vector
gradients, relative to their square, on the first batch of real activations; `accuracy` trains and tests.
docs/performance.md says what came of it.
"""

from __future__ import annotations

import itertools
import math
import statistics
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from measure import command_line, machine, markdown_table, write_results
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from rlrr import train
from rlrr.data import load_data
from rlrr.files import read_json
from rlrr.recipes.files import load_recipe
from rlrr.training.images import training_images
from rlrr.training.run import build
from rlrr.tuners.rlrr import layer
from rlrr.tuners.rlrr.functional import product_dtype, rescaled_linear, rescaling, scale_gradients

SAMPLES = ("mnist", "digits", "lfw")
FRACTIONS = (0.5, 0.25, 0.125)


class SketchedLinear(torch.autograd.Function):
    """As `functional.rescaled_linear` of RLRR, with the scales' gradient from a count sketch of the rows of its input.

    Every row is added, with a random sign, into one of m; the buckets are of equal size, which is a little better than
    drawing one for each row.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, fraction: float, weight: Tensor, bias: Tensor, *vectors: Tensor) -> Tensor:
        """Keep the sketch of x instead of x."""
        scale_out, scale_in, shift = vectors
        rows = x.reshape(-1, x.shape[-1])
        ctx.kept = max(1, round(fraction * len(rows)))
        bucket = torch.randperm(len(rows)) % ctx.kept
        sign = torch.randint(2, (len(rows), 1)) * 2 - 1
        ctx.save_for_backward(_sketch(rows, bucket, sign, ctx.kept), bucket, sign, weight, scale_out, scale_in)
        changed = weight + rescaling(weight, scale_out, scale_in)
        return F.linear(x, changed.to(x.dtype), (bias + shift).to(x.dtype))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Exact for the input and the shift."""
        kept, bucket, sign, weight, scale_out, scale_in = ctx.saved_tensors
        changed = (weight + rescaling(weight, scale_out, scale_in)).to(grad.dtype)
        flat = grad.reshape(-1, grad.shape[-1])
        of_weight = _sketch(flat, bucket, sign, ctx.kept).mT @ kept
        scales = scale_gradients(of_weight, weight, scale_out, scale_in)
        return grad @ changed, None, None, None, *scales, flat.sum(0).float()


def _sketch(rows: Tensor, bucket: Tensor, sign: Tensor, kept: int) -> Tensor:
    return rows.new_zeros(kept, rows.shape[-1]).index_add_(0, bucket, rows * sign.to(rows.dtype))


def sketched(fraction: float, x: Tensor, weight: Tensor, bias: Tensor, *vectors: Tensor, **form: Any) -> Tensor:
    """A rescaled linear of the method's usual form, by `SketchedLinear`."""
    x = x.to(product_dtype(x.dtype, x.device))
    with torch.autocast(x.device.type, enabled=False):
        return SketchedLinear.apply(x, fraction, weight, bias, *vectors)


def drawn(fraction: float, *given: Any, **form: Any) -> Tensor:
    """A rescaled linear with `gradient_tokens`, which the package has."""
    return rescaled_linear(*given, **form | {"tokens": fraction})


ESTIMATES = {"tokens": drawn, "sketch": sketched}


@contextmanager
def estimated(kind: str, fraction: float) -> Iterator[None]:
    """Let RLRR's linears, inside the block, estimate their scales' gradients."""
    with patch.object(layer, "rescaled_linear", partial(ESTIMATES[kind], fraction)):
        yield


def variance(output: Path = Path("bench"), batch_size: int = 32, draws: int = 50, threads: int | None = None) -> None:
    """Relative squared error of one draw, median over the linears of the packaged ViT-S/14 at 70 px.

    Args:
        output: Folder for `estimates_variance.json` and `.md`.
        batch_size: Images of MNIST in the batch.
        draws: Of each estimate.
        threads: For computing; all if not given.
    """
    if threads:
        torch.set_num_threads(threads)
    model, batch = _first_batch(batch_size)

    def gradients() -> dict[str, Tensor]:
        model.zero_grad()
        F.cross_entropy(model(batch["pixel_values"]), batch["labels"]).backward()
        return {name: p.grad.clone() for name, p in model.named_parameters() if "rlrr_scale_" in name}

    exact = gradients()
    rows = []
    for kind, fraction in itertools.product(ESTIMATES, FRACTIONS):
        errors: dict[str, float] = dict.fromkeys(exact, 0.0)
        with estimated(kind, fraction):
            for seed in range(draws):
                torch.manual_seed(seed)
                for name, gradient in gradients().items():
                    errors[name] += float((gradient - exact[name]).square().sum()) / draws
        relative = [error / float(exact[name].square().sum()) for name, error in errors.items()]
        rows.append({"estimate": kind, "fraction": fraction, "median": statistics.median(relative), "each": relative})
        print(f"{kind} {fraction:g}: {rows[-1]['median']:.3g}", flush=True)
    table = markdown_table(
        ["estimate", "m/T", "squared error / squared gradient, median over the layers", "from", "to"],
        [
            [r["estimate"], f"{r['fraction']:g}", *(f"{v:.2g}" for v in (r["median"], min(r["each"]), max(r["each"])))]
            for r in rows
        ],
    )
    write_results(output, "estimates_variance", {"machine": machine(), "batch_size": batch_size, "runs": rows}, table)
    print(table)


def _first_batch(batch_size: int) -> tuple[torch.nn.Module, dict[str, Tensor]]:
    """The demo's model with a classifier that is not zero, so that a gradient flows, and a batch of its images."""
    recipe = load_recipe("demo")
    torch.manual_seed(0)
    data = load_data(recipe.data, seed=0)
    backbone, model = build(recipe, len(data.classes))
    images = training_images(recipe, data, backbone.data_config).train
    model.eval()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and name.endswith("head.modules_to_save.default.weight"):
            torch.nn.init.normal_(parameter, std=0.02)
    return model, torch.utils.data.default_collate([images[i] for i in range(batch_size)])


def accuracy(
    output: Path = Path("bench"),
    samples: list[str] = list(SAMPLES),  # noqa: B006
    cases: list[str] = ["tokens 0.5", "tokens 0.25", "tokens 0.125", "sketch 0.25"],  # noqa: B006
    seeds: int = 3,
    epochs: int = 6,
    image_size: int = 56,
    jobs: int = 2,
) -> None:
    """Test accuracy after the last epoch, exact and estimated, and the difference. It goes on where it was stopped.

    Args:
        output: Folder for `estimates_accuracy.json` and `.md`.
        samples: Offline samples.
        cases: Estimates and their fractions.
        seeds: Number of seeds, from 0.
        epochs: Of each run.
        image_size: In pixels; 56 gives 16 tokens and the class token.
        jobs: Runs at a time, of one thread each.
    """
    cases = ["exact", *cases]
    results = {"machine": machine(), "options": {"epochs": epochs, "image_size": image_size}, "runs": []}
    file = output / "estimates_accuracy.json"
    if file.exists() and (earlier := read_json(file))["options"] == results["options"]:
        results["runs"] = earlier["runs"]
    runs: list[dict[str, Any]] = results["runs"]
    done = {(run["seed"], run["sample"], run["case"]) for run in runs}
    work = [one for one in itertools.product(range(seeds), samples, cases) if one not in done]
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        accuracies = pool.map(partial(_train, epochs=epochs, image_size=image_size), *zip(*work, strict=True))
        for (seed, sample, case), value in zip(work, accuracies, strict=True):
            runs.append({"seed": seed, "sample": sample, "case": case, "accuracy": value})
            print(f"{case}, {sample}, seed {seed}: {value:.1%}", flush=True)
            write_results(output, "estimates_accuracy", results, _accuracy_table(runs, samples, cases))
    print(_accuracy_table(runs, samples, cases))


def _train(seed: int, sample: str, case: str, epochs: int, image_size: int) -> float:
    recipe = replace(
        load_recipe("demo"),
        data=f"sample:{sample}",
        epochs=epochs,
        image_size=image_size,
        seed=seed,
        select="last",
        threads=1,
    )
    with tempfile.TemporaryDirectory() as folder:
        if case == "exact":
            return train(recipe, Path(folder) / "run").metrics["test_accuracy"]
        kind, fraction = case.split()
        with estimated(kind, float(fraction)):
            return train(recipe, Path(folder) / "run").metrics["test_accuracy"]


def _accuracy_table(runs: list[dict[str, Any]], samples: list[str], cases: list[str]) -> str:
    def of(case: str, sample: str | None = None) -> dict[tuple[str, int], float]:
        return {
            (r["sample"], r["seed"]): 100 * r["accuracy"]
            for r in runs
            if r["case"] == case and sample in (None, r["sample"])
        }

    rows = []
    for case in cases:
        means = [statistics.mean(of(case, sample).values()) if of(case, sample) else math.nan for sample in samples]
        exact = of("exact")
        differences = [value - exact[key] for key, value in of(case).items() if key in exact]
        mean = statistics.mean(differences) if differences else math.nan
        error = statistics.stdev(differences) / len(differences) ** 0.5 if len(differences) > 1 else math.nan
        rows.append([case, *(f"{m:.1f}" for m in means), "" if case == "exact" else f"{mean:+.2f} ± {error:.2f}"])
    return markdown_table(["vectors' gradient", *samples, "difference from exact"], rows)


if __name__ == "__main__":
    command_line([variance, accuracy])
