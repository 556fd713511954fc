"""The geometry that decides what a convolution costs, whatever its form."""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class ConvShape:
    """The sizes of one convolution.

    The ranks of a grouped convolution are those of one of its groups, and so are the filters and channels here.

    Attributes
    ----------
    filters, channels
        d and c of one group.
    kernel
        The sizes along every spatial axis; none for a fully connected layer.
    input, output
        The sizes of one sample along every spatial axis.
    group
        The number of groups.
    """

    filters: int
    channels: int
    kernel: tuple[int, ...]
    input: tuple[int, ...]
    output: tuple[int, ...]
    group: int = 1

    @property
    def taps(self) -> int:
        """The number of pixels that the kernel covers."""
        return math.prod(self.kernel)

    @property
    def pixels(self) -> int:
        """The input pixels of all groups: a grouped convolution costs what one group costs at that many pixels."""
        return self.group * math.prod(self.input)

    @property
    def positions(self) -> int:
        """The output pixels of all groups."""
        return self.group * math.prod(self.output)

    @property
    def macs(self) -> int:
        """d·c·taps·positions: the multiply-accumulates of the convolution as it is."""
        return self.filters * self.channels * self.taps * self.positions
