"""The benchmark of inference: what it compares computes the same, and every case comes into the table."""

# ruff: noqa: RUF001 - spreads have a dash

import json

import pytest
import torch

from rlrr.errors import RLRRError

pytestmark = pytest.mark.slow

MODEL, SIZE = "vit_tiny_patch16_224", 32


@pytest.fixture
def inference(script):
    return script("inference")


@pytest.mark.parametrize("config", ["rlrr_config", "lora_config"])
@torch.no_grad()
def test_a_mixed_batch_computes_what_adapters_one_after_the_other_do(inference, config):
    names, images = ["birds", "cars"], torch.randn(5, 3, SIZE, SIZE)
    model = inference.with_adapters(inference.backbone(MODEL, SIZE), getattr(inference, config), names)
    mixed = model(images, adapter_names=inference.dealt(names, 5))
    torch.testing.assert_close(inference.switched(model, names, images), mixed, rtol=1e-3, atol=1e-3)

    def difference():
        first, second = (inference.switched(model, [name], images) for name in names)
        return (first - second).abs().max()

    heads = model.base_model.model.head.modules_to_save
    with_classifiers = difference()
    heads["cars"].load_state_dict(heads["birds"].state_dict())
    assert 0.01 < difference() != with_classifiers


def test_every_case_comes_into_the_table_with_its_ratio_to_the_merged_model(inference, tmp_path, capsys):
    sizes = {"model": MODEL, "image_size": SIZE, "batch_size": 3, "adapters": (1, 3), "device": "cpu"}
    inference.main(**sizes, repeats=2, output=tmp_path)
    results = json.loads((tmp_path / "inference.json").read_text())
    assert len(results["runs"]) == 2 * (4 + 2 + 2 + 2 + 2)  # warming up does not count
    table = capsys.readouterr().out.strip()
    assert table in (tmp_path / "inference.md").read_text()
    rows = {tuple(cell.strip() for cell in line.split("|")[1:3]): line for line in table.splitlines()[2:]}
    assert rows["merged", "-"].split("|")[4].strip() == "1.00 (1.00–1.00)"
    assert {("mixed", "3"), ("switching", "1"), ("lora mixed", "3"), ("unmerged, first", "-")} <= rows.keys()


def test_ratios_are_taken_turn_by_turn(inference):
    times = {("merged", None): (1.0, 4.0), ("mixed", 2): (2.0, 4.0)}
    runs = [
        {"turn": turn, "case": case, "adapters": count, "seconds": taken}
        for (case, count), turns in times.items()
        for turn, taken in enumerate(turns)
    ]
    assert inference.summary(runs).splitlines()[-1].split("|")[4].strip() == "1.50 (1.00–2.00)"


def test_more_adapters_than_images_are_refused(inference):
    with pytest.raises(RLRRError, match="4 adapters cannot share 3 images"):
        inference.main(model=MODEL, batch_size=3, adapters=(1, 4))
