"""The form of attention by precision and device."""

import pytest
import timm
import torch

from rlrr.training.precision import fastest_attention


@pytest.mark.parametrize(("precision", "fused"), [("bf16", False), ("fp32", True)])
def test_attention_is_written_out_in_bf16_on_a_cpu(precision, fused):
    model = timm.create_model("vit_tiny_patch16_224", img_size=32, depth=2).eval()
    x = torch.randn(2, 3, 32, 32)
    before = model(x)
    with fastest_attention(model, precision):
        assert [block.attn.fused_attn for block in model.blocks] == [fused, fused]
        torch.testing.assert_close(model(x), before, rtol=1e-4, atol=1e-5)
    assert [block.attn.fused_attn for block in model.blocks] == [True, True]


def test_attention_stays_fused_on_another_device():
    model = timm.create_model("vit_tiny_patch16_224", img_size=32, depth=2).to("meta")
    with fastest_attention(model, "bf16"):
        assert [block.attn.fused_attn for block in model.blocks] == [True, True]
