"""Adam (Kingma and Ba, ICLR 2015), with steps relative to the size of each array.

With the gradient g of an array, m ← β₁ m + (1 − β₁) g and v ← β₂ v + (1 − β₂) g², the array moves by

    −rate · u · (m / (1 − β₁ᵗ)) / √(v / (1 − β₂ᵗ))

in step t, where its unit u is a number that says how large its entries are.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_lowrank.factorise.chain import Chain

Array = NDArray[Any]

MEAN_MEMORY, SQUARE_MEMORY = 0.9, 0.99
"""β₁ and β₂; a short memory of the squares, since there are only a few hundred steps."""

SMALLEST_UNIT_OF_BIAS = 0.1
"""A bias of nothing but zeros has no size of its own; responses have size 1 in the coordinates of the descent."""


class ArrayAdam:
    """The state of the method: the running means of the gradients and of their squares.

    Parameters
    ----------
    units
        The unit u of every array.
    start
        The arrays, whose shapes matter.
    """

    def __init__(self, units: Sequence[np.float32], start: Sequence[Array]) -> None:
        self._units = units
        self._means = [np.zeros_like(array) for array in start]
        self._squares = [np.zeros_like(array) for array in start]
        self._count = 0

    def step(self, arrays: Sequence[Array], gradients: Sequence[Array], rate: float) -> list[Array]:
        """Return arrays, float32, moved against their gradients, which have the same shapes."""
        self._count += 1
        first, second = 1 - MEAN_MEMORY**self._count, 1 - SQUARE_MEMORY**self._count
        moved = []
        for i, (array, slope) in enumerate(zip(arrays, gradients, strict=True)):
            self._means[i] += np.float32(1 - MEAN_MEMORY) * (slope - self._means[i])
            self._squares[i] += np.float32(1 - SQUARE_MEMORY) * (slope * slope - self._squares[i])
            size = np.sqrt(self._squares[i] / np.float32(second)) + np.float32(1e-12)
            moved.append(array - np.float32(rate / first) * self._units[i] * self._means[i] / size)
        return moved


class Adam:
    """The method for the factors of a chain; the unit of each is the mean absolute entry at the start."""

    def __init__(self, start: Chain) -> None:
        units = [np.float32(np.abs(factor).mean()) for factor in start.factors]
        units[-1] = max(units[-1], np.float32(SMALLEST_UNIT_OF_BIAS))
        self._adam = ArrayAdam(units, start.factors)

    def step(self, chain: Chain, gradient: Chain, rate: float) -> Chain:
        """Return a chain, float32, moved against its gradient, which has the same structure."""
        return chain.with_factors(self._adam.step(chain.factors, gradient.factors, rate))
