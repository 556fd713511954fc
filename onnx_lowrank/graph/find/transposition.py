"""The geometry of a transposed convolution (ConvTranspose).

Along every spatial axis a transposed convolution with kernel k, stride s, dilation e and padding (t, b) spreads each
input pixel over the output,

    y[i·s + j·e − t] += W[j] x[i],     0 ≤ j < k,

so an output position u sees x[(u + t − j·e) / s] under tap j where this is a whole number inside x, and nothing
elsewhere. Seen from its outputs, it is a convolution like any other: the same linear map [d, c·k] of a patch, in which
the taps of the other phases are zero.

Where the file leaves the padding to ``auto_pad`` or states the size of the output, the padding follows from the size of
the input, as ONNX Runtime computes it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


class Strided(Protocol):
    """The attributes that a transposed convolution has in common with any other; see ``ConvSite``."""

    @property
    def strides(self) -> tuple[int, ...]:
        """Along every spatial axis."""

    @property
    def pads(self) -> tuple[int, ...] | None:
        """In front along every axis, then behind; None where ``auto_pad`` decides."""

    @property
    def auto_pad(self) -> str:
        """As in the file."""

    @property
    def extents(self) -> tuple[int, ...]:
        """The lengths of the dilated kernel along every spatial axis."""


@dataclass(frozen=True)
class Transposition:
    """The attributes that a transposed convolution has alone.

    Attributes
    ----------
    output_padding
        The number of pixels that are added behind the output along every spatial axis.
    output_shape
        The size of the output along every spatial axis, where the file states it; the padding follows from it. Else
        None.
    """

    output_padding: tuple[int, ...]
    output_shape: tuple[int, ...] | None = None

    def padding(self, conv: Strided, size: Sequence[int]) -> tuple[int, ...]:
        """Return the padding for an input of this size: in front along every spatial axis, then behind."""
        wanted = self._wanted_size(conv, size)
        if wanted is None:
            return conv.pads or (0,) * (2 * len(size))
        totals = [max(full - own, 0) for full, own in zip(self._full_size(conv, size), wanted, strict=True)]
        less = tuple(total // 2 for total in totals)
        more = tuple(total - total // 2 for total in totals)
        return (*less, *more) if conv.auto_pad == "SAME_UPPER" else (*more, *less)

    def output_size(self, conv: Strided, size: Sequence[int]) -> tuple[int, ...]:
        """Return the size of the output along the spatial axes for an input of this size."""
        if self.output_shape is not None:
            return self.output_shape
        pads, axes = self.padding(conv, size), len(size)
        return tuple(full - pads[a] - pads[axes + a] for a, full in enumerate(self._full_size(conv, size)))

    def shrinks(self, size: Sequence[int]) -> bool:
        """Whether the file states a size of the output that is below that of an input somewhere.

        ONNX's shape inference then gives the output too few axes, and a convolution behind it would be refused.
        """
        return any(own < length for own, length in zip(self.output_shape or size, size, strict=True))

    def _wanted_size(self, conv: Strided, size: Sequence[int]) -> tuple[int, ...] | None:
        """Return the size of the output from which the padding follows; None where the padding is given."""
        if self.output_shape is not None:
            return self.output_shape
        if conv.auto_pad.startswith("SAME"):
            return tuple(length * stride for length, stride in zip(size, conv.strides, strict=True))
        return None

    def _full_size(self, conv: Strided, size: Sequence[int]) -> list[int]:
        """Return the size of the output without padding."""
        steps = zip(size, conv.strides, conv.extents, self.output_padding, strict=True)
        return [(length - 1) * stride + extent + more for length, stride, extent, more in steps]


def swap_channels(kernel: Array, group: int) -> Array:
    """Return a kernel [d, c of a group, *sizes] in the order of a ConvTranspose, [c, d of a group, *sizes], or back."""
    first, second, *sizes = kernel.shape
    groups = kernel.reshape(group, first // group, second, *sizes)
    return np.ascontiguousarray(groups.swapaxes(1, 2)).reshape(group * second, first // group, *sizes)
