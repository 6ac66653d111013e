"""VPT on the models it is defined for, and refused on the others."""

import copy
import math

import pytest
import timm
import torch
from peft import get_peft_model
from transformers import (
    CLIPVisionConfig,
    CLIPVisionModel,
    DINOv3ViTConfig,
    DINOv3ViTModel,
    SiglipVisionConfig,
    SiglipVisionModel,
    ViTConfig,
    ViTModel,
)

from rlrr.errors import RLRRError
from rlrr.tuners.adapter import AdapterConfig
from rlrr.tuners.convpass import ConvpassConfig
from rlrr.tuners.vpt import VPTConfig

SMALL = {"img_size": 32, "depth": 2, "embed_dim": 24, "num_heads": 2, "num_classes": 3}
IMAGES = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def rotary():
    return timm.create_model("vit_small_patch16_dinov3", init_values=1.0, **SMALL)


def registers(**settings):
    return timm.create_model("vit_small_patch14_reg4_dinov2", init_values=1.0, **SMALL | {"patch_size": 16} | settings)


def averaged():
    return timm.create_model("vit_base_patch16_siglip_224", **SMALL)


def of_transformers(config, model):
    sizes = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
    return model(config(image_size=32, patch_size=16, **sizes))


MODELS = {
    "rotary positions": rotary,
    "registers": registers,
    "another pooling": averaged,
    "transformers' ViT": lambda: of_transformers(ViTConfig, ViTModel),
    "transformers' DINOv3": lambda: of_transformers(DINOv3ViTConfig, DINOv3ViTModel),
    "transformers' CLIP": lambda: of_transformers(CLIPVisionConfig, CLIPVisionModel),
    "transformers' SigLIP": lambda: of_transformers(SiglipVisionConfig, SiglipVisionModel),
}


def output(model, images=IMAGES):
    result = model(images)
    return result if isinstance(result, torch.Tensor) else result.last_hidden_state


@pytest.mark.parametrize("deep", [True, False])
@pytest.mark.parametrize("kind", MODELS)
@torch.no_grad()
def test_prompts_act_and_are_gone_behind_the_last_block(kind, deep):
    torch.manual_seed(0)
    plain = MODELS[kind]().eval()
    before = output(plain)
    model = get_peft_model(plain, VPTConfig(tokens=4, deep=deep, init_weights=False)).eval()
    assert output(model).shape == before.shape
    assert not torch.allclose(output(model), before)


@pytest.mark.parametrize("method", [AdapterConfig, ConvpassConfig])
@pytest.mark.parametrize("kind", MODELS)
@torch.no_grad()
def test_branches_act_where_attention_is_called_by_keyword_too(kind, method):
    torch.manual_seed(0)
    plain = MODELS[kind]().eval()
    before = output(plain)
    model = get_peft_model(plain, method(init_weights=False)).eval()
    assert output(model).shape == before.shape
    assert not torch.allclose(output(model), before)


@torch.no_grad()
def test_a_prompt_has_no_position():
    torch.manual_seed(0)
    model = get_peft_model(rotary(), VPTConfig(tokens=3, init_weights=False)).eval()
    before = output(model)
    for block in model.base_model.model.blocks:
        block.vpt_prompts["default"].copy_(block.vpt_prompts["default"].flip(0))
    torch.testing.assert_close(output(model), before)


def test_prompts_start_uniform_within_the_papers_bound():
    torch.manual_seed(0)
    model = get_peft_model(timm.create_model("vit_tiny_patch16_224", depth=2), VPTConfig(tokens=200))
    bound = math.sqrt(6 / (3 * 16 * 16 + 192))
    for block in model.base_model.model.blocks:
        prompts = block.vpt_prompts["default"]
        assert 0.99 * bound < prompts.abs().max() <= bound
        assert prompts.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.02)
        assert abs(prompts.mean().item()) < 0.02 * bound


