"""The backbone that an adapter was trained on: its fingerprint in the adapter's settings, compared on loading."""

from __future__ import annotations

import warnings

from torch import nn

from rlrr.backbones.fingerprint import fingerprint
from rlrr.tuners.config import TunerConfig


def warn_of_another_backbone(config: TunerConfig, model: nn.Module, prefix: str) -> None:
    """Warn if a model has other weights than the one that an adapter was trained on.

    Args:
        config: The adapter's settings.
        model: The model that gets the adapter, and may have others.
        prefix: The prefix of the adapters' tensors.
    """
    expected = config.backbone_sha256
    if expected is None or any(tensor.is_meta for tensor in model.parameters()):
        return
    if (found := fingerprint(model, prefix)) != expected:
        warnings.warn(
            f"This adapter was trained on a backbone with weights {expected[:12]}, and this {type(model).__name__} has "
            f"{found[:12]}: its predictions will be wrong, unless the weights were only converted to another dtype.",
            stacklevel=2,
        )
