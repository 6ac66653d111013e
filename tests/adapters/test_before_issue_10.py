"""Adapter folders written before the methods had settings (issue 10, by commit 31f8a02) still load and work.

`before_issue_10/` holds a ViT of two blocks as a timm folder, four runs on it (`Recipe` options: rlrr with rank 1; rlrr
with sides in, parts attn and norm, block 1 and no shift; lora with rank 2; linear), and their logits at that commit on
`PIXELS`. The paths in rlrr.json, recipe.yaml and adapter_config.json were edited: the backbone was in
/data/backbones/tiny and the images in /data/images, which exist nowhere, as for a folder that was sent by mail.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file

import rlrr
from rlrr.adapters.folder import load_adapter
from rlrr.adapters.record import read_record
from rlrr.errors import RLRRError

pytestmark = pytest.mark.slow

FOLDER = Path(__file__).parent / "before_issue_10"
BACKBONE = str(FOLDER / "backbone")
RUNS = ("rlrr", "rlrr_settings", "lora", "linear")
PIXELS = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def expected() -> dict[str, torch.Tensor]:
    return load_file(FOLDER / "logits.safetensors")


@pytest.mark.parametrize("run", RUNS)
def test_a_run_gives_its_logits_and_its_predictions(run, expected, images):
    model, record = load_adapter(FOLDER / run, BACKBONE)
    with torch.inference_mode():
        torch.testing.assert_close(model(PIXELS), expected[run], rtol=1e-5, atol=1e-6)
    assert record.metrics["test_accuracy"] == 1.0
    classes = ("red", "green", "blue")
    classifier = rlrr.load(FOLDER / run, weights=BACKBONE)
    predictions = classifier.predict([images / "test" / name / "0.png" for name in classes])
    assert tuple(prediction.classes[0] for prediction in predictions) == classes
    assert rlrr.evaluate(classifier, images).accuracy == 1.0


def test_a_run_keeps_the_settings_that_it_was_trained_with():
    config = load_adapter(FOLDER / "rlrr_settings", BACKBONE)[0].peft_config["default"]
    assert (config.rank, config.sides, config.shift) == (1, "in", False)
    assert load_adapter(FOLDER / "lora", BACKBONE)[0].peft_config["default"].r == 2


@pytest.mark.parametrize("run", RUNS)
def test_a_run_is_merged(run, expected, images, tmp_path):
    given = [images / "test" / "red" / "0.png"]
    assert rlrr.merge(FOLDER / run, tmp_path / "merged", images=given, weights=BACKBONE).difference < 1e-5
    plain = timm.create_model(f"local-dir:{tmp_path / 'merged'}", pretrained=True).eval()
    with torch.inference_mode():
        torch.testing.assert_close(plain(PIXELS), expected[run], rtol=1e-5, atol=1e-5)


@pytest.mark.usefixtures("without_pictures")
def test_all_runs_are_analysed_with_what_they_have_logged(tmp_path):
    analyses = rlrr.analyze([FOLDER / run for run in RUNS], tmp_path / "report", weights=BACKBONE)
    for analysis, run in zip(analyses, RUNS, strict=True):
        logged = [json.loads(line) for line in (FOLDER / run / "metrics.jsonl").read_text().splitlines()]
        logged = [line["deviation"] for line in logged if "deviation" in line]
        assert [record["deviation"] for record in analysis.deviations] == logged
        # the best epoch was the last one
        assert _moved(analysis) == pytest.approx(logged[-1], rel=1e-3, abs=1e-9)
    assert analyses[0].vectors["blocks.0.attn.qkv"].keys() == {"scale_out", "scale_in", "shift"}


def _moved(analysis) -> float:
    return analysis.relative_change


def test_the_folders_hold_no_path_of_the_machine_that_wrote_them():
    for run in RUNS:
        record = read_record(FOLDER / run)
        assert (record.backbone["name"], record.data["source"]) == ("/data/backbones/tiny", "/data/images")
    with pytest.raises(RLRRError, match="/data/backbones/tiny, which is gone"):
        load_adapter(FOLDER / "rlrr")
