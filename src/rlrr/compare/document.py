"""What is written of a comparison: `results.md`, `results.json` and `results.png`, with all that a number needs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from rlrr import plots
from rlrr.compare.ablation import AblationTable
from rlrr.compare.benchmarks import BENCHMARKS
from rlrr.compare.picture import ablation_picture, benchmark_picture
from rlrr.compare.protocol import Plan, Result, learning_rate
from rlrr.compare.published import Published
from rlrr.compare.table import (
    ablation_lines,
    ablation_rows,
    benchmark_lines,
    benchmark_rows,
    markdown,
)
from rlrr.files import atomic, write_json

_PRINTED = "The paper's numbers are best test epochs of one seed: the test images chose the epoch. "
_COMPARED = {
    "honest": f"{_PRINTED}Ours are not chosen on them, so that equal methods differ in the paper's favour.",
    "paper": f"{_PRINTED}So are ours here, and neither is comparable with numbers that were not chosen so.",
}


@dataclass(frozen=True)
class Document:
    """A comparison as text, as data and as a picture."""

    text: str
    content: dict[str, Any]
    picture: Figure

    def write(self, folder: Path) -> None:
        """Write all three to a folder, each file atomically."""
        with atomic(folder / "results.md") as temporary:
            temporary.write_text(self.text, encoding="utf-8", errors="replace")
        write_json(folder / "results.json", self.content)
        plots.save(self.picture, folder / "results.png")


def benchmark_document(
    title: str,
    groups: Mapping[str, Mapping[str, str]],
    plan: Plan,
    results: Mapping[str, Result],
    printed: Published | None,
    changes: Mapping[str, Any],
) -> Document:
    """A benchmark's table, with the means, beside the paper's.

    Args:
        title: Of the benchmark.
        groups: As `benchmark_lines` takes them.
        plan: Of any task; its label is that of the numbers.
        results: By task.
        printed: The paper's numbers.
        changes: What differs from the paper's recipes, by option.
    """
    lines = benchmark_lines(groups, results, printed)
    columns = ["task", f"ours ({'best test epoch' if plan.protocol == 'paper' else 'last epoch'}), %", "seeds"]
    columns += ["paper (best test epoch), %", "difference"]
    differs = ", ".join(f"{name}={value}" for name, value in changes.items())
    facts = _facts(plan, list(results.values())) | {
        "recipes": f"not the paper's recipe: {differs}" if differs else "the paper's, one a task",
        "paper": printed.source if printed else f"nothing printed for {plan.recipe.method} on {plan.recipe.model}",
    }
    notes = [_COMPARED[plan.protocol]] if printed else []
    if printed and printed.note:
        notes.append(printed.note)
    heading = f"{title}, {plan.recipe.method}: {plan.label}"
    tasks = iter(lines)
    grouped = [[next(tasks) for _ in members] for members in groups.values()]
    grouped.append(list(tasks))
    return Document(
        text=_text(heading, facts, [("", markdown(columns, benchmark_rows(lines)))], notes),
        content=_content(heading, facts, notes)
        | {
            "lines": [asdict(line) | {"difference": line.difference} for line in lines],
            "results": {name: asdict(result) for name, result in results.items()},
        },
        picture=benchmark_picture(grouped, f"{title}, {plan.recipe.method}", plan.label),
    )


def ablation_document(
    tables: Sequence[AblationTable], plan: Plan, results: Mapping[str, Mapping[str, Result]]
) -> Document:
    """The tables of an ablation; `results` are by data and variation."""
    every = [result for of_data in results.values() for result in of_data.values()]
    lines = {table.title: ablation_lines(table, results) for table in tables}
    data = list(results)
    sections = []
    for table in tables:
        printed = "paper"
        if table.paper:
            printed += f": {BENCHMARKS[table.paper.benchmark].title} {' / '.join(table.paper.variants[-1].accuracy)}, %"
        columns = ["variant", "parameters", *(f"{name}, %" for name in data), *(["mean, %"] if len(data) > 1 else [])]
        columns += ["to full", printed, "to full (paper)"]
        sections.append((table.title, markdown(columns, ablation_rows(lines[table.title]))))
    sources = [table.paper.source for table in tables if table.paper]
    facts = _facts(plan, every) | {
        "recipe": ", ".join(f"{name} {value}" for name, value in _chosen(plan).items()),
        "paper": "; ".join(sources) or "its numbers are in a plot only",
    }
    notes = [
        f"± is the sample deviation over {len(plan.seeds)} seeds"
        + (
            ", of a difference that of the differences seed by seed."
            if len(plan.seeds) > 1
            else "; with one it is unknown."
        )
    ]
    if sources:
        notes.append(_COMPARED[plan.protocol])
    heading = f"Ablations of rlrr on {', '.join(data)}: {plan.label}"
    return Document(
        text=_text(heading, facts, sections, notes),
        content=_content(heading, facts, notes)
        | {
            "tables": {table.name: [asdict(line) for line in lines[table.title]] for table in tables},
            "results": {
                name: {variation: asdict(result) for variation, result in of_data.items()}
                for name, of_data in results.items()
            },
        },
        picture=ablation_picture(lines, f"Ablations of rlrr on {', '.join(data)}", plan.label),
    )


def _facts(plan: Plan, results: Sequence[Result]) -> dict[str, str]:
    """What all results share, and what they cost together."""
    facts = {"protocol": f"{plan.protocol}: {plan.label}", "seeds": " ".join(map(str, plan.seeds))}
    if plan.protocol == "honest":
        rates = " ".join(f"{rate:g}" for rate in plan.rates)
        facts["learning rate"] = (
            f"the recipe's times the best of {rates} on validation images"
            if len(plan.rates) > 1
            else f"the recipe's times {rates}, not tuned: one rate for all"
        )
    if not results:
        return facts
    first = results[0]
    memory = [result.peak_memory_mb for result in results if result.peak_memory_mb]
    facts["backbone"] = f"{first.backbone}, weights {first.fingerprint[:12]}"
    facts["training"] = f"{_duration(sum(result.seconds for result in results))} in all, on {first.device}"
    if memory:
        facts["peak memory"] = f"{max(memory)} MiB, of the process"
    facts["versions"] = ", ".join(f"{name} {version}" for name, version in first.versions.items())
    return facts


def _chosen(plan: Plan) -> dict[str, Any]:
    recipe = plan.recipe
    names = ("epochs", "cooldown", "batch_size", "image_size", "rank", "weight_decay", "drop_path", "schedule")
    chosen = {name: value for name in names if (value := getattr(recipe, name)) not in (None, 0)}
    return {"learning_rate": f"{learning_rate(recipe):g}"} | chosen | {"digest": recipe.digest()[:12]}


def _text(heading: str, facts: Mapping[str, str], sections: Sequence[tuple[str, str]], notes: Sequence[str]) -> str:
    parts = [f"# {heading}", "\n".join(f"- {name}: {fact}" for name, fact in facts.items())]
    for title, table in sections:
        parts += [f"## {title}", table] if title else [table]
    return "\n\n".join([*parts, *notes]) + "\n"


def _content(heading: str, facts: Mapping[str, str], notes: Sequence[str]) -> dict[str, Any]:
    return {"heading": heading, "facts": dict(facts), "notes": list(notes)}


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"{seconds:.0f} s" if seconds < 120 else f"{minutes} min" if minutes < 120 else f"{seconds / 3600:.1f} h"
