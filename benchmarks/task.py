"""What does one whole task of VTAB-1k cost, stage by stage? Ours beside the official procedure.

    python benchmarks/task.py --model vit_base_patch16_224 --precision bf16 --output bench

It makes a task in VTAB's layout, of JPEG files and lists, and runs what a person would run:

    official       as the paper's own code does: decode every image anew in every epoch, train on all 1,000 images,
                   measure the test images after every epoch; RLRR in the official form, see official_form.py
    rlrr           `rlrr train` as it is: train on 800 images, 200 choose the epoch, test once
    rlrr_trainval  `rlrr train --train-on trainval`: train on all 1,000 as well, test once

Procedures take turns, each in a process of its own, and each of ours begins with an empty cache of images. Times are
seconds of the wall clock:

    read      waiting for images: ours decodes them all before training (train and val; those of the test are in test),
              the official one batch by batch while it trains, in worker processes
    model     building the backbone with its weights, and adapting it
    train     steps
    evaluate  what is measured after every epoch: the test images in the official procedure, val in ours
    test      the test images once, after training
    save      checkpoints and the adapter
    other     what is left of the total

Epochs cost the same, so that with fewer of them only the stages before and after weigh more: the table says how many
epochs and images were run, and nothing in it is extrapolated. Of a test set only the size matters; those of VTAB-1k
have 711 to 73,728 images. To scale down for a small machine: --model vit_tiny_patch16_224 --image_size 64 --epochs 2.

Prints a table, and writes it with all numbers to task.md and task.json in the output folder.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial, wraps
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal
from unittest.mock import patch

import joblib
import numpy as np
import timm
import torch
from jsonargparse.typing import NonNegativeInt, PositiveInt
from measure import command_line, in_new_process, machine, markdown_table, setup, spread, synchronize, write_results
from official_form import official_form
from PIL import Image
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2
from tqdm import tqdm

from rlrr.backbones import load_backbone
from rlrr.data.cache import FOLDER
from rlrr.interop.timm_folder import write_timm_folder
from rlrr.recipes.recipe import Recipe
from rlrr.training import run
from rlrr.training.trainer import ClassificationTrainer

PROCEDURES = ("official", "rlrr", "rlrr_trainval")
REFERENCE = "official"
STAGES = ("read", "model", "train", "evaluate", "test", "save", "other")
CLASSES = 10
RATE = 1e-3
TEST_BATCH = 256  # of the paper's code


class Clock:
    """Seconds by stage; a stage within another counts for itself alone."""

    def __init__(self, device: torch.device) -> None:
        self.seconds = dict.fromkeys(STAGES, 0.0)
        self._device, self._inner = device, [0.0]

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Count what happens here as `name`."""
        self._inner.append(0.0)
        synchronize(self._device)
        start = time.perf_counter()
        try:
            yield
        finally:
            synchronize(self._device)
            passed = time.perf_counter() - start
            self.seconds[name] += passed - self._inner.pop()
            self._inner[-1] += passed

    def timed(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, all of whose calls count as `name`."""

        @wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            with self.stage(name):
                return function(*args, **kwargs)

        return call


def write_task(folder: Path, images: int, test_images: int, side: int) -> None:
    """A task of soft random pictures, `side` pixels square, four fifths of whose `images` are train."""
    generator = np.random.default_rng(0)
    train = images * 4 // 5
    lists: dict[str, list[str]] = {}
    for name, count in (("train800", train), ("val200", images - train), ("test", test_images)):
        (folder / "images" / name).mkdir(parents=True)
        lists[name] = [f"images/{name}/{i:06}.jpg {i % CLASSES}\n" for i in range(count)]
        for line in lists[name]:
            coarse = Image.fromarray(generator.integers(0, 256, (16, 16, 3), dtype=np.uint8))
            coarse.resize((side, side), Image.Resampling.BICUBIC).save(folder / line.split()[0], quality=90)
    lists["train800val200"] = lists["train800"] + lists["val200"]
    for name, lines in lists.items():
        (folder / f"{name}.txt").write_text("".join(lines))


def ours(clock: Clock, recipe: Recipe, folder: Path) -> None:
    """`rlrr train`, with a clock at the doors of its stages."""
    functions = {
        "load_data": "read",
        "training_images": "read",
        "build": "model",
        "evaluate_split": "test",
        "save_adapter": "save",
    }
    methods = {"train": "train", "evaluate": "evaluate", "_save_checkpoint": "save"}
    with ExitStack() as doors:
        for owner, names in ((run, functions), (ClassificationTrainer, methods)):
            for name, stage in names.items():
                doors.enter_context(patch.object(owner, name, clock.timed(stage, getattr(owner, name))))
        run.train(recipe, folder / "run")


class _Files(Dataset[tuple[torch.Tensor, int]]):
    """The images of a list, each decoded when it is asked for."""

    def __init__(self, task: Path, name: str, side: int) -> None:
        lines = [line.split() for line in (task / f"{name}.txt").read_text().splitlines()]
        self._items = [(task / path, int(label)) for path, label in lines]
        resize = v2.Resize((side, side), interpolation=v2.InterpolationMode.BICUBIC)
        self._prepare = v2.Compose([resize, v2.PILToTensor(), v2.ToDtype(torch.float32, scale=True), _normalize()])

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        path, label = self._items[index]
        with Image.open(path) as image:
            return self._prepare(image.convert("RGB")), label


def _normalize() -> v2.Normalize:
    return v2.Normalize([0.5] * 3, [0.5] * 3)


def official(clock: Clock, recipe: Recipe, folder: Path, workers: int, device: torch.device) -> None:
    """The procedure of the paper's code, in few words."""
    torch.manual_seed(recipe.seed)
    with clock.stage("model"):
        backbone = load_backbone(recipe.model, num_classes=CLASSES, image_size=recipe.image_size)
        network = official_form(backbone.model).to(device)
        trained = {name: parameter for name, parameter in network.named_parameters() if parameter.requires_grad}
        optimizer = torch.optim.AdamW(trained.values(), lr=RATE, weight_decay=recipe.weight_decay)
    files = partial(_Files, Path(recipe.data), side=backbone.image_size)
    pinned = {"num_workers": workers, "pin_memory": device.type == "cuda"}
    train = DataLoader(files("train800val200"), recipe.batch_size, shuffle=True, **pinned)
    test = DataLoader(files("test"), TEST_BATCH, **pinned)
    autocast = partial(torch.autocast, device.type, torch.bfloat16, enabled=recipe.precision == "bf16")
    best = 0.0
    for _ in tqdm(range(recipe.epochs), "official", unit="epoch", disable=None):
        with clock.stage("train"):
            network.train()
            for images, labels in _waiting(clock, train):
                with autocast():
                    logits = network(images.to(device, non_blocking=True))
                F.cross_entropy(logits.float(), labels.to(device)).backward()
                optimizer.step()
                optimizer.zero_grad()
        with clock.stage("evaluate"):
            accuracy = _accuracy(network.eval(), test, autocast, device)
        if accuracy >= best:
            best = accuracy
            with clock.stage("save"):
                torch.save({name: parameter.detach() for name, parameter in trained.items()}, folder / "best.pth")


def _waiting(clock: Clock, loader: Iterable[Any]) -> Iterator[Any]:
    """The batches of a loader; to wait for one is to read."""
    batches = iter(loader)
    while True:
        with clock.stage("read"):
            batch = next(batches, None)
        if batch is None:
            return
        yield batch


@torch.inference_mode()
def _accuracy(network: nn.Module, loader: Iterable[Any], autocast: Callable[[], Any], device: torch.device) -> float:
    right = []
    for images, labels in loader:
        with autocast():
            logits = network(images.to(device, non_blocking=True))
        right.append(logits.argmax(-1).cpu() == labels)
    return float(torch.cat(right).float().mean())


def measure(procedure: str, options: dict[str, Any], workers: int) -> dict[str, float]:
    """Run a procedure in this process; options are those of a recipe.

    Returns:
        Seconds by `STAGES`, and their `total`.
    """
    device = torch.device(setup(None, options["threads"]))
    torch.zeros(1, device=device)  # so that starting the GPU counts for neither
    everything = {"train_on": "trainval"} if procedure == "rlrr_trainval" else {}
    recipe = Recipe(**options, **everything)
    clock = Clock(device)
    with TemporaryDirectory() as scratch, patch.dict(os.environ, {FOLDER: f"{scratch}/cache"}), clock.stage("other"):
        if procedure == REFERENCE:
            official(clock, recipe, Path(scratch), workers, device)
        else:
            ours(clock, recipe, Path(scratch))
    return clock.seconds | {"total": sum(clock.seconds.values())}


def summary(runs: Sequence[dict[str, Any]], epochs: int, images: int, test_images: int) -> str:
    """The table of runs, each what `measure` returns with its turn and procedure."""
    turns: dict[str, list[dict[str, Any]]] = {}
    for one in runs:
        turns.setdefault(one["procedure"], []).append(one)
    reference = {one["turn"]: one["total"] for one in turns.get(REFERENCE, ())}
    rows = []
    for procedure, its in turns.items():
        trained = images * 4 // 5 if procedure == "rlrr" else images
        times = [spread([one[name] for one in its]) for name in (*STAGES, "total")]
        ratios = [one["total"] / reference[one["turn"]] for one in its if one["turn"] in reference]
        rows.append([procedure, str(trained), str(test_images), *times, spread(ratios) if ratios else "-"])
    columns = ["procedure", "train images", "test images", *(f"{name}, s" for name in (*STAGES, "total")), "ratio"]
    columns[5], columns[6] = f"train ({epochs} epochs), s", f"evaluate ({epochs} times), s"
    return markdown_table(columns, rows)


def main(
    model: str = "vit_small_focus",
    epochs: PositiveInt = 100,
    images: PositiveInt = 1000,
    test_images: PositiveInt = 1000,
    image_size: PositiveInt | None = None,
    stored_size: PositiveInt = 256,
    batch_size: PositiveInt = 64,
    precision: Literal["fp32", "bf16"] = "fp32",
    compile: bool = False,
    workers: NonNegativeInt | None = None,
    threads: PositiveInt | None = None,
    procedures: Sequence[Literal["official", "rlrr", "rlrr_trainval"]] = PROCEDURES,
    repeats: PositiveInt = 1,
    output: Path = Path("bench"),
) -> None:
    """Measure all procedures in turns.

    Args:
        model: A timm name of a ViT, which gets random weights, or vit_small_focus or a local timm folder.
        epochs: Epochs of each procedure.
        images: Images to train on, with those of val, which are one in five.
        test_images: Images to test on; VTAB's test sets have 711 to 73,728.
        image_size: Height and width in pixels of what the model sees; its own if not given.
        stored_size: Height and width in pixels of the JPEG files.
        batch_size: Images in a training batch.
        precision: fp32, or bf16 for autocast.
        compile: Compile our model, with --compile.
        workers: Processes that read images for the official procedure; up to 4 if not given. Ours needs none.
        threads: Threads of torch; None for torch's own choice.
        procedures: What is compared; ratios are to the official one.
        repeats: Turns.
        output: Folder of task.json and task.md.
    """
    workers = min(4, joblib.cpu_count()) if workers is None else workers
    setup(None, threads)
    runs: list[dict[str, Any]] = []
    with TemporaryDirectory() as scratch:
        task, weights = Path(scratch) / "generated", Path(scratch) / "backbone"
        write_task(task, images, test_images, stored_size)
        if timm.is_model(model):
            network = timm.create_model(model, num_classes=CLASSES)
            config = timm.data.resolve_model_data_config(network)
            write_timm_folder(network, weights, [str(label) for label in range(CLASSES)], config)
        options = {
            "model": str(weights) if weights.exists() else model,
            "image_size": image_size and int(image_size),  # a plain int, as recipes are written
            "epochs": int(epochs),
            "batch_size": int(batch_size),
            "precision": precision,
            "threads": threads and int(threads),
            **{"crop_mode": "squash", "crop_pct": 1.0, "normalization": "half", "learning_rate": RATE},
        }
        for turn, procedure in tqdm(list(product(range(repeats), procedures)), unit="run"):
            given = options | {"data": str(task), "compile": compile and procedure != REFERENCE}
            seconds = in_new_process(measure, procedure, given, workers)
            runs.append({"turn": turn, "procedure": procedure, **seconds})
            table = summary(runs, epochs, images, test_images)
            asked = {**options, "model": model, "compile": compile, "workers": workers, "stored_size": stored_size}
            asked |= {"images": images, "test_images": test_images}
            # each time, so that a run that is stopped leaves what it has
            write_results(output, "task", {"machine": machine(), "options": asked, "runs": runs}, table)
    print(table)


if __name__ == "__main__":
    command_line(main)
