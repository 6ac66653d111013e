"""Compiled training: the same results as without, whatever else a run does."""

from functools import partial

import pytest
import timm
import torch
from torch import nn
from torch._dynamo.utils import counters

import rlrr
from rlrr.adapters.folder import read_tensors
from rlrr.adapters.record import RECORD, TENSORS, read_record
from rlrr.errors import RLRRError, UsageError
from rlrr.recipes.recipe import Recipe
from rlrr.training import run
from rlrr.training.compiling import compile_model
from rlrr.training.run import build, train
from rlrr.training.trainer import ClassificationTrainer

pytestmark = pytest.mark.slow


@pytest.fixture
def recipe(tiny_backbone, images):
    def make(**options) -> Recipe:
        common = {"epochs": 2, "batch_size": 8, "precision": "fp32", "compile": True}
        return Recipe(**{"data": str(images), "model": tiny_backbone} | common | options)

    return make


@pytest.fixture
def graphs(request, monkeypatch):
    """Counts of the graphs that torch captures; they are then run as they are, for machine code takes long to make."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=getattr(request, "param", "eager")))
    torch.compiler.reset()
    counters.clear()
    yield counters
    torch.compiler.reset()


@pytest.mark.parametrize(
    ("options", "graphs"),
    [
        ({"batch_size": 9}, "aot_eager"),  # 9, 9 and 6 of 24 images; differentiated ahead
        ({"precision": "bf16"}, "eager"),
        pytest.param({"method": "lora", "precision": "bf16"}, "eager", marks=pytest.mark.soak),
        pytest.param({"ema": 0.9, "label_smoothing": 0.1, "accumulate": 2}, "eager", marks=pytest.mark.soak),
    ],
    ids=str,
    indirect=["graphs"],
)
def test_a_compiled_run_gives_what_one_without_gives(recipe, tmp_path, graphs, options):
    records = [
        train(recipe(compile=compiled, learning_rate=1e-3, **options), tmp_path / str(compiled))
        for compiled in (False, True)
    ]
    assert graphs["stats"]["unique_graphs"] >= 2  # for training and for evaluation, if not more
    assert not graphs["graph_break"]
    eager, compiled = (read_tensors(tmp_path / name / TENSORS) for name in ("False", "True"))
    assert eager.keys() == compiled.keys()
    tolerance = 1e-2 if options.get("precision") == "bf16" else 1e-4
    for name, tensor in eager.items():
        torch.testing.assert_close(compiled[name], tensor, rtol=tolerance, atol=tolerance, msg=name)
    assert records[0].metrics["test_accuracy"] == records[1].metrics["test_accuracy"]


def test_a_compiled_run_that_was_stopped_goes_on_to_the_same_bits(recipe, tmp_path, graphs):
    options = recipe(epochs=5, ema=0.9, early_stop=1, learning_rate=1e-6, method="linear")
    train(options, tmp_path / "whole")
    step = ClassificationTrainer.training_step

    def stopping(self, *args, **kwargs):
        if self.state.global_step == 4:  # in the second epoch
            raise KeyboardInterrupt
        return step(self, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ClassificationTrainer, "training_step", stopping)
        with pytest.raises(RLRRError, match="epoch 1 is saved"):
            train(options, tmp_path / "stopped")
    train(options, tmp_path / "stopped", resume=True)
    assert (tmp_path / "whole" / TENSORS).read_bytes() == (tmp_path / "stopped" / TENSORS).read_bytes()
    assert read_record(tmp_path / "stopped").metrics["epoch"] < 5


def test_the_test_is_measured_as_evaluate_does(recipe, images, tmp_path, graphs, monkeypatch):
    measured = []
    evaluate_split = run.evaluate_split
    monkeypatch.setattr(run, "evaluate_split", lambda *args: measured.append(evaluate_split(*args)) or measured[0])
    train(recipe(epochs=1), tmp_path / "run")
    assert (measured[0].confidence == rlrr.evaluate(tmp_path / "run", images).confidence).all()


@pytest.mark.parametrize(("options", "parts"), [({}, ["blocks.0", "blocks.1"]), ({"drop_path": 0.2}, [""])], ids=str)
def test_blocks_are_compiled_one_by_one_if_they_are_alike(recipe, monkeypatch, options, parts):
    compiled = []
    monkeypatch.setattr("rlrr.training.compiling._check_compiler", lambda device: None)
    monkeypatch.setattr(nn.Module, "compile", lambda self: compiled.append(self))
    model = build(recipe(**options), 3)[1]
    compile_model(model, torch.device("cpu"))
    names = {module: name.removeprefix("base_model.model.") for name, module in model.named_modules()}
    assert [names[module] for module in compiled] == parts


def test_a_swin_whose_blocks_differ_is_compiled_as_a_whole(monkeypatch):
    compiled = []
    monkeypatch.setattr("rlrr.training.compiling._check_compiler", lambda device: None)
    monkeypatch.setattr(nn.Module, "compile", lambda self: compiled.append(self))
    sizes = {"img_size": 32, "patch_size": 4, "window_size": 4, "embed_dim": 16, "depths": (1, 1), "num_heads": (2, 2)}
    model = timm.create_model("swin_tiny_patch4_window7_224", **sizes)
    compile_model(model, torch.device("cpu"))
    assert compiled == [model]


def test_blocks_that_are_alike_share_what_is_compiled(recipe, graphs):
    model = build(recipe(), 3)[1].train()
    compile_model(model, torch.device("cpu"))
    before = graphs["stats"]["unique_graphs"]
    model(torch.zeros(4, 3, 32, 32))
    assert graphs["stats"]["unique_graphs"] == before + 1


def test_a_machine_that_cannot_compile_is_told_before_an_earlier_run_is_deleted(recipe, tmp_path):
    train(recipe(epochs=1, compile=False), tmp_path / "run")
    with (
        torch._inductor.config.patch({"cpp.cxx": (None, "/nowhere/g++")}),
        pytest.raises(
            RLRRError, match=r"^`compile` needs .*No working C\+\+ compiler.*leave `compile` out\.$"
        ) as caught,
    ):
        train(recipe(), tmp_path / "run", overwrite=True)
    assert isinstance(caught.value, UsageError)
    assert (tmp_path / "run" / RECORD).exists()
