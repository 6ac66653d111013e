"""The files of a comparison, `results.md`, `results.json` and `results.png`, with all that a number needs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from rlrr.compare.ablation import AblationTable
from rlrr.compare.benchmarks import BENCHMARKS, Benchmark
from rlrr.compare.picture import ablation_picture, benchmark_picture
from rlrr.compare.plan import Plan, Result, learning_rate, listed
from rlrr.compare.published import Ablation, Published
from rlrr.compare.table import ablation_lines, ablation_rows, benchmark_lines, benchmark_rows
from rlrr.files import atomic, write_json
from rlrr.recipes.recipe import Recipe
from rlrr.report.svg import save
from rlrr.report.table import markdown_table
from rlrr.training.images import preprocessing
from rlrr.words import counted


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
        save(self.picture, folder / "results.png")


def benchmark_document(
    benchmark: Benchmark,
    variant: str | None,
    plan: Plan,
    results: Mapping[str, Result],
    printed: Published | None,
    recipes: str,
    data_config: Mapping[str, Any],
) -> Document:
    """Make a benchmark's table, with the means, beside the published numbers.

    Args:
        benchmark: The benchmark that was run.
        variant: With which recipes, if not the usual.
        plan: Plan of any task; its label is that of the numbers.
        results: By task.
        printed: The numbers to compare with.
        recipes: Description of the recipes, from `paper_recipe`.
        data_config: The backbone's own preprocessing, as timm describes it.
    """
    title = benchmark.title + (f" with {variant}" if variant else "")
    lines = benchmark_lines(benchmark.groups, results, printed)
    columns = ["task", f"ours ({plan.epoch}), %", "seeds"]
    columns += [f"printed ({printed.protocol}), %" if printed else "printed, %", "difference"]
    facts = _facts({"": plan}, list(results.values()), {"": recipes}, data_config) | {
        "printed": _origin(printed) if printed else f"nothing for {plan.recipe.method} on {plan.recipe.model}",
    }
    if odd := _other_counts(benchmark, results):
        facts["images"] = f"not as many to train on and to test on as in the original: {odd}"
    notes = [_compared(plan, printed)] if printed else []
    if printed and printed.note:
        notes.append(printed.note)
    heading = f"{title}, {plan.recipe.method}: {plan.label}"
    tasks = iter(lines)
    grouped = [[next(tasks) for _ in members] for members in benchmark.groups.values()]
    grouped.append(list(tasks))
    return Document(
        text=_text(heading, facts, [("", markdown_table(columns, benchmark_rows(lines)))], notes),
        content=_content(heading, facts, notes)
        | {
            "lines": [asdict(line) | {"difference": line.difference} for line in lines],
            "results": {name: asdict(result) for name, result in results.items()},
        },
        picture=benchmark_picture(
            grouped,
            f"{title}, {plan.recipe.method} on {Path(plan.recipe.model).name}",
            plan.label,
            printed.protocol if printed else None,
        ),
    )


def ablation_document(
    tables: Sequence[AblationTable],
    plans: Mapping[str, Plan],
    results: Mapping[str, Mapping[str, Result]],
    recipes: Mapping[str, str],
    data_config: Mapping[str, Any],
) -> Document:
    """Make the tables of an ablation.

    Args:
        tables: The paper's.
        plans: Plans of the full method, by data.
        results: By data and variation.
        recipes: Descriptions of the recipes by data, from `paper_recipe` or `recipe_options`.
        data_config: The backbone's own preprocessing, as timm describes it.
    """
    plan = next(iter(plans.values()))
    every = [result for of_data in results.values() for result in of_data.values()]
    lines = {table.title: ablation_lines(table, results) for table in tables}
    data = list(results)
    sections = []
    for table in tables:
        printed = "printed"
        if table.paper:
            what = f"{BENCHMARKS[table.paper.benchmark].title} {' / '.join(table.paper.variants[-1].accuracy)}"
            printed += f" ({table.paper.protocol}): {what}, %"
        columns = ["variant", "parameters", *(f"{name}, %" for name in data), *(["mean, %"] if len(data) > 1 else [])]
        columns += ["to full", printed, "to full (printed)"]
        sections.append((f"{table.title}: {plan.epoch}", markdown_table(columns, ablation_rows(lines[table.title]))))
    papers = [table.paper for table in tables if table.paper]
    facts = _facts(plans, every, recipes, data_config) | {
        "printed": "; ".join(map(_origin, papers)) or "nothing: the paper's numbers are in a plot only",
    }
    notes = [
        f"± is the sample deviation over {counted(len(plan.seeds), 'seed')}"
        + (
            ", of a difference that of the differences seed by seed."
            if len(plan.seeds) > 1
            else "; with one it is unknown."
        )
    ]
    if papers:
        notes.append(_compared(plan, papers[0]))
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
        picture=ablation_picture(
            lines, f"Ablations of rlrr on {', '.join(data)}", plan.label, papers[0].protocol if papers else None
        ),
    )


def paper_recipe(changes: Mapping[str, Any]) -> str:
    """Tell, by option, how a task's recipe differs from the packaged one, or that it does not."""
    differs = ", ".join(f"{name}={value}" for name, value in changes.items())
    return f"not the paper's recipe: {differs}" if differs else "the paper's, one a task"


