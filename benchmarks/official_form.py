"""RLRR on a timm ViT written out plainly, from the formulas of the paper: what ours is compared with.

`official_form` computes as the paper's own code does: `weight * scale_out * scale_in + weight` under autograd, query,
key and value apart, attention unfused, and a pass of its own for each scale and shift after a norm or the patch
embedding. `autograd_form` leaves timm's fused attention as it is and folds those scales and shifts into the layers
before them, as our tuner does, so that from ours it differs only in how the linears' weights are handled.

Both freeze the model but for their vectors and the classifier. Vectors start as small random numbers.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

SPREAD = 0.02  # standard deviation of the vectors at the start


def _vector(*shape: int, mean: float = 0.0) -> nn.Parameter:
    return nn.Parameter(mean + SPREAD * torch.randn(shape))


class OfficialLinear(nn.Module):
    """`W' = W ⊙ scale_out ⊙ scale_in + W` and `b' = b + shift`; scale_out (out, 1), scale_in (1, in), shift (out)."""

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        copies = (tensor.detach().clone() for tensor in (weight, bias))  # of a part of qkv, all of which would stay
        self.weight, self.bias = (nn.Parameter(copy, requires_grad=False) for copy in copies)
        rows, columns = weight.shape
        self.scale_out, self.scale_in, self.shift = _vector(rows, 1), _vector(1, columns), _vector(rows)

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        weight = self.weight * self.scale_out * self.scale_in + self.weight
        return F.linear(x, weight, self.bias + self.shift)


class OfficialAttention(nn.Module):
    """Attention with three linears in place of timm's one, and its products written out."""

    def __init__(self, attention: nn.Module) -> None:
        super().__init__()
        weights, biases = (tensor.chunk(3) for tensor in (attention.qkv.weight, attention.qkv.bias))
        self.q, self.k, self.v = map(OfficialLinear, weights, biases)
        self.proj = OfficialLinear(attention.proj.weight, attention.proj.bias)
        self.heads, self.scale = attention.num_heads, attention.scale

    def forward(self, x: Tensor, **_: object) -> Tensor:  # noqa: D102
        q, k, v = (part(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in (self.q, self.k, self.v))
        attention = (q @ k.transpose(-2, -1) * self.scale).softmax(-1)
        return self.proj((attention @ v).transpose(1, 2).flatten(2))


class OfficialAffine(nn.Module):
    """A layer whose output (..., features) is multiplied and shifted in two further passes."""

    def __init__(self, base: nn.Module, features: int) -> None:
        super().__init__()
        self.base, self.scale, self.shift = base, _vector(features, mean=1.0), _vector(features)

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        return self.base(x) * self.scale + self.shift


def official_form(model: nn.Module) -> nn.Module:
    """Turn a timm ViT into the official form, in place."""
    _freeze(model)
    width = model.embed_dim
    model.patch_embed.norm = OfficialAffine(model.patch_embed.norm, width)  # after tokens are laid out, as there
    for block in model.blocks:
        block.attn = OfficialAttention(block.attn)
        for name in ("fc1", "fc2"):
            linear = getattr(block.mlp, name)
            setattr(block.mlp, name, OfficialLinear(linear.weight, linear.bias))
        block.norm1, block.norm2 = (OfficialAffine(norm, width) for norm in (block.norm1, block.norm2))
    model.norm = OfficialAffine(model.norm, width)
    return model


class AutogradLinear(nn.Module):
    """`W' = W + (scale_out scale_in) ⊙ W` by blocks; scale_out (out, 1), scale_in (blocks, 1, in), shift (out)."""

    def __init__(self, linear: nn.Linear, blocks: int = 1) -> None:
        super().__init__()
        self.weight, self.bias = linear.weight, linear.bias
        rows, columns = linear.weight.shape
        self.scale_out, self.scale_in, self.shift = _vector(rows, 1), _vector(blocks, 1, columns), _vector(rows)

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        blocks = self.weight.unflatten(0, (len(self.scale_in), -1))
        scale = self.scale_out.view(len(blocks), -1, 1) * self.scale_in
        weight = (blocks + scale * blocks).flatten(0, 1)
        return F.linear(x, weight, self.bias + self.shift)


class AutogradAffine(nn.Module):
    """A LayerNorm or convolution into whose weight and bias a scale and a shift of its output are folded."""

    def __init__(self, base: nn.LayerNorm | nn.Conv2d) -> None:
        super().__init__()
        self.base = base
        self.scale, self.shift = _vector(len(base.weight), mean=1.0), _vector(len(base.weight))

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        base = self.base
        weight = base.weight * self.scale.view(-1, *[1] * (base.weight.ndim - 1))
        bias = base.bias * self.scale + self.shift
        if isinstance(base, nn.Conv2d):
            return base._conv_forward(x, weight, bias)
        return F.layer_norm(x, base.normalized_shape, weight, bias, base.eps)


def autograd_form(model: nn.Module) -> nn.Module:
    """Turn a timm ViT into RLRR by plain autograd over W', in place."""
    _freeze(model)
    model.patch_embed.proj = AutogradAffine(model.patch_embed.proj)
    for block in model.blocks:
        block.attn.qkv, block.attn.proj = AutogradLinear(block.attn.qkv, 3), AutogradLinear(block.attn.proj)
        block.mlp.fc1, block.mlp.fc2 = AutogradLinear(block.mlp.fc1), AutogradLinear(block.mlp.fc2)
        block.norm1, block.norm2 = AutogradAffine(block.norm1), AutogradAffine(block.norm2)
    model.norm = AutogradAffine(model.norm)
    return model


def _freeze(model: nn.Module) -> None:
    model.requires_grad_(False)
    model.head.requires_grad_(True)
