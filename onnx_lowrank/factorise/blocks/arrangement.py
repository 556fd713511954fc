"""Operators that compute nothing: they join tensors, repeat positions, or put elements into another order."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_lowrank.factorise.blocks.operator import Extent, common

Array = NDArray[Any]


@dataclass(frozen=True)
class Joined:
    """All inputs one behind the other along an axis (Concat)."""

    axis: int

    def forward(self, *inputs: Array) -> tuple[Array, Any]:
        """See ``Operator``."""
        return np.concatenate(inputs, self.axis), None

    def backward(
        self, slope: Array, inputs: Sequence[Array], output: Array, kept: Any, wanted: Sequence[bool]
    ) -> Sequence[Array | None]:
        """See ``Operator``."""
        ends = np.cumsum([value.shape[self.axis] for value in inputs])[:-1]
        return [np.ascontiguousarray(part) for part in np.split(slope, ends, self.axis)]

    def extent(self, axis: int, extents: Sequence[Extent]) -> Extent | None:
        """See ``Operator``."""
        return common(extents) if axis + 2 != self.axis else None


@dataclass(frozen=True)
class Repeated:
    """Every position repeated so many times along every spatial axis (Resize to the nearest by whole numbers)."""

    times: tuple[int, ...]

    def forward(self, *inputs: Array) -> tuple[Array, Any]:
        """See ``Operator``."""
        y = inputs[0]
        for axis, times in enumerate(self.times, 2):
            y = np.repeat(y, times, axis) if times > 1 else y
        return y, None

    def backward(
        self, slope: Array, inputs: Sequence[Array], output: Array, kept: Any, wanted: Sequence[bool]
    ) -> Sequence[Array | None]:
        """See ``Operator``."""
        shape = inputs[0].shape
        sides = [side for pair in zip(shape[2:], self.times, strict=True) for side in pair]
        axes = tuple(range(3, 2 + len(sides), 2))
        return (slope.reshape(*shape[:2], *sides).sum(axis=axes),)

    def extent(self, axis: int, extents: Sequence[Extent]) -> Extent | None:
        """See ``Operator``."""
        (read,) = extents
        return Extent(np.repeat(read.known, self.times[axis]), read.first, read.last)


@dataclass(frozen=True)
class Section:
    """The elements from ``start`` to ``stop`` along an axis that counts no samples, each ``step``-th (Slice, Split)."""

    axis: int
    start: int
    stop: int
    step: int = 1

    def forward(self, *inputs: Array) -> tuple[Array, Any]:
        """See ``Operator``."""
        return np.ascontiguousarray(inputs[0][self._index]), None

    def backward(
        self, slope: Array, inputs: Sequence[Array], output: Array, kept: Any, wanted: Sequence[bool]
    ) -> Sequence[Array | None]:
        """See ``Operator``."""
        slopes = np.zeros_like(inputs[0])
        slopes[self._index] = slope
        return (slopes,)

    def extent(self, axis: int, extents: Sequence[Extent]) -> Extent | None:
        """See ``Operator``."""
        return extents[0] if axis + 2 != self.axis else None

    @property
    def _index(self) -> tuple[slice, ...]:
        return (*(slice(None),) * self.axis, slice(self.start, self.stop, self.step))


@dataclass(frozen=True)
class Reshaped:
    """The elements of every sample in another shape, and none moves from one sample to another (Flatten, Reshape).

    Attributes
    ----------
    shape
        The shape of one sample; one length may be −1 and follows from the others.
    """

    shape: tuple[int, ...]

    def forward(self, *inputs: Array) -> tuple[Array, Any]:
        """See ``Operator``."""
        by_sample = inputs[0].swapaxes(0, 1)
        return np.ascontiguousarray(by_sample.reshape(len(by_sample), *self.shape).swapaxes(0, 1)), None

    def backward(
        self, slope: Array, inputs: Sequence[Array], output: Array, kept: Any, wanted: Sequence[bool]
    ) -> Sequence[Array | None]:
        """See ``Operator``."""
        shape = inputs[0].swapaxes(0, 1).shape
        return (np.ascontiguousarray(slope.swapaxes(0, 1).reshape(shape).swapaxes(0, 1)),)

    def extent(self, axis: int, extents: Sequence[Extent]) -> Extent | None:
        """See ``Operator``."""
        return None


@dataclass(frozen=True)
class Transposed:
    """The axes of a tensor in another order, with the samples where they were."""

    axes: tuple[int, ...]

    def forward(self, *inputs: Array) -> tuple[Array, Any]:
        """See ``Operator``."""
        return np.ascontiguousarray(inputs[0].transpose(self.axes)), None

    def backward(
        self, slope: Array, inputs: Sequence[Array], output: Array, kept: Any, wanted: Sequence[bool]
    ) -> Sequence[Array | None]:
        """See ``Operator``."""
        return (np.ascontiguousarray(slope.transpose(np.argsort(self.axes))),)

    def extent(self, axis: int, extents: Sequence[Extent]) -> Extent | None:
        """See ``Operator``."""
        return None


@dataclass(frozen=True)
class Padded:
    """Zeros in front of and behind a map, so many along every spatial axis (Pad)."""

    before: tuple[int, ...]
    after: tuple[int, ...]

    def forward(self, *inputs: Array) -> tuple[Array, Any]:
        """See ``Operator``."""
        return np.pad(inputs[0], ((0, 0), (0, 0), *zip(self.before, self.after, strict=True))), None

    def backward(
        self, slope: Array, inputs: Sequence[Array], output: Array, kept: Any, wanted: Sequence[bool]
    ) -> Sequence[Array | None]:
        """See ``Operator``."""
        ends = (start + length for start, length in zip(self.before, inputs[0].shape[2:], strict=True))
        inside = tuple(map(slice, self.before, ends))
        return (np.ascontiguousarray(slope[:, :, *inside]),)

    def extent(self, axis: int, extents: Sequence[Extent]) -> Extent | None:
        """See ``Operator``; zeros inside a map are not what is there."""
        (read,) = extents
        sides = np.full(self.before[axis], read.first), read.known, np.full(self.after[axis], read.last)
        return Extent(np.concatenate(sides), read.first, read.last)
