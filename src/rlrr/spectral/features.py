"""Changes of a model's features by tuning, block by block on images, for methods that cannot be read from weights.

The features of an image after a block are one vector: the class token beside the mean of the patch tokens, or the mean
alone where the block gives no more tokens than patches (or pixels). Other tokens, such as registers or prompts, are
left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from rlrr.backbones.families import block_names, patch_count
from rlrr.errors import RLRRError, UsageError
from rlrr.methods.trainable import plain_model
from rlrr.spectral.measures import principal_angles, relative_change

LEAST_IMAGES = 4  # for an estimate of CKA without bias
_BATCH = 32
_ROUNDING = 1e-6  # share of the whole below which a float32 is rounding


@dataclass(frozen=True)
class FeatureChange:
    """Change of the features after one block; a measure that is not defined is None.

    Attributes:
        layer: Index of the block, from 0 and through all stages.
        name: Name of the block in the model before tuning.
        cka: Linear CKA of the features before and after: 1 if they are the same but for a turn and one scale, about 0
            if they have nothing in common. None if either are the same for all images.
        subspace_angle: Mean principal angle, in degrees, between the subspaces in which the features vary most.
        relative_change: ‖X' - X‖_F / ‖X‖_F. None, as the angle is, if X' has another width than X.
    """

    layer: int
    name: str
    cka: float | None
    subspace_angle: float | None
    relative_change: float | None


def feature_changes(
    before: nn.Module, after: nn.Module, images: Tensor, *, directions: int = 16
) -> list[FeatureChange]:
    """Compare the outputs of each block of two models, timm's or transformers', plain or PEFT's, on the same images.

    Args:
        before: The model before tuning.
        after: A model with as many blocks.
        images: (n, 3, h, w), as the models take them; some dozens will do.
        directions: Number of leading directions that make a subspace; fewer if the features vary in fewer.

    Raises:
        RLRRError: there are too few images, no blocks, another number of blocks in each model, or features that are
            not finite.
    """
    if len(images) < LEAST_IMAGES:
        raise UsageError(f"Features are compared on {LEAST_IMAGES} images or more, not {len(images)}.")
    names, names_after = block_names(plain_model(before)), block_names(plain_model(after))
    if not names or len(names) != len(names_after):
        raise RLRRError(
            f"Features are compared block by block, and the models have {len(names)} and {len(names_after)} blocks: "
            "give two models of one architecture that has blocks."
        )
    pairs = zip(names, _features(before, names, images), _features(after, names_after, images), strict=True)
    return [_change(layer, name, old, new, directions) for layer, (name, old, new) in enumerate(pairs)]


def cka(first: Tensor, second: Tensor) -> float | None:
    """Estimate linear centred kernel alignment (Kornblith et al., ICML 2019, arXiv 1905.00414) without bias.

    With fewer images than features the plain form is near 1 whatever the features. This is the one with the unbiased
    estimate of HSIC (Song et al., JMLR 2012), as in Nguyen et al., ICLR 2021 (arXiv 2010.15327): the cosine between the
    U-centred Gram matrices (Székely and Rizzo, 2014), `<A, B> / (‖A‖ ‖B‖)`.

    Args:
        first: (n, p) features of n images, at least 4.
        second: (n, q) features of the same images.

    Returns:
        At most 1, and below 0 by chance only; None if either features are the same for all images.
    """
    first_gram, second_gram = _u_centred(_centred(first)), _u_centred(_centred(second))
    lengths = first_gram.norm() * second_gram.norm()
    return (first_gram * second_gram).sum().div(lengths).item() if lengths else None


def _change(layer: int, name: str, old: Tensor, new: Tensor, directions: int) -> FeatureChange:
    if not (old.isfinite().all() and new.isfinite().all()):
        raise RLRRError(f"The features after {name} are not finite: is a weight NaN?")
    if old.shape != new.shape:
        return FeatureChange(layer, name, cka(old, new), None, None)
    return FeatureChange(layer, name, cka(old, new), _subspace_angle(old, new, directions), relative_change(old, new))


def _centred(features: Tensor) -> Tensor:
    """Subtract the mean of features (n, d), in float64; give zeros if all images have the same but for rounding."""
    features = features.double()
    centred = features - features.mean(0)
    return centred if centred.norm() > _ROUNDING * features.norm() else torch.zeros_like(centred)


def _u_centred(centred: Tensor) -> Tensor:
    """Return the Gram matrix (n, n) with a zero diagonal, centred so that every row adds up to 0."""
    count = len(centred)
    gram = (centred @ centred.mT).fill_diagonal_(0)
    rows = gram.sum(0) / (count - 2)
    return (gram - rows - rows[:, None] + rows.sum() / (count - 1)).fill_diagonal_(0)


def _subspace_angle(before: Tensor, after: Tensor, directions: int) -> float | None:
    bases = []
    for features in (before, after):
        _, values, right = torch.linalg.svd(_centred(features), full_matrices=False)
        bases.append(right[: int((values > _ROUNDING * values.max()).sum())].mT)
    count = min(directions, *(basis.shape[1] for basis in bases))
    return principal_angles(*(basis[:, :count] for basis in bases)).mean().item() if count else None


def _features(model: nn.Module, blocks: Sequence[str], images: Tensor) -> list[Tensor]:
    """Return the features after each block, (n, d), float32 on the CPU.

    Hooks pool each output at once. timm's `forward_intermediates` gives the same numbers, but stages in place of blocks
    where a model has stages, and holds the outputs of all blocks of a batch at the same time.
    """
    plain, device = plain_model(model), next(model.parameters()).device
    patches = patch_count(plain, *images.shape[-2:])
    pooled: list[list[Tensor]] = [[] for _ in blocks]

    def keep(block: nn.Module, inputs: Any, output: Any, *, index: int) -> None:
        tokens = output[0] if isinstance(output, tuple) else output
        pooled[index].append(_pooled(block, tokens, patches).float().cpu())

    with ExitStack() as stack:
        for index, name in enumerate(blocks):
            hook = plain.get_submodule(name).register_forward_hook(partial(keep, index=index))
            stack.callback(hook.remove)
        stack.callback(model.train, model.training)
        stack.enter_context(torch.inference_mode())
        model.eval()
        for batch in images.split(_BATCH):
            model(batch.to(device))
    return [torch.cat(batches) for batches in pooled]


def _pooled(block: nn.Module, output: Tensor, patches: int | None) -> Tensor:
    """Return one vector for each image, from tokens (n, tokens, d), windows (n, h, w, d) or the maps of convolutions.

    Beside the patches only the first token counts; the patches are the last tokens.
    """
    if output.ndim == 4:
        channels_first = any(isinstance(module, nn.Conv2d) for module in block.modules())
        return output.mean((2, 3) if channels_first else (1, 2))
    if patches is None or output.shape[1] <= patches:
        return output.mean(1)
    return torch.cat([output[:, 0], output[:, -patches:].mean(1)], dim=1)
