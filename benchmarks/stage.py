"""Set the stage of benchmarks/reliability.py: tiny images and runs, a process for each command, what it leaves behind.

A command runs in a copy of this process, which has loaded everything before: a fork. There it can be ended at a moment
of the clock, or something can be done at one of its file operations, which Python's audit hooks count.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from PIL import Image
from safetensors import SafetensorError, safe_open

from rlrr.cli.main import COMMANDS, command_module, main
from rlrr.data.cache import FOLDER as CACHE
from rlrr.errors import RLRRError
from rlrr.files import file_checksum, is_temporary
from rlrr.interop.timm_folder import write_timm_folder

TRACEBACK = 70  # exit code of a command that ended in one
LONGEST = 300.0  # seconds after which a command counts as hanging
CLASSES = ("red", "green", "blue")

_LOADED_LATE = ("rlrr.training.run", "rlrr.compare.runner", "rlrr.compare.document", "rlrr.interop.merge")
_LOADED_LATE += ("rlrr.interop.onnx", "rlrr.spectral.analyze", "torch.onnx", "onnxscript", "onnxruntime")
_OPENED_TO_WRITE = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
_CHANGES = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate")
_TIMES = {"train_seconds", "seconds", "peak_memory_mb", "training", "peak memory", "sha256", "files_sha256"}


@dataclass(frozen=True)
class Ended:
    """How a command ended: exit code (below 0 the signal), output, number of its file operations, and seconds."""

    code: int
    out: str
    err: str
    operations: int
    seconds: float

    @property
    def was_killed(self) -> bool:
        """Whether it was ended from outside, or by what was done at one of its file operations."""
        return self.code == -signal.SIGKILL

    @property
    def said(self) -> str:
        """The last line on stderr."""
        return self.err.strip().rpartition("\n")[2]

    @property
    def is_sentence(self) -> bool:
        """Whether it was refused as a user should be: a line of `rlrr` and an exit code, without a traceback."""
        return self.code in (1, 2) and "rlrr: " in self.err and "Traceback" not in self.err


@dataclass(frozen=True, eq=False)
class Stage:
    """Tiny images, a task of VTAB-1k, a backbone of two blocks, and runs on them, below one folder."""

    root: Path
    fresh: bool = False
    """Whether undisturbed commands run in a new process of Python, which orders sets in another way."""
    baselines: dict[str, Any] = field(default_factory=dict)
    """What undisturbed commands have left, and how they ended, by name."""

    def prepare(self) -> None:
        """Make what is not there yet, and load all that commands load."""
        torch.set_num_threads(1)
        for name in COMMANDS:
            command_module(name)
        for name in _LOADED_LATE:
            import_module(name)
        if not (self.root / "prepared").exists():
            shutil.rmtree(self.root, ignore_errors=True)
            self.root.mkdir(parents=True)
            _write_backbone(self.root / "backbone")
            for seed, (split, count) in enumerate((("train", 8), ("val", 3), ("test", 3))):
                _write_images(self.root / "images" / split, count, seed)
            _write_task(self.root / "vtab" / "kitti")
            for name, seed in (("run", 0), ("other", 1)):
                ended = self.call([*self.train, "--seed", str(seed), "--output", name], self.root)
                if ended.code:
                    raise RLRRError(f"The stage cannot be set: {ended.err}")
            (self.root / "prepared").touch()

    @cached_property
    def train(self) -> list[str]:
        """The command that trains, without its output."""
        random = ["--flip", "--drop-path", "0.3", "--mixup", "0.4", "--log-deviation"]
        return ["train", str(self.root / "images"), *self.quick, "--epochs", "3", "--batch-size", "4", *random]

    @cached_property
    def quick(self) -> list[str]:
        """Options of a training that is short and equal to the bit each time."""
        return ["--model", str(self.root / "backbone"), "--precision", "fp32"]

    @cached_property
    def commands(self) -> dict[str, list[str]]:
        """The commands that are disturbed; all write into the folder `out`."""
        run = str(self.root / "run")
        task = ["reproduce", "vtab1k", str(self.root / "vtab"), "--tasks", "kitti", *self.quick, "--image-size", "32"]
        budget = ["--epochs", "2", "--cooldown", "0", "--seeds", "0", "1", "--rates", "1"]
        return {
            "train": [*self.train, "--output", "out/run"],
            "reproduce": [*task, *budget, "--output", "out/vtab"],
            "merge": ["merge", run, "--output", "out/merged"],
            "export": ["export", run, "--output", "out/run.onnx"],
            "analyze": ["analyze", run, "--output", "out/analysis"],
        }

    def again(self, name: str, folder: Path) -> list[str]:
        """The command by which a user goes on with one that was stopped."""
        resume = name == "train" and (folder / "out" / "run" / "recipe.yaml").exists()
        return [*self.commands[name], "--resume"] if resume else self.commands[name]

    def undisturbed(self, name: str) -> tuple[dict[str, Any], Ended]:
        """Run a command that nothing disturbs, once: what it leaves, and how it ended."""
        if name not in self.baselines:
            folder = self.empty("undisturbed")
            ended = self.call(self.commands[name], folder)
            if self.fresh and not ended.code:
                folder = self.empty("undisturbed")
                words = [sys.executable, "-m", "rlrr.cli.main", *self.commands[name]]
                subprocess.run(words, cwd=folder, env=_environment(folder), check=True, capture_output=True)
            if ended.code:
                raise RLRRError(f"{name} fails without any disturbance: {ended.err}")
            self.baselines[name] = content(folder / "out"), ended
        return self.baselines[name]

    def empty(self, name: str = "case") -> Path:
        """Make an empty folder below the root, in the place of an earlier one of that name."""
        folder = self.root / name
        shutil.rmtree(folder, ignore_errors=True)
        (folder / "out").mkdir(parents=True)
        return folder

    def call(
        self,
        arguments: Sequence[str],
        folder: Path,
        at: Callable[[int], None] | None = None,
        kill_after: float | None = None,
    ) -> Ended:
        """Run a command in a folder, with a cache of its own there, in a process of its own.

        Args:
            arguments: What follows `rlrr`.
            folder: The working folder, whose file operations are counted.
            at: Called before each of them with its number, from 1.
            kill_after: Seconds after which the process is killed.
        """
        start = time.monotonic()
        with tempfile.TemporaryDirectory() as scratch:
            texts = {name: Path(scratch) / name for name in ("out", "err", "operations")}
            if not (child := os.fork()):
                _run(arguments, folder, texts, at)
            status = _wait(child, start, kill_after)
            read = [path.read_text(errors="replace") if path.exists() else "" for path in texts.values()]
        return Ended(os.waitstatus_to_exitcode(status), *read[:2], int(read[2] or 0), time.monotonic() - start)


def _run(arguments: Sequence[str], folder: Path, texts: Mapping[str, Path], at: Callable[[int], None] | None) -> None:
    """Be the process of a command, up to its exit."""
    code = TRACEBACK
    try:
        os.chdir(folder)
        os.environ |= _environment(folder)
        for number, name in ((1, "out"), (2, "err")):
            os.dup2(os.open(texts[name], os.O_WRONLY | os.O_CREAT, 0o600), number)
        sys.stdout, sys.stderr = (os.fdopen(number, "w", encoding="utf-8", closefd=False) for number in (1, 2))
        operations = _Operations(folder, at)
        sys.addaudithook(operations)
        try:
            code = main([str(argument) for argument in arguments])
        except BaseException:
            traceback.print_exc()
        operations.folder = None
        texts["operations"].write_text(str(operations.count))
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code)


def _environment(folder: Path) -> dict[str, str]:
    return {**os.environ, "HF_HUB_OFFLINE": "1", CACHE: str(folder / "cache")}


def _wait(child: int, start: float, kill_after: float | None) -> int:
    until = start + (LONGEST if kill_after is None else kill_after)
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return status
        if time.monotonic() >= until:
            os.kill(child, signal.SIGKILL)
            until = float("inf")
        time.sleep(0.001)


class _Operations:
    """An audit hook that counts what changes files in a folder."""

    def __init__(self, folder: Path, at: Callable[[int], None] | None) -> None:
        self.folder: str | None = f"{folder}{os.sep}"
        self.count, self._at = 0, at

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.folder is None or not self._changes(event, arguments):
            return
        self.count += 1
        if self._at:
            folder, self.folder = self.folder, None  # what is done here is not counted
            try:
                self._at(self.count)
            finally:
                self.folder = folder

    def _changes(self, event: str, arguments: tuple[Any, ...]) -> bool:
        if event == "open":
            if not (isinstance(arguments[2], int) and arguments[2] & _OPENED_TO_WRITE):
                return False
        elif event not in _CHANGES:
            return False
        path, others = arguments[0], arguments[1:]
        if not isinstance(path, (str, bytes, os.PathLike)):
            return False
        in_open_folder = event in ("os.remove", "os.rmdir") and others[-1] != -1  # shutil.rmtree goes down by numbers
        return in_open_folder or os.path.abspath(os.fsdecode(path)).startswith(str(self.folder))


def content(folder: Path) -> dict[str, Any]:
    """Return what the files below a folder hold, by name, without times, peaks of memory and TensorBoard's logs."""
    return {
        str(path.relative_to(folder)): _content(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != ".lock" and "tensorboard" not in path.parts
    }


def _content(path: Path) -> Any:
    try:
        if path.suffix == ".json":
            return _timeless(json.loads(path.read_text(encoding="utf-8")))
        if path.suffix == ".jsonl":
            return [_timeless(json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]
        if path.suffix == ".md":
            lines = path.read_text(encoding="utf-8").splitlines()
            return [line for line in lines if not line.startswith(("- training:", "- peak memory:"))]
        if path.suffix == ".yaml":  # the comments name the folder that the command was started in
            return [line for line in path.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    except ValueError:
        pass
    return file_checksum(path)


def _timeless(value: Any) -> Any:
    if isinstance(value, list):
        return [_timeless(member) for member in value]
    if not isinstance(value, dict):
        return value
    return {
        name: _timeless(member)
        for name, member in value.items()
        if name not in _TIMES and not name.endswith(("_runtime", "_per_second"))
    }


def remains(folder: Path) -> list[str]:
    """List the temporary files and the checkpoints below a folder, of which a command that is done leaves none."""
    return [
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if is_temporary(path) or path.name == "checkpoints" or path.name.endswith((".tmp", ".part"))
    ]


def half_written(folder: Path) -> list[str]:
    """List the files below a folder that cannot be read, but for those that no command takes for finished."""
    return [str(path.relative_to(folder)) for path in folder.rglob("*") if _is_result(path) and not _can_be_read(path)]


def _is_result(path: Path) -> bool:
    unfinished = "checkpoints" in path.parts or any(map(is_temporary, (path, *path.parents)))
    return path.is_file() and not unfinished and path.suffix in (".json", ".safetensors", ".onnx", ".png")


def _can_be_read(path: Path) -> bool:
    try:
        if path.suffix == ".json":
            json.loads(path.read_text(encoding="utf-8"))
        elif path.suffix == ".safetensors":
            with safe_open(path, "pt"):
                pass
        elif path.suffix == ".png":
            with Image.open(path) as image:
                image.load()
        else:
            import onnx

            onnx.checker.check_model(str(path))
    except (OSError, ValueError, SafetensorError):
        return False
    except Exception:  # onnx has errors of its own
        return path.suffix != ".onnx"
    return True


def _write_backbone(folder: Path) -> None:
    """A ViT of two blocks on 32 pixels, with random weights."""
    torch.manual_seed(0)
    sizes = {"img_size": 32, "patch_size": 8, "depth": 2, "embed_dim": 32, "num_heads": 2}
    model = timm.create_model("vit_tiny_patch16_224", num_classes=2, **sizes)
    write_timm_folder(model, folder, ["a", "b"], timm.data.resolve_model_data_config(model, {"img_size": 32}))


def _write_images(folder: Path, count: int, seed: int) -> None:
    """Noise, with one bright channel for each class."""
    generator = np.random.default_rng(seed)
    for label, name in enumerate(CLASSES):
        (folder / name).mkdir(parents=True)
        for number in range(count):
            _picture(generator, label).save(folder / name / f"{number}.png")


def _write_task(folder: Path) -> None:
    """A task in VTAB's layout, with 8 images to train on, 4 of val and 8 of test."""
    generator = np.random.default_rng(9)
    lists: dict[str, list[str]] = {"train800val200": []}
    for name, count in (("train800", 8), ("val200", 4), ("test", 8)):
        (folder / "images" / name).mkdir(parents=True)
        lists[name] = [f"images/{name}/{number:06}.jpg {number % 4}\n" for number in range(count)]
        for line in lists[name]:
            path, label = line.split()
            _picture(generator, int(label)).save(folder / path, quality=75)
    (folder / "images" / "train800val200").mkdir()
    for number, line in enumerate(lists["train800"] + lists["val200"]):
        path, label = line.split()
        copy = f"images/train800val200/{number:06}.jpg"
        shutil.copyfile(folder / path, folder / copy)
        lists["train800val200"].append(f"{copy} {label}\n")
    for name, lines in lists.items():
        (folder / f"{name}.txt").write_text("".join(lines))


def _picture(generator: np.random.Generator, label: int) -> Image.Image:
    pixels = generator.integers(0, 120, (40, 36, 3), dtype=np.uint8)
    pixels[..., label % 3] += 100
    return Image.fromarray(pixels)
