"""Functions of every element alone, and sums and products of tensors."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_lowrank.factorise.blocks.operator import Extent, common

Array = NDArray[Any]


@dataclass(frozen=True)
class Clip:
    """The function that clips to [lower, upper], either of which may be infinite; [0, ∞] is the ReLU."""

    lower: float
    upper: float

    def forward(self, *inputs: Array) -> tuple[Array, Any]:
        """See ``Operator``."""
        return np.clip(inputs[0], self.lower, self.upper), None

    def backward(
        self, slope: Array, inputs: Sequence[Array], output: Array, kept: Any, wanted: Sequence[bool]
    ) -> Sequence[Array | None]:
        """See ``Operator``."""
        if self.lower > -np.inf:
            slope *= output > self.lower
        if self.upper < np.inf:
            slope *= output < self.upper
        return (slope,)

    def extent(self, axis: int, extents: Sequence[Extent]) -> Extent | None:
        """See ``Operator``."""
        return extents[0]


@dataclass(frozen=True)
class Curve:
    """A function given by its values and slopes."""

    at: Callable[[Array], tuple[Array, Array]]

    def forward(self, *inputs: Array) -> tuple[Array, Any]:
        """See ``Operator``; the slopes are kept."""
        values, slopes = self.at(inputs[0])
        return values.astype(inputs[0].dtype, copy=False), slopes

    def backward(
        self, slope: Array, inputs: Sequence[Array], output: Array, kept: Any, wanted: Sequence[bool]
    ) -> Sequence[Array | None]:
        """See ``Operator``."""
        slope *= kept
        return (slope,)

    def extent(self, axis: int, extents: Sequence[Extent]) -> Extent | None:
        """See ``Operator``."""
        return extents[0]


@dataclass(frozen=True)
class Rectifier:
    """The leaky ReLU: z above 0, and below it z times the second input, a number for every channel or for all."""

    def forward(self, *inputs: Array) -> tuple[Array, Any]:
        """See ``Operator``."""
        z, below = inputs
        return np.maximum(z, 0) + below * np.minimum(z, 0), None

    def backward(
        self, slope: Array, inputs: Sequence[Array], output: Array, kept: Any, wanted: Sequence[bool]
    ) -> Sequence[Array | None]:
        """See ``Operator``."""
        z, below = inputs
        of_slopes = folded(slope * np.minimum(z, 0), below.shape) if wanted[1] else None
        slope *= np.where(z > 0, np.ones((), below.dtype), below)
        return slope, of_slopes

    def extent(self, axis: int, extents: Sequence[Extent]) -> Extent | None:
        """See ``Operator``."""
        return extents[0]


@dataclass(frozen=True)
class Sum:
    """The sum of all inputs, each times a sign; inputs of length 1 along an axis are repeated."""

    signs: tuple[float, ...]

    def forward(self, *inputs: Array) -> tuple[Array, Any]:
        """See ``Operator``."""
        total = inputs[0] if self.signs[0] > 0 else -inputs[0]
        for sign, other in zip(self.signs[1:], inputs[1:], strict=True):
            total = total + other if sign > 0 else total - other
        return total, None

    def backward(
        self, slope: Array, inputs: Sequence[Array], output: Array, kept: Any, wanted: Sequence[bool]
    ) -> Sequence[Array | None]:
        """See ``Operator``."""
        slopes = []
        for sign, own, value in zip(self.signs, wanted, inputs, strict=True):
            part = folded(slope if sign > 0 else -slope, value.shape) if own else None
            # What two inputs get must not be one array, since their makers may overwrite it.
            slopes.append(part.copy() if part is slope and sum(wanted) > 1 else part)
        return slopes

    def extent(self, axis: int, extents: Sequence[Extent]) -> Extent | None:
        """See ``Operator``."""
        return common(extents)


@dataclass(frozen=True)
class Product:
    """The product of two inputs; inputs of length 1 along an axis are repeated."""

    def forward(self, *inputs: Array) -> tuple[Array, Any]:
        """See ``Operator``."""
        return inputs[0] * inputs[1], None

    def backward(
        self, slope: Array, inputs: Sequence[Array], output: Array, kept: Any, wanted: Sequence[bool]
    ) -> Sequence[Array | None]:
        """See ``Operator``."""
        pairs = zip(wanted, inputs, reversed(inputs), strict=True)
        return [folded(slope * other, own.shape) if asked else None for asked, own, other in pairs]

    def extent(self, axis: int, extents: Sequence[Extent]) -> Extent | None:
        """See ``Operator``."""
        return common(extents)


def folded(slope: Array, shape: tuple[int, ...]) -> Array:
    """Return the slope with respect to an input of this shape that was repeated along some axes."""
    axes = tuple(axis for axis, length in enumerate(shape) if length != slope.shape[axis])
    return slope.sum(axis=axes, keepdims=True) if axes else slope
