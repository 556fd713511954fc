"""Depthwise convolutions: one filter for every channel.

NumPy would pass over the whole map once for every element of the kernel. Along the last axis the filter of a channel
is therefore written as a matrix T, [length, outputs], with T[i, o] = w[k] where the output o reads the input i through
the element k, so that rows of the kernel become products of matrices: with a row X, [samples · lines, length],

    Y = X T,      ∂/∂X = (∂/∂Y) Tᵀ,      ∂/∂T = Xᵀ (∂/∂Y),

and the slope of w[k] is the sum of ∂/∂T over the pairs (i, o) that belong to k.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_lowrank.factorise.blocks.operator import Extent
from onnx_lowrank.factorise.blocks.taps import Slices, Taps

Array = NDArray[Any]


@dataclass(frozen=True)
class Depthwise:
    """A depthwise convolution of x [c, N, *size] with a weight [c, 1, *kernel] and, if there is one, a bias [c]."""

    taps: Taps
    groups: int

    def forward(self, *inputs: Array) -> tuple[Array, Any]:
        """See ``Operator``; the matrices T of all lines of the kernel are kept."""
        x, weight = inputs[:2]
        outputs = self.taps.output_size(x.shape[2:])
        y = np.zeros((*x.shape[:2], *outputs), x.dtype)
        matrices = self._matrices(weight, x.shape[-1], outputs[-1])
        for line, out, read in self._lines(x.shape[2:]):
            rows = x[:, :, *read]
            if matrices is None:
                y[:, :, *out] += rows * _per_channel(weight[:, 0].reshape(len(x), -1)[:, line], x.ndim)
            else:
                y[:, :, *out] += _times(rows, matrices[line], outputs[-1])
        if len(inputs) > 2:
            y += _per_channel(inputs[2], x.ndim)
        return y, matrices

    def backward(
        self, slope: Array, inputs: Sequence[Array], output: Array, kept: Any, wanted: Sequence[bool]
    ) -> Sequence[Array | None]:
        """See ``Operator``."""
        x, weight = inputs[:2]
        of_input = np.zeros_like(x) if wanted[0] else None
        of_weight = np.zeros((len(x), weight[0].size // weight.shape[-1], weight.shape[-1]), x.dtype)
        for line, out, read in self._lines(x.shape[2:]):
            rows, own = x[:, :, *read], np.ascontiguousarray(slope[:, :, *out])
            if kept is None:
                if of_input is not None:
                    of_input[:, :, *read] += own * _per_channel(weight[:, 0].reshape(len(x), -1)[:, line], x.ndim)
                of_weight[:, line, 0] = np.einsum("cn,cn->c", rows.reshape(len(x), -1), own.reshape(len(x), -1))
                continue
            if of_input is not None:
                of_input[:, :, *read] += _times(own, kept[line].swapaxes(1, 2), x.shape[-1])
            of_matrix = rows.reshape(len(x), -1, x.shape[-1]).swapaxes(1, 2) @ own.reshape(len(x), -1, own.shape[-1])
            for element in range(weight.shape[-1]):
                pair = self.taps.pair(x.ndim - 3, element, *of_matrix.shape[1:])
                if pair:
                    o, i = (np.arange(*part.indices(1 << 30)) for part in pair)
                    of_weight[:, line, element] = of_matrix[:, i, o].sum(axis=1)
        slopes: list[Array | None] = [of_input, of_weight.reshape(weight.shape)]
        if len(inputs) > 2:
            slopes.append(slope.reshape(len(x), -1).sum(axis=1))
        return slopes

    def extent(self, axis: int, extents: Sequence[Extent]) -> Extent | None:
        """See ``Operator``."""
        return self.taps.extent(axis, extents[0])

    def _lines(self, size: Sequence[int]) -> list[tuple[int, Slices, Slices]]:
        """Return for every line of the kernel its number, the outputs that read through it, and what they read.

        A line extends along the last axis, of which all is read.
        """
        taps = self.taps
        others = Taps(*(own[:-1] for own in (taps.kernel, taps.strides, taps.dilations, taps.before, taps.after)))
        return [(line, (*out, slice(None)), (*read, slice(None))) for line, out, read in others(size[:-1])]

    def _matrices(self, weight: Array, length: int, outputs: int) -> Array | None:
        """Return T for every line of the kernel, [lines, c, length, outputs]; None where each line is a number."""
        taps, axis = self.taps, len(self.taps.kernel) - 1
        if (taps.kernel[axis], taps.strides[axis], taps.before[axis], taps.after[axis]) == (1, 1, 0, 0):
            return None
        lines = weight.reshape(len(weight), -1, weight.shape[-1]).swapaxes(0, 1)
        matrices = np.zeros((*lines.shape[:2], length, outputs), weight.dtype)
        for element in range(weight.shape[-1]):
            pair = taps.pair(axis, element, length, outputs)
            if pair:
                o, i = (np.arange(*part.indices(1 << 30)) for part in pair)
                matrices[:, :, i, o] = lines[:, :, element, None]
        return matrices


def _times(rows: Array, matrices: Array, outputs: int) -> Array:
    """Return the product of all lines [c, N, ..., length] with the matrix of their channel."""
    product = rows.reshape(len(rows), -1, rows.shape[-1]) @ matrices
    return product.reshape(*rows.shape[:-1], outputs)


def _per_channel(values: Array, axes: int) -> Array:
    return values.reshape(-1, *(1,) * (axes - 1))
