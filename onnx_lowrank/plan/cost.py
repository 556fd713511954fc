"""What a factorised convolution costs, in multiply-accumulates (MACs) of one sample."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class ConvShape:
    """The geometry that decides a convolution's cost: c→d channels, a kernel of h×w, ``positions`` output pixels."""

    filters: int
    channels: int
    kernel: tuple[int, int]
    positions: int

    @classmethod
    def from_macs(cls, kernel: Sequence[int], macs: int) -> "ConvShape":
        """From the kernel's shape [d, c, h, w] and the untouched convolution's cost."""
        d, c, h, w = kernel
        return cls(d, c, (h, w), macs // (d * c * h * w))

    @property
    def macs(self) -> int:
        """d·c·h·w·positions: the convolution as it is."""
        return self.filters * self.channels * self.kernel[0] * self.kernel[1] * self.positions

    def channel_macs(self, rank: int) -> int:
        """Both convolutions of the channel form, (c·h·w + d)·d'·positions.

        The paper's budget (§2.5) leaves out the second one, d·d': 11% of a 3×3 layer, all of a 1×1 layer.
        """
        return (self.channels * self.kernel[0] * self.kernel[1] + self.filters) * rank * self.positions

    def all_channel_macs(self) -> NDArray[Any]:
        """The channel form's cost at rank 1..d, [d]."""
        return np.arange(1, self.filters + 1) * self.channel_macs(1)
