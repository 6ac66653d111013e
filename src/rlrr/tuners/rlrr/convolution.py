"""A convolution whose kernel is rescaled (supplement G), as in a ResNet."""

from __future__ import annotations

import math

from torch import Tensor

from rlrr.tuners.rlrr.config import RLRRConfig
from rlrr.tuners.rlrr.functional import kernel_matrix, matrix_kernel
from rlrr.tuners.rlrr.layer import Rescaled


class Convolution(Rescaled):
    """A 2-d convolution, whose kernel (out, in / groups, kh, kw) is the matrix (out kh, in / groups kw).

    Groups are blocks: each has `rlrr_scale_in` of its own, so that a depthwise convolution has (out, r, kw).
    """

    def as_matrix(self, weight: Tensor) -> Tensor:
        return kernel_matrix(weight)

    def from_matrix(self, matrix: Tensor) -> Tensor:
        return matrix_kernel(matrix, self.frozen[0].shape).contiguous()

    def blocks(self, config: RLRRConfig) -> int:
        """Count the blocks: groups of channels, where they are more than the stacked projections."""
        return math.lcm(super().blocks(config), self.get_base_layer().groups)

    def separates(self, x: Tensor, adapters: int) -> bool:
        """Always run a mixed batch adapter by adapter: kernels do not factor over samples as a linear's weight does."""
        return True
