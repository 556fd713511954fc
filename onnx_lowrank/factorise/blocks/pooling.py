"""Poolings over windows of a map, and means over whole axes."""

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
class LargestOf:
    """The largest element of every window (MaxPool)."""

    taps: Taps

    def forward(self, *inputs: Array) -> tuple[Array, Any]:
        """See ``Operator``."""
        x = inputs[0]
        y = np.full((*x.shape[:2], *self.taps.output_size(x.shape[2:])), -np.inf, x.dtype)
        for _, out, read in self.taps(x.shape[2:]):
            np.maximum(y[:, :, *out], x[:, :, *read], out=y[:, :, *out])
        return y, None

    def backward(
        self, slope: Array, inputs: Sequence[Array], output: Array, kept: Any, wanted: Sequence[bool]
    ) -> Sequence[Array | None]:
        """See ``Operator``; of several elements that are the largest, the first one gets the slope."""
        x = inputs[0]
        slopes, open_ = np.zeros_like(x), np.ones(output.shape, np.bool_)
        for _, out, read in self.taps(x.shape[2:]):
            taken = (x[:, :, *read] == output[:, :, *out]) & open_[:, :, *out]
            slopes[:, :, *read] += slope[:, :, *out] * taken
            open_[:, :, *out] &= ~taken
        return (slopes,)

    def extent(self, axis: int, extents: Sequence[Extent]) -> Extent | None:
        """See ``Operator``."""
        return self.taps.extent(axis, extents[0])


@dataclass(frozen=True)
class MeanOfWindow:
    """The mean of every window (AveragePool), in which the padding takes part as zeros, or not at all."""

    taps: Taps
    with_padding: bool

    def forward(self, *inputs: Array) -> tuple[Array, Any]:
        """See ``Operator``; the share of every element in its mean is kept."""
        x = inputs[0]
        y = np.zeros((*x.shape[:2], *self.taps.output_size(x.shape[2:])), x.dtype)
        counts = np.zeros(y.shape[2:], x.dtype)
        for _, out, read in self.taps(x.shape[2:]):
            y[:, :, *out] += x[:, :, *read]
            counts[*out] += 1
        share = 1 / (math.prod(self.taps.kernel) + 0 * counts if self.with_padding else counts)
        y *= share
        return y, share

    def backward(
        self, slope: Array, inputs: Sequence[Array], output: Array, kept: Any, wanted: Sequence[bool]
    ) -> Sequence[Array | None]:
        """See ``Operator``."""
        slopes = np.zeros_like(inputs[0])
        slope *= kept
        for _, out, read in self.taps(slopes.shape[2:]):
            slopes[:, :, *read] += slope[:, :, *out]
        return (slopes,)

    def extent(self, axis: int, extents: Sequence[Extent]) -> Extent | None:
        """See ``Operator``."""
        return self.taps.extent(axis, extents[0])


@dataclass(frozen=True)
class MeanOf:
    """The mean over some axes of the whole map (GlobalAveragePool, ReduceMean).

    Attributes
    ----------
    axes
        The axes, none of which counts samples.
    keep
        Whether they stay, with length 1.
    """

    axes: tuple[int, ...]
    keep: bool

    def forward(self, *inputs: Array) -> tuple[Array, Any]:
        """See ``Operator``."""
        return np.asarray(inputs[0].mean(axis=self.axes, keepdims=self.keep)), None

    def backward(
        self, slope: Array, inputs: Sequence[Array], output: Array, kept: Any, wanted: Sequence[bool]
    ) -> Sequence[Array | None]:
        """See ``Operator``."""
        shape = inputs[0].shape
        count = math.prod(shape[axis] for axis in self.axes)
        wide = slope if self.keep else np.expand_dims(slope, self.axes)
        return (np.broadcast_to(wide / count, shape).astype(slope.dtype),)

    def extent(self, axis: int, extents: Sequence[Extent]) -> Extent | None:
        """See ``Operator``."""
        return None if axis + 2 in self.axes else extents[0]
