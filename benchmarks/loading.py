"""Is loading images the bottleneck? Images per second of each way to have them, against those that a step trains on.

    python benchmarks/loading.py --count 500 --output bench

The images are JPEG files of 400 x 300 pixels, drawn at random and written to a temporary folder. Two tables:

Before the first step, once in a run: all images decoded into memory; decoded and written to the cache on the disk; and
found there. This is `prepare_split`.

In each epoch, a random order in batches, up to the normalised batch on the device, mirrored at random:

    decoded each time    as it would be without a cache
    in memory            the cache where the disk has no place
    mapped               the cache on the disk, whose file is in the memory of the system
    mapped, from disk    the same when the system has forgotten it (on Linux, which does so if asked)

    floats               each image mirrored and normalised by itself, then stacked
    bytes                stacked as they are, then mirrored and normalised as a batch on the device: as in `rlrr train`
    bytes, one index     the same, fetched with one index for the whole batch

With worker processes, their start in each epoch counts, as it does in training. The last column is the time of loading
by that of training: RLRR on a ViT with random weights, one step on a batch that is there. Above 100 % loading is what a
run waits for. Below, without workers, it is what loading adds. Cases take turns.

Prints the tables, and writes them with all numbers to loading.md and loading.json in the output folder.
"""

from __future__ import annotations

import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import timm
import torch
from jsonargparse.typing import NonNegativeInt, PositiveInt
from measure import (
    command_line,
    machine,
    markdown_table,
    setup,
    spread,
    synchronize,
    write_results,
)
from PIL import Image
from torch.nn import functional as F
from torch.utils.data import DataLoader
from tqdm import tqdm

from rlrr.data import PreparedImages, Split, prepare_split
from rlrr.data.cache import FOLDER, LIMIT, CachedImages, cache_path, open_images
from rlrr.data.pipeline import flip, preparation
from rlrr.inference.devices import resolve_precision
from rlrr.methods.apply import apply_method

CLASSES = 100
WAYS = ("decoded each time", "in memory", "mapped", *(("mapped, from disk",) if hasattr(os, "posix_fadvise") else ()))


def write_jpegs(folder: Path, count: int) -> Split:
    """Coarse random colours with a little noise, so that a file is about as large as that of a photo."""
    random = np.random.default_rng(0)
    paths = [folder / f"{index}.jpg" for index in range(count)]
    for path in paths:
        coarse = Image.fromarray(random.integers(0, 256, (15, 20, 3), dtype=np.uint8)).resize((400, 300), 3)
        noisy = np.asarray(coarse, np.int16) + random.integers(-20, 20, (300, 400, 3), dtype=np.int16)
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(path, quality=90)
    return Split(paths, [index % CLASSES for index in range(count)], [path.name for path in paths])


def preparing(split: Split, config: dict[str, Any], repeats: int, cache: Path) -> dict[str, list[float]]:
    """Seconds of `prepare_split` by what it does; leaves the images in the cache."""
    seconds: dict[str, list[float]] = {}

    def timed(case: str, limit: str) -> None:
        os.environ[LIMIT] = limit
        start = time.perf_counter()
        prepare_split(split, preparation(config))
        seconds.setdefault(case, []).append(time.perf_counter() - start)

    for _ in range(repeats):
        shutil.rmtree(cache / "images", ignore_errors=True)
        timed("decoded into memory", "0")
        timed("decoded and written", "20")
        timed("found", "20")
    return seconds


