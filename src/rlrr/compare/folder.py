"""The folder of a result: the plan it belongs to, the check that its data are the same, and a lock for one process."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import fields, replace
from functools import cache
from pathlib import Path

from filelock import FileLock, Timeout

from rlrr.adapters.record import RECORD, read_record
from rlrr.compare.plan import Plan, Result, listed
from rlrr.data import ImageData, Split, data_source, load_data
from rlrr.data.digest import data_digest
from rlrr.errors import RLRRError, UsageError
from rlrr.files import read_json, write_json
from rlrr.recipes.files import RECIPE
from rlrr.recipes.recipe import ELSEWHERE, Recipe, differences

RESULT, OPTIONS = "result.json", "options.json"


def find_result(plan: Plan, fingerprint: str, folder: Path) -> Result | None:
    """Read the finished result of a plan; None if there is none yet. Nothing is written.

    Args:
        fingerprint: SHA-256 of the backbone's weights.

    Raises:
        RLRRError: what is there was made with other options or weights, on other data, or is damaged.
    """
    if not (folder / OPTIONS).exists():
        return None
    result, source = _made(plan, fingerprint, folder)
    if result is None or source != data_source(plan.recipe.data):
        check_data(plan, folder)
    return result


def shown_result(plan: Plan, fingerprint: str, folder: Path) -> Result | None:
    """Read the finished result of a plan, wherever its data are by now; None if there is none that fits."""
    with suppress(RLRRError):
        return _made(plan, fingerprint, folder)[0]
    return None


def read_result(folder: Path) -> Result:
    """Read `result.json`.

    Raises:
        RLRRError: it is missing or damaged.
    """
    content = read_json(folder / RESULT)
    if not isinstance(content, dict) or content.keys() != {field.name for field in fields(Result)}:
        raise RLRRError(f"{folder / RESULT} is damaged: delete it, and it is made again from the runs beside it.")
    return Result(**content)


def check_data(plan: Plan, folder: Path) -> None:
    """Refuse data that are not those of the finished runs in a folder; the same data may lie elsewhere now.

    Raises:
        RLRRError: naming the runs.
    """
    digests: dict[tuple[tuple[str, ...], ...], str] = {}

    @cache
    def at_hand(seed: int) -> ImageData:
        return load_data(plan.recipe.data, val_fraction=plan.recipe.val_fraction, seed=seed)

    def digest(*splits: Split) -> str:
        names = tuple(tuple(split.names) for split in splits)  # of most data the same with all seeds
        if names not in digests:
            digests[names] = data_digest(*splits, skip_unreadable=plan.recipe.bad_images == "skip")
        return digests[names]

    changed = []
    for path in sorted(folder.glob(f"*/{RECORD}")):
        record = read_record(path.parent)
        data, tested = at_hand(record.recipe["seed"]), record.data["test_sha256"]
        same = digest(data.train, data.val) == record.data["sha256"]
        if not same or (tested and not (data.test and digest(data.test) == tested)):
            changed.append(path.parent.name)
    if changed:
        raise UsageError(
            f"{', '.join(changed)} in {folder} had other images than {plan.recipe.data} has now: delete {folder}, or "
            "give another `output`.",
        )


def adopt(plan: Plan, fingerprint: str, folder: Path) -> None:
    """Write the plan into its locked folder, and delete unfinished runs whose data lay elsewhere.

    The folder has to be the plan's, as `find_result` sees to.
    """
    source = data_source(plan.recipe.data)
    if (folder / OPTIONS).exists() and read_json(folder / OPTIONS)["source"] != source:
        for path in folder.glob(f"*/{RECIPE}"):
            if not (path.parent / RECORD).exists():
                shutil.rmtree(path.parent, ignore_errors=True)
    write_json(folder / OPTIONS, plan.options() | {"fingerprint": fingerprint, "source": source})


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Work in a folder alone, and make it if it is not there.

    Raises:
        RLRRError: another process works there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / ".lock", timeout=0):
            yield
    except Timeout:
        raise RLRRError(f"Another process works in {folder}: wait for it, or give another `output`.") from None


def _made(plan: Plan, fingerprint: str, folder: Path) -> tuple[Result | None, str]:
    """Read the result in a folder, if it is finished, and where its data lay.

    Raises:
        RLRRError: it was made with other options or weights, or is damaged.
    """
    made = read_json(folder / OPTIONS)
    result = read_result(folder) if (folder / RESULT).exists() else None
    try:
        recipe, source = Recipe(**made["recipe"]), made["source"]
        changed = [
            f"{key}: {_text(made[key])} -> {_text(now)}"
            for key, now in plan.options().items()
            if key != "recipe" and made[key] != now
        ]
        weights = result.fingerprint if result else made.get("fingerprint", fingerprint)
    except (KeyError, TypeError, RLRRError):
        raise RLRRError(
            f"{folder / OPTIONS} is damaged, or of another version of rlrr: give another `output`."
        ) from None
    if recipe.digest() != plan.recipe.digest():
        here = {name: getattr(plan.recipe, name) for name in ELSEWHERE}
        changed += differences(replace(recipe, **here), plan.recipe)
    if weights != fingerprint:
        changed.append(f"weights of the backbone: {weights[:12]} -> {fingerprint[:12]}")
    if changed:
        raise UsageError(
            f"{folder} was made with other options ({'; '.join(changed)}): give the same ones, or another `output`.",
        )
    return result, source


def _text(value: str | list[float]) -> str:
    return value if isinstance(value, str) else listed(value)
