"""Damage each file of runs, checkpoints, merged models and results, and run the commands that read it.

Used by benchmarks/reliability.py. The right end is the very answer of the undamaged files, or a sentence.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stage import Ended, Stage, content

DAMAGES = ("cut", "flip", "empty", "swap")


@dataclass(frozen=True)
class Kit:
    """Files that commands read, and the commands.

    Attributes:
        made: Folder with the files.
        other: The same files of something else, to swap with.
        name: Name of the folder where the commands look for it.
        commands: The commands by name; each writes beside the folder or into it.
    """

    made: Path
    other: Path
    name: str
    commands: dict[str, list[str]]

    @property
    def files(self) -> list[Path]:
        """Paths of the files, relative to the folder."""
        found = (path.relative_to(self.made) for path in sorted(self.made.rglob("*")) if path.is_file())
        return [path for path in found if path.name != ".lock"]


@dataclass(frozen=True)
class Case:
    """One damage to one file of a kit before one command. The number makes the damage."""

    kit: str
    file: Path
    damage: str
    command: str
    number: int


def kits(stage: Stage) -> dict[str, Kit]:
    """Make the kits that are not there yet below the stage."""
    root, images = stage.root, str(stage.root / "images")
    made = root / "kits"
    if not (made / "done").exists():
        shutil.rmtree(made, ignore_errors=True)
        made.mkdir()
        for name, seed in (("run", "0"), ("other", "1")):
            shutil.rmtree(root / name / "evaluation", ignore_errors=True)
            _expect(stage.call(["evaluate", root / name, images, "--output", root / name / "evaluation"], made))
            _expect(stage.call(["merge", root / name, "--output", f"merged {name}"], made))
            task = [*stage.commands["reproduce"][:-1], f"task {name}"]
            _expect(stage.call(task if name == "run" else _with(task, "--epochs", ["3"]), made))
            folder = made / f"stopped {name}"
            # with two checkpoints: what the second holds is written down last
            last = folder / "checkpoints" / "checkpoint-12" / "checkpoint.json"
            train = [*stage.train, "--seed", seed, "--output", folder.name]
            ended = stage.call(train, made, _once_there(last))
            if not ended.was_killed:
                raise RuntimeError(f"the training was not stopped: {ended}")
        shutil.rmtree(made / "cache")
        (made / "done").touch()
    onto = ["train", images, "--precision", "fp32", "--method", "linear", "--epochs", "1", "--output", "new"]
    return {
        "finished run": Kit(
            root / "run",
            root / "other",
            "run",
            {
                "predict": ["predict", "run", f"{images}/test/red/0.png", f"{images}/test/blue/1.png", "--json"],
                "evaluate": ["evaluate", "run", images, "--output", "evaluated", "--json"],
                "merge": ["merge", "run", "--output", "merged"],
                "resume": ["train", "--output", "run", "--resume", "--json"],
                "analyze": ["analyze", "run", "--output", "analysis", "--json"],
            },
        ),
        "stopped run": Kit(
            made / "stopped run",
            made / "stopped other",
            "run",
            {"resume": ["train", "--output", "run", "--resume", "--json"]},
        ),
        "merged model": Kit(
            made / "merged run", made / "merged other", "merged", {"train": [*onto, "--model", "merged"]}
        ),
        "results": Kit(
            made / "task run",
            made / "task other",
            "out/task",
            {"reproduce": [*stage.commands["reproduce"][:-1], "out/task"]},
        ),
    }


def cases(kits: dict[str, Kit], repeats: int) -> list[Case]:
    """List all cases; cuts and flips, which are drawn, so many times each.

    Their order is drawn once, so that a measurement that ends early has seen some of each kind.
    """
    every = list(_cases(kits, repeats))
    random.Random(0).shuffle(every)
    return every


def _cases(kits: dict[str, Kit], repeats: int) -> Iterator[Case]:
    number = 0
    for kit_name, kit in kits.items():
        for file in kit.files:
            for damage in DAMAGES:
                for command in kit.commands:
                    for _ in range(repeats if damage in ("cut", "flip") else 1):
                        yield Case(kit_name, file, damage, command, number)
                        number += 1


def damage(stage: Stage, kit: Kit, case: Case) -> dict[str, Any]:
    """Run the command of a case on undamaged files, if that was not done before, and on damaged ones."""
    facts = {"kit": case.kit, "file": str(case.file), "damage": case.damage, "command": case.command}
    key = f"{case.kit}: {case.command}"
    if key not in stage.baselines:
        folder = _laid_out(stage, kit)
        ended = stage.call(kit.commands[case.command], folder)
        _expect(ended)
        stage.baselines[key] = _answer(ended, kit, folder, case), ended
    expected, _ = stage.baselines[key]
    folder = _laid_out(stage, kit)
    if not _do(case, kit, folder / kit.name / case.file):
        return facts | {"result": "no change", "ok": True}
    ended = stage.call(kit.commands[case.command], folder)
    if ended.code == 0:
        right = _answer(ended, kit, folder, case) == expected
        return facts | {"result": "right" if right else "wrong", "said": ended.said, "ok": right}
    result = "sentence" if ended.is_sentence else "traceback"
    return facts | {"result": result, "said": ended.said, "ok": ended.is_sentence}


def _laid_out(stage: Stage, kit: Kit) -> Path:
    folder = stage.empty()
    shutil.copytree(kit.made, folder / kit.name)
    return folder


def _answer(ended: Ended, kit: Kit, folder: Path, case: Case) -> tuple[str, dict[str, Any]]:
    """Return what a command has printed and what it has written: its answer, which damaged files must not change."""
    written = content(folder)
    if case.kit == "results":  # the runs beside them are not read again
        written = {name: value for name, value in written.items() if Path(name).name.startswith("results.")}
    elif case.kit != "stopped run":
        written = {name: value for name, value in written.items() if not name.startswith(f"{kit.name}/")}
    printed = ended.out if case.command in ("predict", "evaluate", "analyze") else ""
    return printed, {name: value for name, value in written.items() if not name.startswith("cache/")}


def _do(case: Case, kit: Kit, path: Path) -> bool:
    """Damage a file, and tell whether it is another one now."""
    draw, before = random.Random(case.number), path.read_bytes()
    if case.damage == "cut":
        after = before[: int(len(before) * draw.random())]
    elif case.damage == "flip" and before:
        position = draw.randrange(len(before))
        changed = bytes([before[position] ^ 1 << draw.randrange(8)])
        after = before[:position] + changed + before[position + 1 :]
    elif case.damage == "swap" and (kit.other / case.file).exists():
        after = (kit.other / case.file).read_bytes()
    elif case.damage == "empty":
        after = b""
    else:
        after = before
    path.write_bytes(after)
    return after != before


def _once_there(file: Path) -> Callable[[int], None]:
    """Kill the process at its first file operation after a file is there."""

    def look(number: int) -> None:
        if file.exists():
            os.kill(os.getpid(), signal.SIGKILL)

    return look


def _with(command: list[str], option: str, values: list[str]) -> list[str]:
    at = command.index(option) + 1
    return [*command[:at], *values, *command[at + len(values) :]]


def _expect(ended: Ended) -> None:
    if ended.code:
        raise RuntimeError(f"it fails without any damage: {ended.err}")
