"""Published numbers for VTAB-1k, FGVC and RLRR's ablations, read from `published.toml`; none of them was run here."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from itertools import chain
from typing import Any


@dataclass(frozen=True)
class Published:
    """One row of a table, in percent.

    Attributes:
        tasks: Accuracy by task; empty if we know the means only.
        groups: Mean accuracy by group of tasks, in VTAB-1k natural, specialized and structured.
        mean: Over all tasks.
        mean_of_groups: Over the three groups, which some papers print instead; it is about 2 points higher.
        source: Where it is printed.
        protocol: How the numbers came about, in a few words.
        note: Remark on what does not agree, or is not printed there.
    """

    tasks: dict[str, float]
    groups: dict[str, float]
    mean: float
    mean_of_groups: float | None
    source: str
    protocol: str
    note: str


@dataclass(frozen=True)
class Variant:
    """One row of an ablation: the settings of the method that make it, and its accuracies."""

    settings: dict[str, Any]
    accuracy: dict[str, float]


@dataclass(frozen=True)
class Ablation:
    """A table of the paper that changes one thing: on what, where it is, how the numbers came about, and its rows."""

    benchmark: str
    source: str
    protocol: str
    variants: tuple[Variant, ...]


def published(benchmark: str, model: str, method: str) -> Published | None:
    """Find the numbers that are printed for a method on a backbone, or None if we know of none.

    Args:
        benchmark: vtab1k or fgvc.
        model: timm name with its tag.
        method: A method's name, as in a recipe.
    """
    tables = _tables()
    wanted = (benchmark, model, method)
    row = next((r for r in tables["results"] if (r["benchmark"], r["model"], r["method"]) == wanted), None)
    if row is None:
        return None
    groups = tables["tasks"][benchmark]
    names = list(chain.from_iterable(groups.values()))
    return Published(
        tasks=dict(zip(names, row["tasks"], strict=True)) if "tasks" in row else {},
        groups=dict(zip(groups, row["groups"], strict=True)) if "groups" in row else {},
        mean=row["mean"],
        mean_of_groups=row.get("mean_of_groups"),
        source=tables["sources"][row["source"]],
        protocol=tables["protocols"]["rlrr" if method == "rlrr" else "others"],
        note=row.get("note", ""),
    )


def published_ablation(name: str) -> Ablation | None:
    """Find a table of the paper, or None if its numbers are not known, as for parts and layers (Fig. 2).

    Args:
        name: sides (Table 6), init_weights (10) or multiply_weight (11).
    """
    tables = _tables()
    table = tables["ablations"].get(name)
    if table is None:
        return None
    return Ablation(
        benchmark=table["benchmark"],
        source=f"{tables['sources'][table['source']]}, {table['table']}",
        protocol=tables["protocols"]["rlrr"],
        variants=tuple(
            Variant(row["settings"], dict(zip(table["measures"], row["accuracy"], strict=True)))
            for row in table["variants"]
        ),
    )


@cache
def _tables() -> dict[str, Any]:
    return tomllib.loads((files(__package__) / "published.toml").read_text(encoding="utf-8"))
