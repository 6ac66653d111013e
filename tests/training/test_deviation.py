"""Deviation from pre-training: equal to the dense one for every method, and in the log."""

import copy
from contextlib import nullcontext

import peft
import pytest
import timm
import torch
from peft import get_peft_model

from rlrr.adapters.folder import merged_model
from rlrr.errors import UsageError
from rlrr.inference.predict import load
from rlrr.interop.timm_folder import write_timm_folder
from rlrr.methods.apply import apply_method
from rlrr.recipes.recipe import Recipe
from rlrr.training import run
from rlrr.training.deviation import Deviation
from rlrr.training.output import METRICS, read_metrics
from rlrr.training.run import build, train

SIZES = {"img_size": 32, "num_classes": 3}
VIT = {"patch_size": 8, "depth": 2, "embed_dim": 32, "num_heads": 2}
SWIN = {"patch_size": 4, "window_size": 4, "embed_dim": 16, "depths": (1, 2), "num_heads": (2, 2)}


def vit():
    return timm.create_model("vit_tiny_patch16_224", **SIZES, **VIT)


def swin():
    return timm.create_model("swin_tiny_patch4_window7_224", **SIZES, **SWIN)


def resnet():
    return timm.create_model("test_resnet", num_classes=3)


def weights(model) -> dict[str, torch.Tensor]:
    """All linears and convolutions without the classifier, in double precision, also of an adapted model."""
    plain = merged_model(copy.deepcopy(model)).state_dict()
    return {
        name: tensor.detach().double().clone()
        for name, tensor in plain.items()
        if name.endswith(".weight") and tensor.ndim > 1 and not name.startswith(("head.", "fc."))
    }


def dense(before, after, prefix="") -> float:
    """The deviation from the weights themselves."""
    names = [name for name in before if name.startswith(prefix)]
    change, size = (sum(part[name].square().sum() for name in names) for part in (_changes(before, after), before))
    return (change / size).sqrt().item()


def _changes(before, after):
    return {name: after[name] - before[name] for name in before}


