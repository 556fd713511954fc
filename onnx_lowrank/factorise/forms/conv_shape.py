"""The geometry of a convolution, which decides what any of its forms costs."""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class ConvShape:
    """The sizes of one convolution.

    The groups of a grouped convolution all have the same ranks, so filters and channels are those of one group.

    Attributes
    ----------
    filters, channels
        d and c of one group.
    kernel
        The sizes of the kernel along the spatial axes; empty for a fully connected layer.
    input, output
        The sizes of one sample along the spatial axes.
    group
        The number of groups.
    spread
        The strides of a transposed convolution, by which it spreads its input over the output; None for any other.
    """

    filters: int
    channels: int
    kernel: tuple[int, ...]
    input: tuple[int, ...]
    output: tuple[int, ...]
    group: int = 1
    spread: tuple[int, ...] | None = None

    @property
    def taps(self) -> int:
        """The number of pixels that the kernel covers."""
        return math.prod(self.kernel)

    @property
    def transposed(self) -> bool:
        """Whether the convolution is transposed."""
        return self.spread is not None

    @property
    def pixels(self) -> int:
        """The number of input pixels, counted once for every group.

        A grouped convolution costs what one of its groups costs at that many pixels.
        """
        return self.group * math.prod(self.input)

    @property
    def positions(self) -> int:
        """The number of output pixels, counted once for every group."""
        return self.group * math.prod(self.output)

    @property
    def applications(self) -> int:
        """The number of times that the whole kernel is applied: once per output pixel, or input pixel if transposed."""
        return self.pixels if self.transposed else self.positions

    @property
    def macs(self) -> int:
        """The multiply-accumulates of the convolution as it is, d·c·taps·applications."""
        return self.filters * self.channels * self.taps * self.applications
