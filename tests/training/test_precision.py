"""Precision by device, and the form of attention by both."""

from types import SimpleNamespace

import pytest
import timm
import torch

from rlrr.errors import RLRRError, UsageError
from rlrr.training.precision import fastest_attention, resolve_precision


@pytest.mark.parametrize(
    ("precision", "on_gpu", "fused"), [("bf16", False, False), ("fp32", False, True), ("bf16", True, True)]
)
def test_attention_is_written_out_in_bf16_on_a_cpu_alone(monkeypatch, precision, on_gpu, fused):
    monkeypatch.setattr("torch.cuda.is_available", lambda: on_gpu)
    model = timm.create_model("vit_tiny_patch16_224", img_size=32, depth=2).eval()
    x = torch.randn(2, 3, 32, 32)
    before = model(x)
    with fastest_attention(model, precision):
        assert [block.attn.fused_attn for block in model.blocks] == [fused, fused]
        torch.testing.assert_close(model(x), before, rtol=1e-4, atol=1e-5)
    assert [block.attn.fused_attn for block in model.blocks] == [True, True]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_precision_on_a_cpu():
    assert resolve_precision("bf16") == "bf16"
    assert resolve_precision("fp32") == "fp32"
    assert resolve_precision("auto") in ("bf16", "fp32")
    with pytest.raises(RLRRError, match="fp16 needs a GPU") as caught:
        resolve_precision("fp16")
    assert isinstance(caught.value, UsageError)


@pytest.mark.skipif(torch.version.hip is not None, reason="AMD has no compute capability")
@pytest.mark.parametrize(("capability", "precision"), [(7, "fp32"), (8, "bf16"), (9, "bf16")])
def test_auto_precision_on_a_gpu_goes_by_its_compute_capability(monkeypatch, capability, precision):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(major=capability))
    assert resolve_precision("auto") == precision
