"""What is measured, read back: nothing is lost in JSON, and CSV has a line for each weight."""

import csv
import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from rlrr.errors import RLRRError
from rlrr.spectral.analysis import Analysis, measure
from rlrr.spectral.export import COLUMNS, write_csv, write_json
from rlrr.spectral.tuned import Pair


@pytest.fixture
def analysis():
    generator = torch.Generator().manual_seed(0)
    before = torch.randn(9, 5, generator=generator)
    rows = [
        measure(Pair("blocks.0.fc1", 0, "fc1", before, before + 0.1 * torch.randn(9, 5, generator=generator))),
        measure(Pair("patch_embed.proj", None, "patch_embed", before, before)),
    ]
    vectors = {"blocks.0.fc1": {"scale_out": torch.arange(9.0).view(9, 1)}}
    logged = [{"epoch": 1, "deviation": 0.25}]
    return Analysis(
        "käfer, run",
        "rlrr",
        14,
        0.5,
        "val",
        16,
        rows,
        vectors=vectors,
        deviations=logged,
        features=[{"layer": 0, "cka": 0.9}],
    )


def test_the_json_holds_every_number(analysis, tmp_path):
    write_json(tmp_path / "analysis.json", [analysis, replace(analysis, rows=[])])
    content = json.loads((tmp_path / "analysis.json").read_text(encoding="utf-8"))
    assert content["format"] == 1
    one, other = content["analyses"]
    assert [one[name] for name in ("label", "method", "trained", "accuracy", "directions")] == [
        "käfer, run", "rlrr", 14, 0.5, 16
    ]  # fmt: skip
    for row, found in zip(analysis.rows, one["weights"], strict=True):
        for name, value in vars(row).items():
            if isinstance(value, np.ndarray):
                np.testing.assert_allclose(found[name], value, rtol=1e-6)
            else:
                assert found[name] == value
    assert one["means"]["relative_change"] == analysis.relative_change
    assert other["means"] == dict.fromkeys(one["means"])
    summary = one["vectors"]["blocks.0.fc1"]["scale_out"]
    assert (summary["shape"], summary["minimum"], summary["median"], summary["maximum"], summary["mean"]) == (
        [9, 1], 0, 4, 8, 4
    )  # fmt: skip
    assert (one["deviations"], one["features"]) == (analysis.deviations, analysis.features)


def test_the_csv_has_a_line_for_each_weight_and_no_number_where_none_is_defined(analysis, tmp_path):
    write_csv(tmp_path / "analysis.csv", [analysis, replace(analysis, label="other")])
    with (tmp_path / "analysis.csv").open(encoding="utf-8", newline="") as file:
        lines = list(csv.DictReader(file))
    assert list(lines[0]) == ["run", "method", *COLUMNS]
    assert [line["run"] for line in lines] == ["käfer, run"] * 2 + ["other"] * 2
    assert float(lines[0]["rotation_share"]) == analysis.rows[0].rotation_share
    assert (lines[1]["layer"], lines[1]["rotation_share"], lines[1]["relative_change"]) == ("", "", "0.0")


def test_a_place_that_cannot_be_written_to_is_named(analysis, tmp_path):
    (tmp_path / "file").touch()
    for write in (write_json, write_csv):
        with pytest.raises(RLRRError, match="Cannot write"):
            write(tmp_path / "file" / "analysis", [analysis])
