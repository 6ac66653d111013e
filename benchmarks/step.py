"""What does one training step cost, by method? Time of its three parts, and peak memory.

    python benchmarks/step.py --models [vit_base_patch16_224] --batch_sizes [8] --precisions [fp32,bf16] --output bench

The cases, all of which train the classifier too:

    official   RLRR as the paper's own code computes it, see official_form.py; ratios are to this
    autograd   RLRR by plain autograd over W', in timm's model with its fused attention
    tuner      ours as a tuner in timm's model, with its fused attention
    rlrr       ours as `rlrr train` has it: in bf16 on a CPU attention is not fused, see `fastest_attention`
    quarter    ours with `gradient_tokens` 0.25; eighth: with 0.125
    light      eighth with timm's fused attention, as `tuner` has it
    lora, ia3  PEFT's LoRA of rank 8 and its IA3, on the same linears
    full       full fine-tuning
    linear     the classifier alone
    bound      frozen linears through which gradients flow to the patch embedding's bias: two products each

Times are measured in one process with random weights and one batch of random images, where the cases take turns step
by step, in an order drawn anew each time: a machine that slows down does so for all of them, and a ratio is between two
steps of the same turn. What disturbs a step makes it longer and never shorter, so that the ratio of the fastest steps
is the least disturbed. The first turns warm up and do not count. A step ends with AdamW; bf16 is autocast. All cases
are in memory at once: for large models name fewer.

Peak memory is measured in a process for each case, above what is in use once model and optimiser exist: gradients and
the moments of AdamW, which come with the first step, count; the model does not. On the CPU it is resident memory, see
`measure.PeakMemory`.

Prints a table, and writes it with all numbers to step.md and step.json in the output folder.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from itertools import pairwise, product
from pathlib import Path
from typing import Any, Literal

import timm
import torch
from jsonargparse.typing import NonNegativeInt, PositiveInt
from measure import (
    PRECISIONS,
    PeakMemory,
    command_line,
    in_new_process,
    machine,
    markdown_table,
    setup,
    spread,
    synchronize,
    write_results,
)
from official_form import autograd_form, official_form
from peft import IA3Config, get_peft_model
from torch import nn
from torch.nn import functional as F
from tqdm import tqdm

from rlrr.backbones.families import block_linears, classifier_names
from rlrr.errors import UsageError, did_you_mean
from rlrr.methods.apply import apply_method
from rlrr.training.precision import fastest_attention

CLASSES = 100
SETTING = ("model", "batch_size", "precision")
PARTS = ("forward", "backward", "optimiser", "step")


def _ia3(model: nn.Module) -> nn.Module:
    linears = block_linears(model)
    last = [name for name in linears if name.endswith("fc2")]  # scaled at their input, as in IA3's paper
    heads = classifier_names(model)
    config = IA3Config(target_modules=linears, feedforward_modules=last, modules_to_save=heads)
    return get_peft_model(model, config)


def _bound(model: nn.Module) -> nn.Module:
    """Two products for each linear and no more: gradients flow through all of them, to the first bias."""
    apply_method(model, "linear")  # which freezes all but the classifier
    model.patch_embed.proj.bias.requires_grad_(True)
    return model


CASES: dict[str, Callable[[nn.Module], nn.Module]] = {
    "official": official_form,
    "autograd": autograd_form,
    "tuner": lambda model: apply_method(model, "rlrr"),
    "rlrr": lambda model: apply_method(model, "rlrr"),
    "quarter": lambda model: apply_method(model, "rlrr", {"gradient_tokens": 0.25}),
    "eighth": lambda model: apply_method(model, "rlrr", {"gradient_tokens": 0.125}),
    "light": lambda model: apply_method(model, "rlrr", {"gradient_tokens": 0.125}),
    "lora": lambda model: apply_method(model, "lora"),
    "ia3": _ia3,
    "full": lambda model: apply_method(model, "full"),
    "linear": lambda model: apply_method(model, "linear"),
    "bound": _bound,
}
AS_TRAINED = ("rlrr", "quarter", "eighth")  # the cases with the attention that `rlrr train` chooses
REFERENCE = "official"


def build(case: str, model: str, image_size: int) -> nn.Module:
    """A timm ViT with random weights, made trainable by one of `CASES`."""
    torch.manual_seed(0)
    return CASES[case](timm.create_model(model, num_classes=CLASSES, img_size=image_size)).train()


class Training:
    """A case's model with its optimiser, ready to take steps."""

    def __init__(self, case: str, model: str, image_size: int, precision: str, device: torch.device) -> None:
        self.network = build(case, model, image_size).to(device)
        self.trained = [parameter for parameter in self.network.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.AdamW(self.trained, lr=1e-4)
        self.precision = precision
        self.as_trained = case in AS_TRAINED

    def step(self, images: torch.Tensor, labels: torch.Tensor) -> dict[str, float]:
        """Seconds by `PARTS`. It holds nothing when it returns."""
        with fastest_attention(self.network, self.precision) if self.as_trained else nullcontext():
            return _step(self.network, self.optimizer, images, labels, PRECISIONS[self.precision])


def batch(size: int, image_size: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Random images and labels."""
    images = torch.randn(size, 3, image_size, image_size, device=device)
    return images, torch.randint(CLASSES, (size,), device=device)


def measure_times(
    model: str,
    batch_size: int,
    precision: str,
    cases: Sequence[str],
    *,
    image_size: int,
    turns: int,
    warmup: int,
    device: str,
    threads: int | None,
) -> dict[str, list[dict[str, float]]]:
    """Let the cases take turns in this process.

    Returns:
        For each case and turn the seconds by `PARTS`.
    """
    place = torch.device(setup(device, threads))
    random.seed(0)
    data = batch(batch_size, image_size, place)
    trainings = {case: Training(case, model, image_size, precision, place) for case in cases}
    for _ in range(warmup):
        for training in trainings.values():
            training.step(*data)
    seconds: dict[str, list[dict[str, float]]] = {case: [] for case in cases}
    for _ in tqdm(range(turns), unit="turn", desc=f"{model}, {batch_size} images, {precision}"):
        for case in random.sample(cases, len(cases)):  # what a case leaves behind does not always meet the same one
            seconds[case].append(trainings[case].step(*data))
    return seconds


def measure_memory(
    model: str, batch_size: int, precision: str, case: str, *, image_size: int, device: str, threads: int | None
) -> dict[str, Any]:
    """Take three steps in this process.

    Returns:
        `peak_mib` above the model; `model_mib` (in RSS, with the pages of code that making it needed); the number of
        `trained` parameters.
    """
    place = torch.device(setup(device, threads))
    _load_libraries(place, PRECISIONS[precision])
    empty = PeakMemory(place)
    training = Training(case, model, image_size, precision, place)
    data = batch(batch_size, image_size, place)
    memory = PeakMemory(place)
    for _ in range(3):
        training.step(*data)
    return {
        "peak_mib": memory.above_start(),
        "model_mib": memory.start - empty.start,
        "trained": sum(parameter.numel() for parameter in training.trained),
    }


def _step(
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    images: torch.Tensor,
    labels: torch.Tensor,
    dtype: torch.dtype | None,
) -> dict[str, float]:
    clock = [_now(images.device)]
    with torch.autocast(images.device.type, dtype, enabled=dtype is not None):
        loss = F.cross_entropy(network(images), labels)
    clock.append(_now(images.device))
    loss.backward()
    clock.append(_now(images.device))
    optimizer.step()
    optimizer.zero_grad()
    clock.append(_now(images.device))
    seconds = [later - earlier for earlier, later in pairwise(clock)]
    return dict(zip(PARTS, [*seconds, sum(seconds)], strict=True))


def _now(device: torch.device) -> float:
    synchronize(device)
    return time.perf_counter()


def _load_libraries(device: torch.device, dtype: torch.dtype | None) -> None:
    """A step of almost nothing: what torch loads at the first step is memory of no method."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(12, CLASSES)).to(device)
    images, labels = torch.zeros(2, 3, 2, 2, device=device), torch.zeros(2, dtype=torch.long, device=device)
    _step(network, torch.optim.AdamW(network.parameters()), images, labels, dtype)


def summary(runs: Sequence[dict[str, Any]]) -> str:
    """The table of runs, each with its `SETTING`, `seconds` (of `measure_times`) and what `measure_memory` returns."""
    references = {_setting(run): run for run in runs if run["case"] == REFERENCE}
    rows = []
    for run in runs:
        times = [spread([1000 * turn[part] for turn in run["seconds"]]) for part in PARTS]
        ratios = ["-", "-", "-"]
        if reference := references.get(_setting(run)):
            ours, theirs = ([turn["step"] for turn in its["seconds"]] for its in (run, reference))
            ratios = [
                spread([one / other for one, other in zip(ours, theirs, strict=True)]),
                spread([min(ours) / min(theirs)]),
                spread([run["peak_mib"] / reference["peak_mib"]]),
            ]
        rows.append([*map(str, _setting(run)), run["case"], *times, *ratios[:2], spread([run["peak_mib"]]), ratios[2]])
    columns = [f"{part}, ms" for part in PARTS]
    columns = [*SETTING, "case", *columns, "step ratio", "of the fastest", "peak memory, MiB", "memory ratio"]
    return markdown_table(columns, rows)


def _setting(run: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(run[name] for name in SETTING)


def main(
    models: Sequence[str] = ("vit_base_patch16_224",),
    batch_sizes: Sequence[PositiveInt] = (8,),
    precisions: Sequence[Literal["fp32", "bf16"]] = ("fp32", "bf16"),
    cases: Sequence[str] = tuple(CASES),
    turns: PositiveInt = 8,
    warmup: NonNegativeInt = 1,
    image_size: PositiveInt = 224,
    device: Literal["cpu", "cuda"] | None = None,
    threads: PositiveInt | None = None,
    output: Path = Path("bench"),
) -> None:
    """Measure all cases.

    Args:
        models: timm names of ViTs; their weights are random.
        batch_sizes: Images in a batch.
        precisions: fp32, or bf16 for autocast.
        cases: What is compared; ratios are to the official form.
        turns: Steps of each case that are timed.
        warmup: Steps of each before them.
        image_size: Height and width in pixels.
        device: None takes the GPU if there is one.
        threads: Threads of torch; None for torch's own choice.
        output: Folder of step.json and step.md.
    """
    if unknown := [case for case in cases if case not in CASES]:
        raise UsageError(f"There is no case {unknown[0]!r}.{did_you_mean(unknown[0], CASES)}")
    options = {"image_size": image_size, "device": setup(device, threads, models), "threads": threads}
    runs: list[dict[str, Any]] = []
    for setting in product(models, batch_sizes, precisions):
        timed = in_new_process(partial(measure_times, turns=turns, warmup=warmup, **options), *setting, cases)
        for case in cases:
            memory = in_new_process(partial(measure_memory, **options), *setting, case)
            runs.append({**dict(zip(SETTING, setting, strict=True)), "case": case, "seconds": timed[case], **memory})
        table = summary(runs)
        # each time, so that a run that is stopped leaves what it has
        write_results(output, "step", {"machine": machine(), "options": options, "runs": runs}, table)
    print(table)


if __name__ == "__main__":
    command_line(main)
