"""SSF's layer: a scale and a shift of each output feature."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from rlrr.tuners.affine import AffineLayer
from rlrr.tuners.ssf.config import SSFConfig

SPREADS = {"paper": 0.02, True: 0.0, False: 0.2}
"""Standard deviation of scales about 1, and of shifts about 0, by `init_weights`."""


class SSFLayer(AffineLayer):
    """A linear, norm or convolution whose output z becomes `z * scale + shift` (arXiv 2210.08823, Eq. 3).

    For each adapter: `ssf_scale` and `ssf_shift`, (features).
    """

    prefix = "ssf_"
    adapter_layer_names = ("ssf_scale", "ssf_shift")

    def start(self, config: SSFConfig) -> Mapping[str, Tensor | None]:
        spread = SPREADS[config.init_weights]
        noise = spread * torch.randn(2, self.out_features)
        return {"ssf_scale": 1 + noise[0], "ssf_shift": noise[1].clone() if self.holds_shift else None}
