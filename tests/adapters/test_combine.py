"""Runs combined by weights: the changes of the weights, or the vectors, are summed; what does not match is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors.torch import load_file

import rlrr
from rlrr.adapters.combine import combine
from rlrr.adapters.folder import load_adapter, merged_model
from rlrr.adapters.record import read_record
from rlrr.errors import RLRRError, UsageError

pytestmark = pytest.mark.slow

PIXELS = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def runs(make_adapter, tmp_path_factory) -> list[Path]:
    root = tmp_path_factory.mktemp("runs to combine")
    return [make_adapter(root / f"run {seed}.a", seed=seed) for seed in range(3)]


@torch.inference_mode()
def logits(run) -> torch.Tensor:
    return load_adapter(run)[0](PIXELS)


def weights_of(run) -> dict[str, torch.Tensor]:
    return merged_model(load_adapter(run)[0]).state_dict()


@pytest.mark.parametrize("kind", ["exact", "average"])
@pytest.mark.parametrize("chosen", [0, 1])
def test_all_the_weight_on_one_run_is_that_run(runs, tmp_path, kind, chosen):
    shares = [0.0, 0.0]
    shares[chosen] = 1.0
    combine(runs[:2], tmp_path / "run", weights=shares, combination=kind)
    assert not torch.allclose(logits(runs[0]), logits(runs[1]), atol=0.1)
    torch.testing.assert_close(logits(tmp_path / "run"), logits(runs[chosen]), rtol=0, atol=1e-5)


def test_the_exact_combination_sums_what_the_runs_change(runs, tmp_path):
    shares = [0.5, 0.8, -0.2]
    combine(runs, tmp_path / "run", weights=shares)
    model, _ = load_adapter(tmp_path / "run")
    assert model.peft_config["default"].rank == 3
    frozen = {
        name: layer.base_layer.state_dict()
        for name, layer in model.get_base_model().named_modules()
        if isinstance(layer, BaseTunerLayer)
    }
    ours, theirs = weights_of(tmp_path / "run"), [weights_of(run) for run in runs]
    assert len(frozen) > 10
    for name, tensor in ours.items():
        module, _, kind = name.rpartition(".")
        before = frozen.get(module, {}).get(kind, tensor if "head" not in name else torch.zeros_like(tensor))
        expected = before + sum(share * (one[name] - before) for share, one in zip(shares, theirs, strict=True))
        torch.testing.assert_close(tensor, expected, rtol=0, atol=1e-5 * expected.abs().max().item(), msg=name)


def test_the_average_keeps_the_rank_and_averages_the_vectors(runs, tmp_path):
    combine(runs[:2], tmp_path / "run", combination="average")
    one, two, both = (load_file(f"{run}/adapter_model.safetensors") for run in (*runs[:2], tmp_path / "run"))
    for name, tensor in both.items():
        torch.testing.assert_close(tensor, (one[name] + two[name]) / 2, rtol=0, atol=1e-6)


def test_the_folder_is_a_run_that_says_what_it_is(runs, images, tmp_path):
    record = combine(runs[:2], tmp_path / "run")
    assert record == read_record(tmp_path / "run")
    assert record.protocol == f"combined (exact) from {runs[0]} (0.5), {runs[1]} (0.5); not trained as such"
    assert (record.metrics, record.method, record.data["source"]) == ({}, "rlrr", None)
    one, both = (load_file(f"{run}/adapter_model.safetensors") for run in (runs[0], tmp_path / "run"))
    head = sum(tensor.numel() for name, tensor in one.items() if ".head." in name)
    assert record.parameters == {"head": head, "adapter": sum(tensor.numel() for tensor in both.values()) - head}
    assert rlrr.evaluate(tmp_path / "run", images).images == 9
    assert rlrr.merge(tmp_path / "run", tmp_path / "merged", images=[images / "test/red/0.png"]).images == 1


def test_the_data_is_kept_if_it_is_the_same(finished_run, runs, tmp_path):
    record = combine([finished_run, finished_run], tmp_path / "same", weights=[0.4, 0.6])
    own = read_record(finished_run)
    assert record.data == own.data
    assert record.recipe == own.recipe | {"note": f"recipe of {finished_run}, one of the combined runs"}
    torch.testing.assert_close(logits(tmp_path / "same"), logits(finished_run), rtol=0, atol=1e-4)


def test_a_combination_can_be_combined(runs, tmp_path):
    combine(runs[:2], tmp_path / "two")
    combine([tmp_path / "two", runs[2]], tmp_path / "three", weights=[2 / 3, 1 / 3])
    combine(runs, tmp_path / "at once")
    torch.testing.assert_close(logits(tmp_path / "three"), logits(tmp_path / "at once"), rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({"method": "lora"}, r"differ in method \(rlrr and lora\)"),
        ({"classes": ("red", "blue", "green")}, r"differ in classes \(red, green, blue, and red, blue, green\)"),
        ({"sides": "in"}, "differ in sides"),
        ({"backbone": "other"}, r"differ in backbone \(.*tiny with weights .*, and .*vit with weights "),
        ({"size": 64}, r"differ in image size \(32 and 64\)"),
    ],
)
def test_runs_that_do_not_go_together_are_refused(runs, make_adapter, official_backbones, tmp_path, other, said):
    other = {key: official_backbones["vit"] if value == "other" else value for key, value in other.items()}
    run = make_adapter(tmp_path / "other", **other)
    with pytest.raises(RLRRError, match=said):
        combine([runs[0], run], tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_another_preprocessing_is_refused(runs, make_adapter, tmp_path):
    run = make_adapter(tmp_path / "other")
    record = json.loads((run / "rlrr.json").read_text())
    record["preprocessing"]["crop_mode"] = "squash"
    (run / "rlrr.json").write_text(json.dumps(record))
    with pytest.raises(RLRRError, match=r"differ in preprocessing \(crop_mode\)"):
        combine([runs[0], run], tmp_path / "run")


@pytest.mark.parametrize(
    ("count", "arguments", "said"),
    [
        (1, {}, "There is 1 run to combine"),
        (2, {"weights": [1.0]}, "2 runs and 1 weight:"),
        (2, {"weights": [1.0, float("inf")]}, "finite numbers"),
        (2, {"combination": "exactly"}, "Did you mean exact"),
    ],
)
def test_wrong_arguments_are_refused(runs, tmp_path, count, arguments, said):
    with pytest.raises(RLRRError, match=said):
        combine(runs[:count], tmp_path / "run", **arguments)
    (tmp_path / "file").touch()
    with pytest.raises(RLRRError, match="exists"):
        combine(runs, tmp_path)


def test_runs_of_a_method_without_a_sum_of_adapters_are_refused(make_adapter, tmp_path):
    lora = [make_adapter(tmp_path / f"run {seed}", method="lora", seed=seed) for seed in range(2)]
    with pytest.raises(UsageError, match="Runs of lora cannot be combined"):
        combine(lora, tmp_path / "both")
    assert not (tmp_path / "both").exists()
