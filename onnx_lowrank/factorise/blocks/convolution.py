"""Convolutions, and the fully connected layers among them, with the slopes of their weights.

The input's columns X, [groups, channels of a group · kernel, samples · positions], make

    Y = W X + b,      ∂/∂W = (∂/∂Y) Xᵀ,      ∂/∂X = Wᵀ (∂/∂Y),

with W [groups, filters of a group, channels of a group · kernel].
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_lowrank.factorise.blocks.operator import Extent
from onnx_lowrank.factorise.blocks.taps import Taps

Array = NDArray[Any]


@dataclass(frozen=True)
class Convolution:
    """A convolution of x [c, N, *size] with a weight [d, c of a group, *kernel] and, if there is one, a bias [d].

    Without spatial axes it is a fully connected layer.
    """

    taps: Taps
    groups: int = 1

    def forward(self, *inputs: Array) -> tuple[Array, Any]:
        """See ``Operator``; the columns are kept."""
        x, weight = inputs[:2]
        columns = self._columns(x)
        y = (weight.reshape(self.groups, -1, columns.shape[1]) @ columns).reshape(len(weight), -1)
        if len(inputs) > 2:
            y += inputs[2][:, None]
        return y.reshape(len(weight), x.shape[1], *self.taps.output_size(x.shape[2:])), columns

    def backward(
        self, slope: Array, inputs: Sequence[Array], output: Array, kept: Any, wanted: Sequence[bool]
    ) -> Sequence[Array | None]:
        """See ``Operator``."""
        x, weight = inputs[:2]
        filters = slope.reshape(self.groups, len(weight) // self.groups, -1)
        slopes: list[Array | None] = [None] * len(inputs)
        if wanted[0]:
            rows = weight.reshape(self.groups, -1, kept.shape[1]).swapaxes(1, 2)
            slopes[0] = self._gathered(rows @ filters, x.shape)
        if wanted[1]:
            slopes[1] = (filters @ kept.swapaxes(1, 2)).reshape(weight.shape)
        if len(inputs) > 2 and wanted[2]:
            slopes[2] = slope.reshape(len(weight), -1).sum(axis=1)
        return slopes

    def extent(self, axis: int, extents: Sequence[Extent]) -> Extent | None:
        """See ``Operator``."""
        return self.taps.extent(axis, extents[0])

    def _columns(self, x: Array) -> Array:
        if self.taps.is_point:
            return x.reshape(self.groups, len(x) // self.groups, -1)
        outputs = self.taps.output_size(x.shape[2:])
        columns = np.zeros((len(x), math.prod(self.taps.kernel), x.shape[1], *outputs), x.dtype)
        for number, out, read in self.taps(x.shape[2:]):
            columns[:, number][:, :, *out] = x[:, :, *read]
        return columns.reshape(self.groups, len(x) // self.groups * math.prod(self.taps.kernel), -1)

    def _gathered(self, columns: Array, shape: tuple[int, ...]) -> Array:
        """Add up the slopes of all columns that hold the same element of the input."""
        if self.taps.is_point:
            return columns.reshape(shape)
        outputs = self.taps.output_size(shape[2:])
        by_element = columns.reshape(shape[0], math.prod(self.taps.kernel), shape[1], *outputs)
        slopes = np.zeros(shape, columns.dtype)
        for number, out, read in self.taps(shape[2:]):
            slopes[:, :, *read] += by_element[:, number][:, :, *out]
        return slopes