def moved(model) -> None:
    """Change all that is trained at random."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += 0.1 * torch.randn(parameter.shape, generator=generator)


def deviation_of(model) -> Deviation:
    return Deviation(model, lambda logs: None, nullcontext)


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("rlrr", {}),
        ("rlrr", {"rank": 3}),
        ("rlrr", {"sides": "in"}),
        ("rlrr", {"sides": "out"}),
        ("rlrr", {"residual": False}),
        ("rlrr", {"multiply_weight": False}),
        ("rlrr", {"shift": False}),
        ("rlrr", {"parts": ["norm"]}),
        ("lora", {}),
        ("full", {}),
        ("linear", {}),
    ],
    ids=str,
)
@pytest.mark.parametrize("backbone", [vit, swin, resnet])
def test_it_is_the_dense_one_for_every_method_in_all_and_by_block(backbone, method, options):
    if backbone is resnet and options.get("parts"):
        options = {"parts": ["downsample"]}
    torch.manual_seed(0)
    plain = backbone()
    before = weights(plain)
    model = apply_method(plain, method, options)
    deviation = deviation_of(model)
    moved(model)
    measured, after = deviation.measure(), weights(model)
    blocks = {
        vit: ["blocks.0.", "blocks.1."],
        swin: ["layers.0.blocks.0.", "layers.1.blocks.0.", "layers.1.blocks.1."],
        resnet: [f"layer{stage}.0." for stage in (1, 2, 3, 4)],
    }[backbone]
    expected = {"deviation": dense(before, after)}
    expected |= {f"deviation_{index}": dense(before, after, block) for index, block in enumerate(blocks)}
    assert measured == pytest.approx(expected, rel=1e-5, abs=1e-9)
    assert next(iter(measured)) == "deviation"
    assert (measured["deviation"] > 0) == (method != "linear" and options.get("parts") != ["norm"])


@pytest.mark.parametrize(
    ("method", "options"), [("rlrr", {"init_weights": "identity"}), ("lora", {}), ("full", {}), ("linear", {})], ids=str
)
def test_what_starts_at_the_pre_trained_function_starts_at_zero(method, options):
    deviation = deviation_of(apply_method(vit(), method, options))
    assert set(deviation.measure().values()) == {0.0}


def test_a_model_is_not_changed_by_being_measured():
    for method in ("rlrr", "lora", "full"):
        model = apply_method(vit(), method)
        deviation = deviation_of(model)
        moved(model)
        before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        first = deviation.measure()
        assert deviation.measure() == first
        after = model.state_dict()
        assert before.keys() == after.keys()
        assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())


def test_an_update_that_is_no_change_of_weights_is_refused_before_training(
    tiny_backbone, images, tmp_path, monkeypatch
):
    config = peft.LilyConfig(r=2, num_B=2, target_modules=r".*\.mlp\.fc[12]", modules_to_save=["head"])
    monkeypatch.setattr(run, "apply_method", lambda model, *args, **kwargs: get_peft_model(model, config))
    with pytest.raises(UsageError, match=r"`log_deviation` .* no change of weights"):
        train(Recipe(str(images), model=tiny_backbone, log_deviation=True), tmp_path / "run")
    assert not (tmp_path / "run").exists()
    with pytest.raises(UsageError, match="no change of weights"):
        deviation_of(get_peft_model(vit(), config))


# Whole runs


@pytest.fixture
def recipe(tiny_backbone, images):
    def make(**options) -> Recipe:
        common = {"epochs": 3, "batch_size": 8, "precision": "fp32"}
        return Recipe(**{"data": str(images), "model": tiny_backbone} | common | options)

    return make


@pytest.mark.parametrize("method", ["rlrr", "lora", "full", "linear"])
def test_a_run_logs_it_where_it_starts_and_after_each_epoch(recipe, tmp_path, method):
    options = recipe(method=method, select="last", log_deviation=True)
    before = weights(build(recipe(method="linear"), 3)[1])
    record = train(options, tmp_path / "run")
    logged = read_metrics(tmp_path / "run" / METRICS)
    measured = [line for line in logged if "deviation" in line]
    assert [line["epoch"] for line in measured] == [0, 1, 2, 3]
    assert all({"deviation", "deviation_0", "deviation_1", "epoch", "step"} == line.keys() for line in measured)
    assert [line["epoch"] for line in logged if "loss" in line] == [1, 2, 3]
    assert [line["epoch"] for line in logged if "eval_accuracy" in line] == [1, 2, 3]
    after = dense(before, weights(load(tmp_path / "run").model))
    assert measured[-1]["deviation"] == pytest.approx(after, rel=1e-4, abs=1e-9)
    assert (measured[-1]["deviation"] > 0) == (method != "linear")
    assert record.protocol == "last epoch; test read once, after it"


def test_a_run_that_is_not_asked_for_it_measures_nothing(recipe, tmp_path, monkeypatch):
    monkeypatch.setattr(Deviation, "__init__", lambda *args, **kwargs: pytest.fail("it measures"))
    train(recipe(epochs=1), tmp_path / "run")
    assert not any("deviation" in line for line in read_metrics(tmp_path / "run" / METRICS))


def test_it_is_that_of_the_moving_average_where_that_is_kept(recipe, tmp_path):
    train(recipe(method="full", learning_rate=1e-2, ema=0.999999, log_deviation=True), tmp_path / "run")
    measured = [line["deviation"] for line in read_metrics(tmp_path / "run" / METRICS) if "deviation" in line]
    assert measured[0] == 0
    assert 0 < measured[-1] < 1e-4


def test_the_weights_of_a_resnet_run_are_measured(images, tmp_path):
    torch.manual_seed(0)
    model = resnet()
    write_timm_folder(model, tmp_path / "resnet", ["a", "b", "c"], timm.data.resolve_model_data_config(model))
    options = {"image_size": 32, "epochs": 1, "precision": "fp32", "log_deviation": True}
    train(Recipe(str(images), model=str(tmp_path / "resnet"), **options), tmp_path / "run")
    measured = [line for line in read_metrics(tmp_path / "run" / METRICS) if "deviation" in line]
    assert len(measured) == 2
    assert {f"deviation_{stage}" for stage in range(4)} <= measured[0].keys()
