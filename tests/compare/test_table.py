"""Means, deviations and differences, against numbers computed by hand."""

import pytest

from rlrr.compare.ablation import ablation_tables
from rlrr.compare.benchmarks import BENCHMARKS
from rlrr.compare.published import Published
from rlrr.compare.table import (
    ablation_lines,
    ablation_rows,
    benchmark_lines,
    benchmark_rows,
    mean_by_seed,
    score,
)

GROUPS = {"Natural": {"a": "A", "b": "B"}, "Structured": {"c": "C"}}
PRINTED = Published(
    tasks={"a": 70.0, "b": 80.0, "c": 42.0},
    groups={"natural": 75.0, "structured": 42.0},
    mean=64.0,
    mean_of_groups=None,
    source="",
    protocol="",
    note="",
)


def by_title(lines):
    return {line.title: line for line in lines}


def test_means_of_groups_of_all_and_of_groups_are_three_numbers(make_result):
    results = {"a": make_result(60.0, 62.0), "b": make_result(70.0, 76.0), "c": make_result(40.0, 30.0)}
    lines = by_title(benchmark_lines(GROUPS, results, PRINTED))
    assert list(lines) == [
        *("A", "B", "C"),
        *("Natural, mean of 2", "Structured, mean of 1", "mean of the 3", "mean of the 2 groups"),
    ]
    assert lines["A"].ours.mean == pytest.approx(61)
    assert lines["A"].ours.deviation == pytest.approx(2**0.5)  # of 60 and 62, with n - 1
    assert lines["A"].difference == pytest.approx(-9)
    natural = lines["Natural, mean of 2"]  # 65 with the first seed, 69 with the second
    assert (natural.ours.mean, natural.ours.deviation) == pytest.approx((67, 8**0.5))
    assert natural.difference == pytest.approx(-8)
    everything = lines["mean of the 3"]  # 170 / 3 and 168 / 3
    assert (everything.ours.mean, everything.ours.deviation) == pytest.approx((169 / 3, 2**0.5 / 3))
    assert everything.printed == 64.0
    of_groups = lines["mean of the 2 groups"]  # of 65 and 40, of 69 and 30
    assert (of_groups.ours.mean, of_groups.ours.deviation) == pytest.approx((51, 4.5**0.5))
    assert of_groups.printed == 58.5  # not printed: from the printed groups


def test_no_mean_is_taken_over_fewer_tasks_than_it_says(make_result):
    results = {"a": make_result(60.0, 62.0), "c": make_result(40.0, 30.0)}
    lines = by_title(benchmark_lines(GROUPS, results, PRINTED))
    assert lines["B"].ours is None
    assert lines["B"].difference is None
    assert lines["Natural, mean of 2 (1 measured)"].ours is None
    assert lines["Structured, mean of 1"].ours.mean == pytest.approx(35)
    assert lines["mean of the 3 (2 measured)"].ours is None
    assert lines["mean of the 2 groups"].ours is None
    rows = {row[0]: row[1:] for row in benchmark_rows(list(lines.values()))}
    assert rows["B"] == ["-", "-", "80.0", "-"]
    assert rows["A"] == ["61.0 ± 1.4", "2", "70.0", "-9.0"]


def test_a_single_seed_has_no_deviation_and_a_benchmark_of_one_group_one_mean(make_result):
    lines = by_title(
        benchmark_lines({"FGVC": {"a": "A", "b": "B"}}, {"a": make_result(60.0), "b": make_result(70.0)}, None)
    )
    assert list(lines) == ["A", "B", "mean of the 2"]
    assert benchmark_rows(list(lines.values()))[-1] == ["mean of the 2", "65.0", "1", "-", "-"]


def test_vtab_has_19_tasks_in_groups_of_7_4_and_8_and_fgvc_has_5():
    assert [len(members) for members in BENCHMARKS["vtab1k"].groups.values()] == [7, 4, 8]
    assert list(BENCHMARKS["fgvc"].tasks) == ["cub", "nabirds", "flowers", "dogs", "cars"]
    lines = benchmark_lines(BENCHMARKS["vtab1k"].groups, {}, None)
    assert [line.title for line in lines if line.is_mean] == [
        "Natural, mean of 7 (0 measured)",
        "Specialized, mean of 4 (0 measured)",
        "Structured, mean of 8 (0 measured)",
        "mean of the 19 (0 measured)",
        "mean of the 3 groups",
    ]


def test_rows_are_only_averaged_when_all_are_there():
    assert mean_by_seed([[1.0, 2.0], [3.0, 6.0]]) == [2.0, 4.0]
    assert mean_by_seed([[1.0, 2.0], None]) is None
    assert mean_by_seed([]) is None
    assert str(score([1.0, 2.0, 4.5])) == "2.5 ± 1.8"
    assert str(score([1.0])) == "1.0"


def test_an_ablation_is_compared_with_the_full_method_seed_by_seed(make_result):
    (table,) = ablation_tables(["table6"], depth=12)
    results = {
        "mnist": {"full": make_result(90.0, 92.0), "in": make_result(88.0, 91.0)},
        "lfw": {"full": make_result(80.0, 70.0), "in": make_result(81.0, 71.0), "out": make_result(50.0, 60.0)},
    }
    lines = by_title(ablation_lines(table, results))
    one = lines["inputs only"]
    assert one.mean.mean == pytest.approx((88 + 81 + 91 + 71) / 4)
    assert (one.to_full.mean, one.to_full.deviation) == pytest.approx((-0.25, 0.125**0.5))  # -0.5 and 0
    assert one.printed == {"mean": 89.5}
    assert one.printed_to_full == pytest.approx({"mean": -0.9})
    assert lines["outputs only"].mean is None
    assert lines["outputs only"].to_full is None
    assert lines["both sides"].to_full is None
    rows = {row[0]: row[1:] for row in ablation_rows(list(lines.values()))}
    assert rows["inputs only"] == ["1,234", "89.5 ± 2.1", "76.0 ± 7.1", "82.8 ± 2.5", "-0.2 ± 0.4", "89.5", "-0.9"]
    assert rows["outputs only"] == ["1,234", "-", "55.0 ± 7.1", "-", "-", "89.7", "-0.7"]
    assert rows["both sides, no residual"] == ["-", "-", "-", "-", "-", "88.9", "-1.5"]