@pytest.mark.parametrize("deep", [True, False])
@torch.no_grad()
def test_adapters_of_both_depths_act_together(deep):
    torch.manual_seed(0)
    plain = registers(num_classes=0)  # PEFT trains one classifier at a time
    model = get_peft_model(plain, VPTConfig(tokens=2, init_weights=False), "one").eval()
    model.add_adapter("two", VPTConfig(tokens=3, deep=deep, init_weights=False))
    one = output(model)
    model.base_model.set_adapter(["one", "two"])
    both = output(model)
    assert both.shape == one.shape
    assert not torch.allclose(both, one)
    for block in model.base_model.model.blocks:
        if "two" in block.vpt_prompts:
            block.vpt_prompts["two"].copy_(block.vpt_prompts["two"].flip(0))
    torch.testing.assert_close(output(model), both)


@torch.no_grad()
def test_a_mixed_batch_takes_other_numbers_of_prompts_but_no_shallow_ones():
    torch.manual_seed(0)
    model = get_peft_model(registers(), VPTConfig(tokens=2, init_weights=False), "one").eval()
    model.add_adapter("two", VPTConfig(tokens=5, init_weights=False))
    mixed = model(IMAGES, adapter_names=["two", "one"])
    for row, name in enumerate(("two", "one")):
        model.set_adapter(name)
        torch.testing.assert_close(mixed[row], model(IMAGES[row : row + 1])[0])
    model.add_adapter("three", VPTConfig(deep=False))
    with pytest.raises(RLRRError, match="Shallow prompts"):
        model(IMAGES, adapter_names=["two", "three"])


@pytest.mark.parametrize(
    "name", ["swin_tiny_patch4_window7_224", "beit_base_patch16_224", "resnet18", "cait_xxs24_224"]
)
def test_a_model_without_one_sequence_of_tokens_is_refused_by_name(name):
    with torch.device("meta"):
        model = timm.create_model(name)
    with pytest.raises(RLRRError, match=type(model).__name__):
        get_peft_model(model, VPTConfig())


def test_shallow_prompts_need_all_blocks():
    with pytest.raises(RLRRError, match=r"blocks\.0 is left out"):
        get_peft_model(registers(), VPTConfig(deep=False, layers_to_transform=[1]))


def test_what_is_no_block_is_refused():
    with pytest.raises(RLRRError, match=r"vpt cannot adapt blocks\.0\.attn"):
        get_peft_model(registers(), VPTConfig(target_modules=r"blocks\.0\.attn"))


@pytest.mark.parametrize("settings", [{"tokens": 0}, {"tokens": 2.5}, {"dropout": 1.5}, {"deep": "yes"}])
def test_settings_that_make_no_sense_are_refused_by_name(settings):
    with pytest.raises(RLRRError, match=next(iter(settings))):
        VPTConfig(**settings)


def test_a_mask_that_knows_nothing_of_prompts_is_refused():
    model = get_peft_model(timm.create_model("vit_tiny_patch16_224", **SMALL), VPTConfig())
    with pytest.raises(RLRRError, match="mask"):
        model(IMAGES, attn_mask=torch.ones(5, 5, dtype=torch.bool))


@pytest.mark.slow
@pytest.mark.parametrize(
    "config", [VPTConfig(), VPTConfig(deep=False), ConvpassConfig()], ids=["deep", "shallow", "conv"]
)
def test_a_program_takes_batches_of_any_size(config):
    torch.manual_seed(0)
    model = get_peft_model(timm.create_model("vit_tiny_patch16_224", **SMALL), copy.deepcopy(config)).eval()
    program = torch.export.export(
        model.base_model.model, (IMAGES,), dynamic_shapes=({0: torch.export.Dim("batch", min=1, max=64)},), strict=False
    )
    for count in (1, 2, 5):
        images = torch.randn(count, 3, 32, 32)
        torch.testing.assert_close(program.module()(images), model(images))
