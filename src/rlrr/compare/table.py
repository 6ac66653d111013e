"""The lines of a table of results: means, deviations, differences. Pure functions; accuracies are in percent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from rlrr.compare.ablation import FULL, AblationTable
from rlrr.compare.plan import Result
from rlrr.compare.published import Published


@dataclass(frozen=True)
class Score:
    """Mean over the seeds, and the deviation of a sample, None of a single seed."""

    mean: float
    deviation: float | None
    seeds: int

    def __str__(self) -> str:
        return f"{self.mean:.1f}" + ("" if self.deviation is None else f" ± {self.deviation:.1f}")


@dataclass(frozen=True)
class Line:
    """A task or a mean of tasks: ours and the printed number, None where there is none."""

    title: str
    ours: Score | None
    printed: float | None
    is_mean: bool = False

    @property
    def difference(self) -> float | None:
        """Ours less the printed number."""
        return None if self.ours is None or self.printed is None else self.ours.mean - self.printed


@dataclass(frozen=True)
class AblationLine:
    """A variation on all data; `printed` is by what the paper's numbers are means of.

    Attributes:
        scores: By data.
        mean: Over the data, if all are there.
        to_full: Gain over the full method, seed by seed; None for the full method itself.
        printed_to_full: Published gain.
        parameters: Trained ones without the classifier.
    """

    title: str
    scores: dict[str, Score | None]
    mean: Score | None
    to_full: Score | None
    printed: dict[str, float]
    printed_to_full: dict[str, float]
    parameters: int | None


def score(by_seed: Sequence[float]) -> Score:
    """Put numbers, one a seed, together."""
    return Score(fmean(by_seed), stdev(by_seed) if len(by_seed) > 1 else None, len(by_seed))


def mean_by_seed(rows: Sequence[Sequence[float] | None]) -> list[float] | None:
    """Average the rows for each seed, so that the deviation is that of the mean; None unless all rows have results."""
    there = [row for row in rows if row is not None]
    return [fmean(column) for column in zip(*there, strict=True)] if there and len(there) == len(rows) else None


def benchmark_lines(
    groups: Mapping[str, Mapping[str, str]], results: Mapping[str, Result], printed: Published | None
) -> list[Line]:
    """List all tasks, then the mean of each group, of all tasks, and of the groups.

    Args:
        groups: The titles of the tasks by name, by the title of their group, in the order of the paper.
        results: By task; some may be missing, and then the means that need them are too.
        printed: The paper's numbers.
    """
    ours = {name: _percent(results.get(name)) for tasks in groups.values() for name in tasks}
    tasks = printed.tasks if printed else {}
    lines = [
        Line(title, _score(ours[name]), tasks.get(name))
        for members in groups.values()
        for name, title in members.items()
    ]
    by_group = {group: mean_by_seed([ours[name] for name in members]) for group, members in groups.items()}
    mean = printed.mean if printed else None
    if len(groups) > 1:
        means = {group.lower(): value for group, value in printed.groups.items()} if printed else {}
        for group, members in groups.items():
            title = _mean_title(group, [ours[name] for name in members])
            lines.append(Line(title, _score(by_group[group]), means.get(group.lower()), True))
        lines.append(
            Line(_mean_title("all", list(ours.values())), _score(mean_by_seed(list(ours.values()))), mean, True)
        )
        of_groups = _score(mean_by_seed(list(by_group.values())))
        lines.append(Line(f"mean of the {len(groups)} groups", of_groups, _mean_of_groups(printed), True))
    else:
        lines.append(
            Line(_mean_title("all", list(ours.values())), _score(mean_by_seed(list(ours.values()))), mean, True)
        )
    return lines


def ablation_lines(table: AblationTable, results: Mapping[str, Mapping[str, Result]]) -> list[AblationLine]:
    """List the rows of an ablation; `results` are by data and variation, and some may be missing."""
    full = {data: _percent(of_data.get(FULL)) for data, of_data in results.items()}
    printed_full = table.printed(table.variations[-1])
    lines = []
    for variation in table.variations:
        ours = {data: _percent(of_data.get(variation.name)) for data, of_data in results.items()}
        printed = table.printed(variation)
        gains = [_less(ours[data], full[data]) for data in results] if variation.name != FULL else []
        known = [of_data[variation.name].parameters for of_data in results.values() if variation.name in of_data]
        lines.append(
            AblationLine(
                title=variation.title,
                scores={data: _score(row) for data, row in ours.items()},
                mean=_score(mean_by_seed(list(ours.values()))),
                to_full=_score(mean_by_seed(gains)),
                printed=printed,
                printed_to_full={key: value - printed_full[key] for key, value in printed.items()}
                if variation.name != FULL
                else {},
                parameters=known[0]["adapter"] if known else None,
            )
        )
    return lines


def benchmark_rows(lines: Sequence[Line]) -> list[list[str]]:
    """Write lines as text, under the columns task, ours, seeds, published, and the difference."""
    return [
        [
            line.title,
            _text(line.ours),
            str(line.ours.seeds) if line.ours else "-",
            _number(line.printed),
            _signed(line.difference),
        ]
        for line in lines
    ]


def ablation_rows(lines: Sequence[AblationLine]) -> list[list[str]]:
    """Write lines as text: variation, parameters, one column a data set, mean, difference to the full method."""
    return [
        [
            line.title,
            f"{line.parameters:,}" if line.parameters is not None else "-",
            *map(_text, line.scores.values()),
            *([_text(line.mean)] if len(line.scores) > 1 else []),
            _gain(line.to_full),
            " / ".join(f"{value:.1f}" for value in line.printed.values()) or "-",
            " / ".join(f"{value:+.1f}" for value in line.printed_to_full.values()) or "-",
        ]
        for line in lines
    ]


def _percent(result: Result | None) -> list[float] | None:
    return [100 * accuracy for accuracy in result.accuracies] if result else None


def _score(by_seed: Sequence[float] | None) -> Score | None:
    return score(by_seed) if by_seed else None


def _less(ours: Sequence[float] | None, full: Sequence[float] | None) -> list[float] | None:
    return [one - other for one, other in zip(ours, full, strict=True)] if ours and full else None


def _mean_title(group: str, rows: Sequence[Sequence[float] | None]) -> str:
    there = sum(row is not None for row in rows)
    what = f"mean of the {len(rows)}" if group == "all" else f"{group}, mean of {len(rows)}"
    return what if there == len(rows) else f"{what} ({there} measured)"


def _mean_of_groups(printed: Published | None) -> float | None:
    """Give the published mean, or the one that follows from the published groups."""
    if printed is None:
        return None
    return printed.mean_of_groups or (fmean(printed.groups.values()) if printed.groups else None)


def _text(score: Score | None) -> str:
    return "-" if score is None else str(score)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def _signed(value: float | None) -> str:
    return "-" if value is None else f"{value:+.1f}"


def _gain(score: Score | None) -> str:
    if score is None:
        return "-"
    return f"{score.mean:+.1f}" + ("" if score.deviation is None else f" ± {score.deviation:.1f}")
