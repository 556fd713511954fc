"""Adam (Kingma and Ba, ICLR 2015) for the factors of a chain, with steps relative to each factor's size.

With the gradient g of a factor, m ← β₁ m + (1 − β₁) g and v ← β₂ v + (1 − β₂) g², the factor moves by

    −rate · u · (m / (1 − β₁ᵗ)) / √(v / (1 − β₂ᵗ))

in step t, where the unit u is the mean absolute entry of the factor at the start.
"""

import numpy as np

from onnx_lowrank.factorise.chain import Chain

MEAN_MEMORY, SQUARE_MEMORY = 0.9, 0.99
"""β₁ and β₂; a short memory of the squares, since there are only a few hundred steps."""

SMALLEST_UNIT_OF_BIAS = 0.1
"""A bias of nothing but zeros has no size of its own; responses have size 1 in the coordinates of the descent."""


class Adam:
    """The state of the method: the running means of the gradients and of their squares."""

    def __init__(self, start: Chain) -> None:
        self._units = [np.float32(np.abs(factor).mean()) for factor in start.factors]
        self._units[-1] = max(self._units[-1], np.float32(SMALLEST_UNIT_OF_BIAS))
        self._means = [np.zeros_like(factor) for factor in start.factors]
        self._squares = [np.zeros_like(factor) for factor in start.factors]
        self._count = 0

    def step(self, chain: Chain, gradient: Chain, rate: float) -> Chain:
        """Return a chain, float32, moved against its gradient, which has the same structure."""
        self._count += 1
        first, second = 1 - MEAN_MEMORY**self._count, 1 - SQUARE_MEMORY**self._count
        moved = []
        for i, (factor, slope) in enumerate(zip(chain.factors, gradient.factors, strict=True)):
            self._means[i] += np.float32(1 - MEAN_MEMORY) * (slope - self._means[i])
            self._squares[i] += np.float32(1 - SQUARE_MEMORY) * (slope * slope - self._squares[i])
            size = np.sqrt(self._squares[i] / np.float32(second)) + np.float32(1e-12)
            moved.append(factor - np.float32(rate / first) * self._units[i] * self._means[i] / size)
        return chain.with_factors(moved)
