"""What does it cost to use adapters? Time of one batch: merged, unmerged, mixed, and one adapter after the other.

    python benchmarks/inference.py --model vit_base_patch16_224 --batch_size 64 --output bench

The cases; ratios are to `merged` in the same turn:

    plain           the backbone with a classifier, never adapted
    merged          one RLRR adapter merged, which makes a plain model again
    unmerged, first one RLRR adapter is set and runs the batch, for which its weights are made
    unmerged        the same adapter's next batch
    mixed           images of N RLRR adapters, dealt in turn, in one batch: model(images, adapter_names=[...])
    switching       the same images adapter by adapter: each is set and runs its part of the batch
    lora merged     PEFT's LoRA of rank 8 on the linears of the blocks, merged
    lora unmerged   the same, not merged
    lora mixed      images of N such adapters in one batch

Every adapter is drawn at random and has a classifier of its own. All cases take turns in one process, on the same
batch of random images, without gradients; the first turns warm up and do not count. bf16 is autocast.

Prints a table, and writes it with all numbers to inference.md and inference.json in the output folder.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from itertools import cycle, islice
from pathlib import Path
from typing import Any, Literal

import timm
import torch
from jsonargparse.typing import NonNegativeInt, PositiveInt
from measure import (
    PRECISIONS,
    command_line,
    machine,
    markdown_table,
    setup,
    spread,
    synchronize,
    write_results,
)
from peft import LoraConfig, PeftConfig, PeftModel, get_peft_model
from torch import Tensor, nn
from tqdm import tqdm

from rlrr import RLRRConfig
from rlrr.backbones.families import block_linears, classifier_names
from rlrr.errors import UsageError

CLASSES = 100
REFERENCE = ("merged", None)
ALONE = "alone"  # the adapter of the cases with one, which no other case runs


def backbone(model: str, image_size: int) -> nn.Module:
    """A timm ViT with random weights, the same each time."""
    torch.manual_seed(0)
    return timm.create_model(model, num_classes=CLASSES, img_size=image_size).eval()


def rlrr_config(model: nn.Module) -> PeftConfig:
    """RLRR with its default targets, drawn at random."""
    return RLRRConfig(init_weights=False)


def lora_config(model: nn.Module) -> PeftConfig:
    """LoRA of rank 8 on the linears of the blocks, drawn at random."""
    linears, heads = block_linears(model), classifier_names(model)
    return LoraConfig(r=8, lora_alpha=8, target_modules=linears, modules_to_save=heads, init_lora_weights=False)


def with_adapters(model: nn.Module, config: Callable[[nn.Module], PeftConfig], names: Sequence[str]) -> PeftModel:
    """The model with an adapter for each name, and a classifier for each; the first is active."""
    configs = {name: config(model) for name in names}
    adapted = get_peft_model(model, configs.pop(names[0]), adapter_name=names[0])
    for name, its in configs.items():
        adapted.add_adapter(name, its)
    for name, parameter in adapted.named_parameters():  # copies of one classifier so far
        if "modules_to_save" in name:
            nn.init.normal_(parameter, std=0.1)
    return adapted.eval()


def dealt(names: Sequence[str], images: int) -> list[str]:
    """A name for each image, in turn."""
    return list(islice(cycle(names), images))


def switched(model: PeftModel, names: Sequence[str], images: Tensor) -> Tensor:
    """The logits of images whose adapters are `dealt(names, ...)`, with one adapter after the other."""
    parts = []
    for first, name in enumerate(names):
        model.set_adapter(name, inference_mode=True)
        parts.append(model(images[first :: len(names)]))
    logits = parts[0].new_empty(len(images), parts[0].shape[-1])
    for first, part in enumerate(parts):
        logits[first :: len(names)] = part
    return logits


Case = tuple[str, int | None, Callable[[], Any]]  # its name, the number of adapters, and what is timed


def cases(model: str, image_size: int, adapters: Sequence[int], images: Tensor) -> list[Case]:
    """All cases, in the order of a turn: of the unmerged ones the first sets the adapter anew."""
    names = [f"task{number}" for number in range(max(adapters))]

    def build(config: Callable[[nn.Module], PeftConfig] | None = None, names: Sequence[str] = ()) -> Any:
        plain = backbone(model, image_size)
        return (with_adapters(plain, config, names) if config else plain).to(images.device)

    ours, lora = (build(config, [ALONE, *names]) for config in (rlrr_config, lora_config))
    merged, lora_merged = (build(config, [ALONE]).merge_and_unload() for config in (rlrr_config, lora_config))

    def mixed(adapted: PeftModel, count: int) -> Callable[[], Tensor]:
        return partial(adapted, images, adapter_names=dealt(names[:count], len(images)))

    return [
        ("plain", None, partial(build(), images)),
        ("merged", None, partial(merged, images)),
        ("unmerged, first", None, partial(switched, ours, [ALONE], images)),
        ("unmerged", None, partial(ours, images)),
        *(("mixed", count, mixed(ours, count)) for count in adapters),
        *(("switching", count, partial(switched, ours, names[:count], images)) for count in adapters),
        ("lora merged", None, partial(lora_merged, images)),
        ("lora unmerged", None, partial(lora, images)),
        *(("lora mixed", count, mixed(lora, count)) for count in adapters),
    ]


def seconds(run: Callable[[], Any], device: torch.device, dtype: torch.dtype | None) -> float:
    """The time that a case takes."""
    with torch.inference_mode(), torch.autocast(device.type, dtype, enabled=dtype is not None):
        synchronize(device)
        start = time.perf_counter()
        run()
        synchronize(device)
        return time.perf_counter() - start


def summary(runs: Sequence[dict[str, Any]]) -> str:
    """The table of runs, each with its turn, case, number of adapters and seconds."""
    groups: dict[tuple[str, int | None], dict[int, float]] = {}
    for run in runs:
        groups.setdefault((run["case"], run["adapters"]), {})[run["turn"]] = run["seconds"]
    reference = groups[REFERENCE]
    rows = [
        [
            case,
            str(count or "-"),
            spread([1000 * time for time in times.values()]),
            spread([time / reference[turn] for turn, time in times.items()]),
        ]
        for (case, count), times in groups.items()
    ]
    return markdown_table(["case", "adapters", "ms", "ratio to merged"], rows)


def main(
    model: str = "vit_base_patch16_224",
    batch_size: PositiveInt = 64,
    adapters: Sequence[PositiveInt] = (1, 2, 4, 8, 16, 32, 64),
    precision: Literal["fp32", "bf16"] = "fp32",
    repeats: PositiveInt = 3,
    warmup: NonNegativeInt = 1,
    image_size: PositiveInt = 224,
    device: Literal["cpu", "cuda"] | None = None,
    threads: PositiveInt | None = None,
    output: Path = Path("bench"),
) -> None:
    """Measure all cases in turns.

    Args:
        model: timm name of a ViT; its weights are random.
        batch_size: Images in the batch.
        adapters: Numbers of adapters in a batch, each at most its size.
        precision: fp32, or bf16 for autocast.
        repeats: Turns.
        warmup: Turns before them.
        image_size: Height and width in pixels.
        device: None takes the GPU if there is one.
        threads: Threads of torch; None for torch's own choice.
        output: Folder of inference.json and inference.md.
    """
    if not adapters or max(adapters) > batch_size:
        raise UsageError(
            f"{max(adapters, default=0)} adapters cannot share {batch_size} images: give numbers up to batch_size.",
        )
    place = torch.device(setup(device, threads, [model]))
    images = torch.randn(batch_size, 3, image_size, image_size, device=place)
    options = {"model": model, "batch_size": batch_size, "precision": precision, "image_size": image_size}
    options |= {"warmup": warmup, "device": place.type, "threads": threads}
    todo = cases(model, image_size, adapters, images)
    runs: list[dict[str, Any]] = []
    table = ""
    for turn in tqdm(range(-warmup, repeats), unit="turn"):
        for case, count, run in todo:
            taken = seconds(run, place, PRECISIONS[precision])
            if turn >= 0:
                runs.append({"turn": turn, "case": case, "adapters": count, "seconds": taken})
        if turn >= 0:  # each time, so that a run that is stopped leaves what it has
            table = summary(runs)
            write_results(output, "inference", {"machine": machine(), "options": options, "runs": runs}, table)
    print(table)


if __name__ == "__main__":
    command_line(main)
