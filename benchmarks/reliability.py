"""Measure what is lost or wrong when a command is killed, its disk fills, its files are damaged or its input is odd.

    python benchmarks/reliability.py --output bench

Four parts, each on tiny data and a ViT of two blocks, on one thread:

    kills    SIGKILL at a random moment or file operation of train, reproduce, merge, export and analyze; then the same
             command again (train with --resume), which has to leave, to the bit, what an undisturbed run leaves, and
             neither half-written nor temporary files
    disk     the same with a disk that fills before a random file operation (a file system of 64 MiB where one can be
             mounted), and has room again before the command is repeated: one sentence, then the same end
    damage   every file of a run, a stopped run, a merged model and results of `reproduce` cut short, with one bit
             flipped, emptied, or swapped with another run's; then each command that may read it: the right answer or
             one sentence
    fuzz     image files, recipes and adapter folders made by hypothesis: read rightly, or refused in one sentence, with
             at most 1 GiB of memory and within 300 s

A case is drawn from its number, and each is written down as it ends: a run that is stopped goes on by the same command.
A part ends after `minutes`, whatever is left of it, and the table says how many cases were run.

Prints a table, and writes it with all cases to reliability.md and reliability.json in the output folder. The exit code
is 1 if anything was lost or wrong.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from damage import cases as damage_cases
from damage import damage, kits
from disturb import fill, kill
from fuzz import CHUNK, fuzz
from jsonargparse.typing import NonNegativeInt, PositiveFloat, PositiveInt
from measure import command_line, machine, markdown_table, write_results
from stage import Stage
from tqdm import tqdm

from rlrr.errors import RLRRError
from rlrr.files import read_json

PARTS = ("kills", "disk", "damage", "fuzz")
FUZZED = {"image": 2, "recipe": 1, "adapter": 1}  # shares of the examples

Case = Callable[[], dict[str, Any]]


def cases(part: str, stage: Stage, counts: dict[str, int], seed: int) -> list[Case]:
    """List the cases of a part, each to be called."""
    if part == "kills":
        return [lambda i=i: kill(stage, i, seed) for i in range(counts["kills"])]  # type: ignore[misc]
    if part == "disk":
        return [lambda i=i: fill(stage, i, seed) for i in range(counts["fills"])]  # type: ignore[misc]
    if part == "damage":
        made = kits(stage)
        every = damage_cases(made, counts["repeats"])
        return [lambda case=case: damage(stage, made[case.kit], case) for case in every]  # type: ignore[misc]
    return [lambda kind=kind, i=i: fuzz(stage, kind, i) for kind, i in _chunks(counts["examples"], seed)]  # type: ignore[misc]


def _chunks(examples: int, seed: int) -> Iterator[tuple[str, int]]:
    for kind, share in FUZZED.items():
        for number in range(max(1, examples * share // (CHUNK * sum(FUZZED.values())))):
            yield kind, 1000 * seed + number


def summary(parts: dict[str, dict[str, Any]]) -> str:
    """Write the table: a row for each command, kit of files or kind of input, in the order of the parts."""
    rows = []
    for part, result in parts.items():
        groups: dict[str, list[dict[str, Any]]] = {}
        for case in result["cases"]:
            groups.setdefault(_group(part, case), []).append(case)
        for name, group in sorted(groups.items()):
            rows.append(
                [part, name, str(_count(group)), _ends(part, group), str(sum(not case["ok"] for case in group))]
            )
    table = markdown_table(["part", "of", "cases", "ends", "wrong"], rows)
    times = ", ".join(
        f"{part} {result['seconds'] / 60:.1f} min ({len(result['cases'])} of {result['planned']})"
        for part, result in parts.items()
    )
    return f"{table}\n\nTime: {times}."


def _group(part: str, case: dict[str, Any]) -> str:
    if part == "damage":
        return f"{case['kit']}, {case['damage']}"
    return f"{case['kind']} files" if part == "fuzz" else case["command"]


def _count(group: Sequence[dict[str, Any]]) -> int:
    return sum(case.get("examples", 1) for case in group)


def _ends(part: str, group: Sequence[dict[str, Any]]) -> str:
    """Tell in words how the cases of a group ended."""
    if part == "kills":
        killed = sum(case["killed"] for case in group)
        return f"{killed} killed; {sum(case['ok'] for case in group)} ended as undisturbed"
    if part == "disk":
        said = sum(bool(case["said"]) for case in group)
        return f"{said} said so; {sum(case['ok'] for case in group)} ended as undisturbed"
    if part == "damage":
        counts = Counter(case["result"] for case in group)
        return ", ".join(f"{number} {result}" for result, number in sorted(counts.items()))
    sentences, peak = sum(case["sentences"] for case in group), max(case["peak_mib"] for case in group)
    slowest = max(case["slowest"] for case in group)
    return f"{sentences} refused in a sentence; at most {peak:.0f} MiB, {slowest:.1f} s"


def main(
    parts: Sequence[Literal["kills", "disk", "damage", "fuzz"]] = PARTS,
    kills: PositiveInt = 50,
    fills: PositiveInt = 30,
    repeats: PositiveInt = 3,
    examples: PositiveInt = 2000,
    seed: NonNegativeInt = 0,
    minutes: PositiveFloat = 75.0,
    output: Path = Path("bench"),
) -> None:
    """Run the parts, or go on with them.

    Args:
        parts: The parts to run.
        kills: Number of kills.
        fills: Number of times that a disk fills.
        repeats: Number of cuts, and of flips, of each file for each command.
        examples: Number of inputs made by hypothesis, half of them images.
        seed: Seed of all that is drawn.
        minutes: Longest time of a part.
        output: Folder of reliability.json, reliability.md and of the stage.
    """
    stage = Stage(output.resolve() / "reliability-stage", fresh=True)
    stage.prepare()
    counts = {"kills": kills, "fills": fills, "repeats": repeats, "examples": examples}
    asked = {name: int(count) for name, count in counts.items()} | {"seed": int(seed)}
    results = _begun(output, asked)
    for part in parts:
        listed = cases(part, stage, asked, int(seed))
        result = results["parts"].setdefault(part, {"seconds": 0.0, "planned": len(listed), "cases": []})
        done = len(result["cases"])
        for case in tqdm(listed[done:], desc=part, unit="case"):
            start = time.monotonic()
            result["cases"].append(case())
            result["seconds"] += time.monotonic() - start
            write_results(output, "reliability", results, summary(results["parts"]))
            if result["seconds"] > 60 * minutes:
                break
    print(summary(results["parts"]))
    if wrong := [case for result in results["parts"].values() for case in result["cases"] if not case["ok"]]:
        raise RLRRError(f"{len(wrong)} cases went wrong, such as {wrong[0]}")


def _begun(output: Path, asked: dict[str, int]) -> dict[str, Any]:
    """Read what an earlier run with the same options has written down, or begin."""
    path = output / "reliability.json"
    if path.exists() and (earlier := read_json(path))["options"] == asked:
        return earlier
    return {"machine": machine(), "options": asked, "parts": {}}


if __name__ == "__main__":
    command_line(main)
