"""Frozen weights in bf16: which are, and that nothing of it is left in what is saved and measured."""

import pytest
import torch

import rlrr
from rlrr.adapters.folder import read_tensors
from rlrr.adapters.record import TENSORS, read_record
from rlrr.backbones import load_backbone
from rlrr.errors import RLRRError, UsageError
from rlrr.recipes.recipe import Recipe
from rlrr.training import run
from rlrr.training.run import build, train


@pytest.fixture
def recipe(tiny_backbone, images):
    def make(**options) -> Recipe:
        common = {"epochs": 2, "batch_size": 8, "precision": "bf16", "frozen": "bf16"}
        return Recipe(**{"data": str(images), "model": tiny_backbone} | common | options)

    return make


@pytest.mark.parametrize("method", ["rlrr", "lora", "linear"])
def test_frozen_matrices_are_rounded_and_nothing_else(recipe, method):
    states = []
    for kind in ("bf16", "fp32"):
        torch.manual_seed(0)
        states.append(build(recipe(method=method, frozen=kind), 3)[1].state_dict())
    rounded, exact = states
    halved = {name for name, tensor in rounded.items() if tensor.dtype == torch.bfloat16}
    plain = {name.replace("base_model.model.", "").replace("base_layer.", "") for name in halved}
    linears = ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")
    adapted = {f"blocks.{block}.{linear}.weight" for block in (0, 1) for linear in linears}
    assert plain - {"head.original_module.weight"} == adapted | {"patch_embed.proj.weight"}
    for name, tensor in exact.items():
        expected = tensor.to(torch.bfloat16) if name in halved else tensor
        assert torch.equal(rounded[name], expected), name


@pytest.mark.parametrize("method", ["rlrr", "lora", "linear"])
def test_the_run_is_that_of_exact_weights_in_all_that_is_saved_and_measured(recipe, images, tmp_path, method):
    measured = []
    with pytest.MonkeyPatch.context() as patch:
        evaluate_split = run.evaluate_split
        patch.setattr(run, "evaluate_split", lambda *args: measured.append(evaluate_split(*args)) or measured[0])
        train(recipe(method=method), tmp_path / "run")
    tensors = read_tensors(tmp_path / "run" / TENSORS)
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float32}
    assert all(tensor.isfinite().all() for tensor in tensors.values())
    record = read_record(tmp_path / "run")
    assert record.backbone["fingerprint"] == load_backbone(record.backbone["name"], num_classes=3).fingerprint
    assert (measured[0].confidence == rlrr.evaluate(tmp_path / "run", images).confidence).all()


def test_rounding_the_frozen_weights_changes_little(recipe, tmp_path):
    for kind in ("fp32", "bf16"):
        train(recipe(epochs=1, frozen=kind, learning_rate=1e-3), tmp_path / kind)
    exact, rounded = (read_tensors(tmp_path / kind / TENSORS) for kind in ("fp32", "bf16"))
    assert exact.keys() == rounded.keys()
    assert not all(torch.equal(exact[name], rounded[name]) for name in exact)
    # of the classifier, which starts at zero: what was trained is all there is
    (head,) = (name for name in exact if name.endswith("head.weight"))
    assert torch.cosine_similarity(exact[head].flatten(), rounded[head].flatten(), dim=0) > 0.9


def test_arithmetic_in_fp32_is_refused(recipe, monkeypatch):
    for precision in ("fp32", "fp16"):
        with pytest.raises(RLRRError, match=f"^--frozen does not go with --precision {precision}"):
            recipe(precision=precision)
    monkeypatch.setattr(run, "resolve_precision", lambda asked: "fp32")
    with pytest.raises(RLRRError, match="--precision auto is fp32 on this machine") as caught:
        build(recipe(precision="auto"), 3)
    assert isinstance(caught.value, UsageError)


def test_full_fine_tuning_freezes_nothing(recipe):
    with pytest.raises(RLRRError, match=r"^--frozen does not go with --method full"):
        recipe(method="full")
