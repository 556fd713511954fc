"""The numbers that 8 bits can hold, and the range of them that suits some values best.

A grid holds scale · (q − zero point) for whole numbers q between a lowest and a highest one. Values beyond its ends are
clipped. The widest grid clips nothing and has the coarsest steps; the best one in squared error gives up a few large
values for finer steps everywhere else.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

SHARES = np.linspace(0.3, 1.0, 29)
"""The shares of the whole range that are tried."""

MOST_VALUES = 200_000
"""About this many values are looked at, at most; they are spread evenly over all of them."""

TINY = 1e-12
"""The smallest scale; a tensor of zeros has this one."""


@dataclass(frozen=True)
class Codes:
    """The whole numbers that a tensor of activations is stored in.

    Attributes
    ----------
    low, high
        The lowest and the highest of them.
    symmetric
        Whether zero is stored as 0, so that positive and negative values have the same range.
    """

    low: int
    high: int
    symmetric: bool


UNSIGNED = Codes(0, 255, symmetric=False)
"""The codes for which processors with 8-bit products have their fastest instructions (u8 · s8)."""

SIGNED = Codes(-128, 127, symmetric=True)
"""The codes that TensorRT asks for."""


@dataclass(frozen=True)
class Grid:
    """The values that a tensor of activations can have.

    Attributes
    ----------
    scale
        The distance between two neighbours; positive.
    zero_point
        The code of zero, which is always a value of the grid.
    codes
        The whole numbers in which the values are stored.
    """

    scale: float
    zero_point: int
    codes: Codes

    def rounded(self, values: Array) -> Array:
        """Return the nearest values of the grid."""
        codes = np.clip(np.rint(values / self.scale) + self.zero_point, self.codes.low, self.codes.high)
        return np.asarray((codes - self.zero_point) * self.scale)

    def error(self, values: Array) -> float:
        """Return the mean squared distance of some values to the grid."""
        return float(np.square(self.rounded(values) - values).mean()) if values.size else 0.0

    @property
    def ends(self) -> tuple[float, float]:
        """The lowest and the highest value."""
        low, high = self.codes.low - self.zero_point, self.codes.high - self.zero_point
        return low * self.scale, high * self.scale


def spanning(low: float, high: float, codes: Codes) -> Grid:
    """Return the grid that reaches from ``low`` to ``high``, and to zero in any case."""
    low, high = min(low, 0.0), max(high, 0.0)
    if codes.symmetric:
        scale = max(max(-low, high) / codes.high, TINY)
        return Grid(float(np.float32(scale)), 0, codes)
    scale = max((high - low) / (codes.high - codes.low), TINY)
    zero_point = int(np.clip(round(codes.low - low / scale), codes.low, codes.high))
    return Grid(float(np.float32(scale)), zero_point, codes)


def best_grid(values: Array, low: float, high: float, codes: Codes) -> Grid:
    """Return the grid that is nearest to some values in squared error.

    Parameters
    ----------
    values
        A sample of the values, of any shape. Those of samples that nothing was fitted to judge best.
    low, high
        The ends of the range of all values.
    codes
        The whole numbers in which they are stored.
    """
    sample = values.reshape(-1)
    sample = sample[:: max(1, sample.size // MOST_VALUES)].astype(np.float32)

    def error(ends: tuple[float, float]) -> float:
        return spanning(*ends, codes).error(sample)

    best = min(((low * share, high * share) for share in SHARES), key=error)
    if not codes.symmetric and low < 0.0 < high:  # the two ends may have tails of different lengths
        ends = [(best[0], high * share) for share in SHARES] + [(low * share, best[1]) for share in SHARES]
        best = min([best, *ends], key=error)
    return spanning(*best, codes)
