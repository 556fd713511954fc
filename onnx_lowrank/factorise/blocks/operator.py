"""The operators of a block: each computes its output, and carries the slope of a loss from there to what it reads.

All tensors have their channels first: axis 0 counts the channels, axis 1 the samples, and the others are spatial. So a
1×1 convolution of all samples is one product of matrices, and what belongs to a channel lies together.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


@dataclass(frozen=True)
class Extent:
    """How much of a tensor, along one spatial axis, is the same in a window of a map as in the whole map.

    Attributes
    ----------
    known
        Whether each position has the value that it has in the whole map, [length].
    first, last
        Whether the window begins, and ends, where the map does.
    """

    known: NDArray[np.bool_]
    first: bool
    last: bool


class Operator(Protocol):
    """An operator with one output."""

    def forward(self, *inputs: Array) -> tuple[Array, Any]:
        """Return the output, and what ``backward`` will need besides it."""
        ...

    def backward(
        self, slope: Array, inputs: Sequence[Array], output: Array, kept: Any, wanted: Sequence[bool]
    ) -> Sequence[Array | None]:
        """Return the slope of the loss with respect to every input.

        Parameters
        ----------
        slope
            The slope with respect to the output; it belongs to the callee, which may overwrite it.
        inputs, output, kept
            What ``forward`` was given and has returned.
        wanted
            Whether the slope with respect to each input is wanted; None may take the place of the others.
        """
        ...

    def extent(self, axis: int, extents: Sequence[Extent]) -> Extent | None:
        """Return how much of the output is known along a spatial axis, counted from 0.

        Parameters
        ----------
        axis
            The axis.
        extents
            Those of the inputs that are computed from what the block reads.

        Returns
        -------
        Extent or None
            None where every position depends on the whole map, so that a window says nothing.
        """
        ...


def common(extents: Sequence[Extent]) -> Extent | None:
    """Return what is known where an operator reads the same position of all its inputs."""
    first = extents[0]
    known = first.known
    for other in extents[1:]:
        if len(other.known) != len(known):
            return None
        known = known & other.known
    return Extent(known, first.first, first.last)
