"""Maps made larger by a whole number of times, with the positions in between interpolated linearly.

Along one axis, output o lies at x = (o + ½) / t − ½ of the input, or at x = o / t, and takes

    y_o = (1 − f) · x_⌊x⌋ + f · x_⌊x⌋+1,    f = x − ⌊x⌋,

where positions beyond the map are those of its edge. That is a matrix M [t·n, n] for every spatial axis, and the slope
comes back through Mᵀ.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_lowrank.factorise.blocks.operator import Extent

Array = NDArray[Any]


@dataclass(frozen=True)
class Interpolated:
    """Every spatial axis so many times as long, and linear in between (Resize, Upsample).

    Attributes
    ----------
    times
        How many times as long each spatial axis becomes.
    centred
        Whether positions are the middles of pixels (half_pixel), or their beginnings (asymmetric).
    """

    times: tuple[int, ...]
    centred: bool

    def forward(self, *inputs: Array) -> tuple[Array, Any]:
        """See ``Operator``."""
        y = inputs[0]
        for axis in self._axes:
            y = _along(axis + 2, y, self._matrix(axis, y.shape[axis + 2]).T)
        return y, None

    def backward(
        self, slope: Array, inputs: Sequence[Array], output: Array, kept: Any, wanted: Sequence[bool]
    ) -> Sequence[Array | None]:
        """See ``Operator``."""
        for axis in reversed(self._axes):
            slope = _along(axis + 2, slope, self._matrix(axis, inputs[0].shape[axis + 2]))
        return (slope,)

    def extent(self, axis: int, extents: Sequence[Extent]) -> Extent | None:
        """See ``Operator``; what lies beyond a window is not its edge."""
        (read,) = extents
        below, above, share = self._neighbours(axis, len(read.known))
        inside = np.concatenate([[read.first], read.known, [read.last]])
        ends = len(inside) - 1
        known = inside[np.clip(below + 1, 0, ends)] & (inside[np.clip(above + 1, 0, ends)] | (share == 0))
        return Extent(known, read.first, read.last)

    @property
    def _axes(self) -> list[int]:
        """The spatial axes that change."""
        return [axis for axis, times in enumerate(self.times) if times > 1]

    def _neighbours(self, axis: int, length: int) -> tuple[Array, Array, Array]:
        """Return for every output the positions on both sides of it, and the share of the one above."""
        half = 0.5 if self.centred else 0.0
        places = (np.arange(length * self.times[axis]) + half) / self.times[axis] - half
        below = np.floor(places).astype(np.intp)
        return below, below + 1, places - below

    def _matrix(self, axis: int, length: int) -> Array:
        below, above, share = self._neighbours(axis, length)
        matrix, rows = np.zeros((len(below), length), np.float32), np.arange(len(below))
        np.add.at(matrix, (rows, np.clip(below, 0, length - 1)), 1 - share)
        np.add.at(matrix, (rows, np.clip(above, 0, length - 1)), share)
        return matrix


def _along(axis: int, x: Array, matrix: Array) -> Array:
    """Multiply every line along an axis by a matrix [length, new length]."""
    lines = np.ascontiguousarray(np.moveaxis(x, axis, -1))
    return np.ascontiguousarray(np.moveaxis(lines @ matrix.astype(x.dtype, copy=False), -1, axis))
