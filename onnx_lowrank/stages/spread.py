"""Σ(ref − mean)² of an output, a mean for every channel, from sums that grow from batch to batch.

A channel is an index on axis 1: of an image, or of a class. An output of fewer axes is a single channel. Batches are
joined by the pairwise formula of Chan, Golub and LeVeque (1983), which does not suffer where a mean is large beside its
spread: with counts m, n and means a, b, the squares of both together are those of each and (a − b)² m n / (m + n).
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


@dataclass(frozen=True)
class Spread:
    """How much the values of every channel vary.

    Attributes
    ----------
    count
        [channels], the number of values.
    mean
        [channels], their mean; 0 where there is none.
    squares
        [channels], Σ(ref − mean)².
    """

    count: Array
    mean: Array
    squares: Array

    @classmethod
    def of(cls, values: Array, counts: NDArray[np.bool_]) -> "Spread":
        """Return the spread of one batch of an output.

        Parameters
        ----------
        values
            [samples, channels, ...], or any array of fewer axes.
        counts
            Which of them count, the same shape.
        """
        others = tuple(axis for axis in range(values.ndim) if axis != 1) if values.ndim > 1 else None
        count = counts.sum(axis=others, keepdims=True)
        kept = np.where(counts, values, 0).astype(np.float64)
        mean = kept.sum(axis=others, keepdims=True) / np.maximum(count, 1)
        squares = np.square(np.where(counts, kept - mean, 0)).sum(axis=others)
        return cls(np.ravel(count), np.ravel(mean), np.ravel(squares))

    def joined(self, other: "Spread") -> "Spread":
        """Return the spread of both; where the number of channels depends on the data, they become a single one."""
        if self.count.shape != other.count.shape:
            return self.as_one_channel().joined(other.as_one_channel())
        count = self.count + other.count
        difference, share = other.mean - self.mean, other.count / np.maximum(count, 1)
        squares = self.squares + other.squares + np.square(difference) * self.count * share
        return Spread(count, self.mean + difference * share, squares)

    def as_one_channel(self) -> "Spread":
        """Return the spread of all channels about their common mean."""
        count = self.count.sum()
        mean = (self.count * self.mean).sum() / max(count, 1)
        squares = (self.squares + self.count * np.square(self.mean - mean)).sum()
        return Spread(np.array([count]), np.array([mean]), np.array([squares]))

    @property
    def total(self) -> float:
        """Σ(ref − mean)² over all channels, or about the common mean where no channel has a second value."""
        spread = self if self.count.max(initial=0) > 1 else self.as_one_channel()
        return float(spread.squares.sum())
