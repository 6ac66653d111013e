"""Our tuner against numbers that the paper's own code gave (tests/golden), to 1e-5 of the largest value."""

import json
from contextlib import nullcontext
from pathlib import Path

import pytest
import timm
import torch
from peft import get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from safetensors import safe_open
from timm.models.swin_transformer import SwinTransformer
from timm.models.vision_transformer import VisionTransformer
from torch.nn import functional as F

from rlrr import RLRRConfig
from rlrr.errors import RLRRError
from rlrr.interop.paper_names import check_architecture, from_official, to_official
from rlrr.training.optimizer import parameter_groups

GOLDEN = Path(__file__).parents[1] / "golden"


def read(kind):
    with safe_open(GOLDEN / f"official_{kind}.safetensors", "pt") as file:
        sizes = {key: json.loads(value) for key, value in file.metadata().items()}
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    return sizes, tensors


def part(tensors, prefix):
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def plain_model(sizes):
    common = {
        "img_size": sizes["img_size"],
        "patch_size": sizes["patch_size"],
        "num_classes": sizes["num_classes"],
    }
    if sizes["kind"] == "vit":
        return VisionTransformer(
            embed_dim=sizes["hidden_size"],
            depth=sizes["num_layers"],
            num_heads=sizes["num_heads"],
            mlp_ratio=sizes["mlp_dim"] / sizes["hidden_size"],
            **common,
        )
    keys = ("embed_dim", "depths", "num_heads", "window_size")
    return SwinTransformer(**{key: sizes[key] for key in keys}, drop_path_rate=0.0, **common)


def golden_model(kind):
    """The golden model before training, in our form."""
    sizes, tensors = read(kind)
    backbone, adapter = from_official(part(tensors, "base."))
    model = plain_model(sizes)
    missing, unexpected = model.load_state_dict(backbone, strict=False)
    assert not unexpected
    assert all("relative_position_index" in name or "attn_mask" in name for name in missing)
    model = get_peft_model(model, RLRRConfig())
    load_adapter(model, adapter)
    return model, sizes, tensors


def load_adapter(model, adapter):
    assert set(adapter) == set(get_peft_model_state_dict(model))
    result = set_peft_model_state_dict(model, adapter)
    assert not result.unexpected_keys


def assert_close(ours, official, what):
    torch.testing.assert_close(
        ours, official, rtol=0, atol=1e-5 * official.abs().max().item(), msg=lambda m: f"{what}: {m}"
    )


@pytest.mark.parametrize("kind", ["vit", "swin"])
def test_logits_and_all_gradients_equal_the_official_ones(kind):
    model, _, tensors = golden_model(kind)
    logits = model.eval()(tensors["x"])
    assert_close(logits, tensors["eval.logits"], "logits")

    model.train()
    F.cross_entropy(model(tensors["x"]), tensors["y"]).backward()
    _, official = from_official(part(tensors, "grad."))
    state = {name: p.grad for name, p in model.named_parameters() if p.requires_grad}
    ours = {name.replace(".default", "").replace("modules_to_save.", ""): grad for name, grad in state.items()}
    assert set(ours) == set(official)
    for name, gradient in official.items():
        assert_close(ours[name], gradient, name)


@pytest.mark.parametrize("kind", ["vit", "swin"])
def test_five_adamw_steps_give_the_official_losses_and_logits(kind):
    model, sizes, tensors = golden_model(kind)
    optimizer = torch.optim.AdamW(parameter_groups(model, sizes["weight_decay"]), lr=sizes["lr"])
    model.train()
    losses = []
    for _ in range(sizes["steps"]):
        loss = F.cross_entropy(model(tensors["x"]), tensors["y"])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    assert_close(torch.stack(losses).double(), tensors["train.losses"], "losses")
    assert_close(model.eval()(tensors["x"]), tensors["trained.logits"], "trained logits")


@pytest.mark.parametrize("kind", ["vit", "swin"])
def test_trained_official_tensors_give_the_trained_logits(kind):
    model, _, tensors = golden_model(kind)
    load_adapter(model, from_official({k: v for k, v in part(tensors, "trained.").items() if k != "logits"})[1])
    assert_close(model.eval()(tensors["x"]), tensors["trained.logits"], "trained logits")


def test_a_query_without_its_key_is_refused():
    _, tensors = read("vit")
    base = part(tensors, "base.")
    del base["transformer.encoder.layer.1.attn.key.scale_line"]
    with pytest.raises(RLRRError, match=r"blocks\.1\.attn\.qkv"):
        from_official(base)


def test_the_official_checkpoint_file_gives_the_trained_logits():
    model, _, tensors = golden_model("vit")
    saved = torch.load(GOLDEN / "official_vit_trained.pth", weights_only=True)
    saved = saved.get("model", saved.get("state_dict", saved))
    load_adapter(model, from_official(saved)[1])
    assert_close(model.eval()(tensors["x"]), tensors["trained.logits"], "trained logits")


@pytest.mark.parametrize("kind", ["vit", "swin"])
def test_an_adapter_goes_back_to_equal_official_tensors(kind):
    tensors = part(read(kind)[1], "trained.")
    if kind == "vit":
        tensors = torch.load(GOLDEN / "official_vit_trained.pth", weights_only=True)
    official = {name: tensor for name, tensor in tensors.items() if name != "logits"}
    back = to_official(from_official(official)[1])
    assert back.keys() == official.keys()
    for name, tensor in official.items():
        assert back[name].dtype == tensor.dtype
        assert torch.equal(back[name], tensor), name
        assert back[name].untyped_storage().nbytes() == tensor.nbytes  # torch.save writes whole storages


@pytest.mark.parametrize(
    "name",
    ["fc_norm.rlrr_scale", "blocks.0.ls1.rlrr_scale", "patch_embed.proj.rlrr_scale_out.x", "vit.layers.0.q_proj.bias"],
)
def test_a_tensor_that_the_official_code_has_no_place_for_is_named(name):
    with pytest.raises(RLRRError, match=f"has no place for {name}"):
        to_official({f"base_model.model.{name}": torch.zeros(3)})


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("vit_tiny_patch16_224", None),
        ("swin_tiny_patch4_window7_224", None),
        ("vit_small_patch14_dinov2", r"no VisionTransformer with blocks\.0\.ls1\.gamma"),
        ("deit_tiny_distilled_patch16_224", "no VisionTransformerDistilled"),
        ("resnet18", "no ResNet"),
    ],
)
def test_only_the_plain_vit_and_swin_are_the_papers(name, said):
    with torch.device("meta"):
        model = timm.create_model(name)
    with pytest.raises(RLRRError, match=said) if said else nullcontext():
        check_architecture(model)