def trained_per_second(model: str, config: dict[str, Any], batch_size: int, repeats: int, device: str) -> list[float]:
    """Images that training alone takes in a second, of each step."""
    adapted = apply_method(timm.create_model(model, num_classes=CLASSES), "rlrr").train().to(device)
    images = torch.randn(batch_size, *config["input_size"], device=device)
    labels = torch.randint(CLASSES, (batch_size,), device=device)
    optimizer = torch.optim.AdamW([p for p in adapted.parameters() if p.requires_grad], lr=1e-4)
    kind = {"fp32": torch.float32, "bf16": torch.bfloat16}[resolve_precision("auto", torch.device(device))]
    rates = []
    for step in range(repeats + 2):
        start = time.perf_counter()
        with torch.autocast(device, kind, enabled=kind != torch.float32):
            loss = F.cross_entropy(adapted(images).float(), labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        synchronize(torch.device(device))
        if step >= 2:  # after those that warm up
            rates.append(batch_size / (time.perf_counter() - start))
    return rates


def cached(way: str, path: Path, shape: tuple[int, ...]) -> CachedImages | None:
    """The images of a file of the cache, had in one of the `WAYS`."""
    if way == WAYS[0]:
        return None
    if way == "mapped, from disk":
        path = Path(shutil.copy(path, path.with_name("copy")))  # the system forgets no file that is mapped elsewhere
        with path.open("rb+") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    images = open_images(path, shape)
    assert images is not None
    return images[:].clone() if way == "in memory" else images


def batches(images: PreparedImages, how: str, workers: int, batch_size: int, device: str) -> Iterator[torch.Tensor]:
    """One epoch."""
    options: dict[str, Any] = {"shuffle": True, "num_workers": workers, "pin_memory": device == "cuda"}
    if how == "floats":
        for batch in DataLoader(images, batch_size, **options):
            yield batch["pixel_values"].to(device, non_blocking=True)
    elif how == "bytes":
        for batch in DataLoader(images.pixels, batch_size, **options):
            yield images.transform(batch["pixel_values"].to(device, non_blocking=True), augment=True)
    else:
        for indices in torch.randperm(len(images)).split(batch_size):
            yield images.transform(images.pixels.cache[indices].to(device), augment=True)


def main(
    count: PositiveInt = 500,
    model: str = "vit_small_patch16_224",
    batch_size: PositiveInt = 32,
    workers: NonNegativeInt | None = None,
    repeats: PositiveInt = 3,
    device: Literal["cpu", "cuda"] | None = None,
    threads: PositiveInt | None = None,
    output: Path = Path("bench"),
) -> None:
    """Measure all ways in turns.

    Args:
        count: Images.
        model: timm name of the ViT that trains.
        batch_size: Images in a batch.
        workers: Processes that load, in the cases with any; None for as many as there are cores.
        repeats: Turns.
        device: None takes the GPU if there is one.
        threads: Threads of torch; None for torch's own choice.
        output: Folder of loading.json and loading.md.
    """
    where, about = setup(device, threads, [model]), machine()
    workers = about["cores"] if workers is None else workers
    config = timm.data.resolve_model_data_config(timm.create_model(model))
    rates = trained_per_second(model, config, batch_size, max(repeats, 5), where)
    loaded: dict[tuple[str, str, int], list[float]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        os.environ[FOLDER] = scratch
        split, prepare = write_jpegs(Path(scratch), count), preparation(config)
        prepared = preparing(split, config, repeats, Path(scratch))
        path, shape = cache_path(split, prepare.description), (count, *config["input_size"])
        assert path is not None
        cases = [(way, how, n) for way in WAYS for how in ("floats", "bytes") for n in sorted({0, workers})]
        cases += [(way, "bytes, one index", 0) for way in WAYS[1:3]]
        for way, how, n in tqdm(repeats * cases, unit="epoch"):
            normalization = {"mean": config["mean"], "std": config["std"]}
            images = PreparedImages(split, prepare, cache=cached(way, path, shape), augment=[flip], **normalization)
            start = time.perf_counter()
            for batch in batches(images, how, n, batch_size, where):
                last = batch
            synchronize(last.device)
            loaded.setdefault((way, how, n), []).append(count / (time.perf_counter() - start))
    once = markdown_table(
        ["before the first step", "seconds", "images/s"],
        [[case, spread(values), f"{count / statistics.median(values):.0f}"] for case, values in prepared.items()],
    )
    trained = statistics.median(rates)
    epoch = markdown_table(
        ["images", "as", "workers", "images/s", "of a step"],
        [
            [*map(str, case), spread(values), f"{trained / statistics.median(values):.1%}"]
            for case, values in loaded.items()
        ],
    )
    head = f"{count} images of 400 x 300 pixels; {model} trains on {spread(rates)} of them in a second."
    table = f"{head}\n\n{once}\n\n{epoch}"
    results = {
        "machine": about,
        "options": {"count": count, "model": model, "batch_size": batch_size, "repeats": repeats, "device": where},
        "trained_per_second": rates,
        "preparing_seconds": prepared,
        "loaded_per_second": [
            {"images": way, "as": how, "workers": n, "values": values} for (way, how, n), values in loaded.items()
        ],
    }
    write_results(output, "loading", results, table)
    print(table)


if __name__ == "__main__":
    command_line(main)