def recipe_options(recipe: Recipe) -> str:
    """Name a recipe that is not the paper's, in short."""
    names = ("epochs", "cooldown", "batch_size", "image_size", "settings", "weight_decay", "drop_path", "schedule")
    chosen = {name: value for name in names if (value := getattr(recipe, name)) not in (None, 0, {})}
    named = {"learning_rate": f"{learning_rate(recipe):g}"} | chosen | {"digest": recipe.digest()[:12]}
    return ", ".join(f"{name} {value}" for name, value in named.items())


def _origin(printed: Published | Ablation) -> str:
    return f"{printed.source}; {printed.protocol}"


def _compared(plan: Plan, printed: Published | Ablation) -> str:
    """Explain how the published numbers and ours compare."""
    if not printed.protocol.startswith("best test epoch"):
        return "How the printed numbers came about is not known, nor whether they can be compared with ours."
    chosen = "The printed numbers are best test epochs of one seed: the test images chose the epoch. "
    if plan.protocol == "paper":
        return f"{chosen}So are ours here, and neither is comparable with numbers that were not chosen so."
    return f"{chosen}Ours are not chosen on them, so an equally good method looks worse here."


def _other_counts(benchmark: Benchmark, results: Mapping[str, Result]) -> str:
    """List the tasks with more or fewer images than the original; a copy may be cut short."""
    counts_of = {name: (result.images["train"], result.images["test"]) for name, result in results.items()}
    return "; ".join(
        "{} {:,} and {:,} of {:,} and {:,}".format(name, *counts, *benchmark.images[name])
        for name, counts in counts_of.items()
        if counts != benchmark.images[name]
    )


def _facts(
    plans: Mapping[str, Plan], results: Sequence[Result], recipes: Mapping[str, str], data_config: Mapping[str, Any]
) -> dict[str, str]:
    """List the facts that all results share, and their cost together."""
    plan = next(iter(plans.values()))
    facts = {"protocol": f"{plan.protocol}: {plan.label}", "seeds": " ".join(map(str, plan.seeds))}
    if plan.protocol == "honest":
        rates = listed(plan.rates)
        facts["learning rate"] = (
            f"the recipe's times the best of {rates} on validation images"
            if len(plan.rates) > 1
            else f"the recipe's times {rates}, not tuned: one rate for all"
        )
    facts["recipe"] = _grouped(recipes)
    normalizations = {name: _normalization(plan.recipe, data_config) for name, plan in plans.items()}
    if any(normalizations.values()):
        facts["normalization"] = _grouped({name: text or "the backbone's" for name, text in normalizations.items()})
    if not results:
        return facts
    first = results[0]
    memory = [result.peak_memory_mb for result in results if result.peak_memory_mb]
    facts["backbone"] = f"{first.backbone}, weights {first.fingerprint[:12]}"
    facts["training"] = f"{_duration(sum(result.seconds for result in results))} in all, on {first.device}"
    if memory:
        facts["peak memory"] = f"{max(memory)} MiB, of the {'process' if first.device.startswith('CPU') else 'GPU'}"
    facts["versions"] = ", ".join(f"{name} {version}" for name, version in first.versions.items())
    return facts


def _normalization(recipe: Recipe, data_config: Mapping[str, Any]) -> str:
    """Name the normalization of a recipe where it is not that of its backbone; else nothing."""
    used = preprocessing(recipe)
    if all(tuple(used.get(key, data_config[key])) == tuple(data_config[key]) for key in ("mean", "std")):
        return ""
    mean, deviation = (" ".join(f"{value:g}" for value in data_config[key]) for key in ("mean", "std"))
    return f"{recipe.normalization}, by the recipe; {recipe.model} was trained with mean {mean}, deviation {deviation}"


def _grouped(texts: Mapping[str, str]) -> str:
    """Join the remarks on several tasks, equal texts once."""
    names = {text: [name for name in texts if texts[name] == text] for text in texts.values()}
    return "; ".join(names) if len(names) == 1 else "; ".join(f"{', '.join(of)}: {text}" for text, of in names.items())


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
