"""Σ(ref − mean)² of an output, with the means that leave least of it, from sums that grow from batch to batch.

Offsets live on the channels, and where these are depends on the output: on axis 1 of an image [N, C, H, W], on the last
axis of [N, H, W, C]; boxes [N, anchors, 4] have an offset for every anchor and coordinate. So several sets of means are
taken: one mean for every index on axis 1, one for every index on the last axis and, of an output with three axes, one
for every pair of the two. The least of the sums counts, so that none of these offsets flatters an error. A pair may
have few values, n, about whose own mean they vary less than about the true one; its sum therefore counts n / (n − 1)
times. (In an image the pairs would be columns, and those at its edges differ from the others without saying anything.)
An output [N, C] has one such axis, and one of fewer axes is a single channel.

Batches are joined by the pairwise formula of Chan, Golub and LeVeque (1983), which does not suffer where a mean is
large beside its spread: with counts m, n and means a, b, the squares of both together are those of each and
(a − b)² m n / (m + n).
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


@dataclass(frozen=True)
class Spread:
    """How much the values vary for every pair of an index on axis 1 and one on the last axis.

    Attributes
    ----------
    count
        [indices on axis 1, indices on the last axis], the number of values.
    mean
        The same shape, their mean; 0 where there is none.
    squares
        The same shape, Σ(ref − mean)².
    places
        Whether the pairs are all that there is in a sample, as in an output with three axes.
    """

    count: Array
    mean: Array
    squares: Array
    places: bool = False

    @classmethod
    def of(cls, values: Array, counts: NDArray[np.bool_]) -> "Spread":
        """Return the spread of one batch of an output.

        Parameters
        ----------
        values
            [samples, ...], or any array of fewer axes.
        counts
            Which of them count, the same shape.
        """
        first = values.shape[1] if values.ndim > 1 else 1
        last = values.shape[-1] if values.ndim > 2 else 1
        samples = len(values) if values.ndim > 1 else values.size
        between = values.size // max(1, samples * first * last)
        values, counts = (array.reshape(samples, first, between, last) for array in (values, counts))
        count = counts.sum(axis=(0, 2), keepdims=True)
        kept = np.where(counts, values, 0).astype(np.float64)
        mean = kept.sum(axis=(0, 2), keepdims=True) / np.maximum(count, 1)
        squares = np.square(np.where(counts, kept - mean, 0)).sum(axis=(0, 2))
        places = between == 1 and last > 1
        return cls(count.reshape(first, last), mean.reshape(first, last), squares, places)

    def joined(self, other: "Spread") -> "Spread":
        """Return the spread of both.

        Where the number of indices on axis 1 depends on the data, as that of boxes, they become a single one, and where
        that on the last axis does, all values become a single channel.
        """
        if self.count.shape[1] != other.count.shape[1]:
            return self.merged(0, 1).joined(other.merged(0, 1))
        if self.count.shape[0] != other.count.shape[0]:
            return self.merged(0).joined(other.merged(0))
        count = self.count + other.count
        difference, share = other.mean - self.mean, other.count / np.maximum(count, 1)
        squares = self.squares + other.squares + np.square(difference) * self.count * share
        return Spread(count, self.mean + difference * share, squares, self.places and other.places)

    def merged(self, *axes: int) -> "Spread":
        """Return the spread about the common means of all indices on some of the axes."""
        count = self.count.sum(axis=axes, keepdims=True)
        mean = (self.count * self.mean).sum(axis=axes, keepdims=True) / np.maximum(count, 1)
        squares = (self.squares + self.count * np.square(self.mean - mean)).sum(axis=axes, keepdims=True)
        return Spread(count, mean, squares)

    @property
    def total(self) -> float:
        """The least Σ(ref − mean)²; about the mean of all values where no channel has a second one."""
        sums = [spread.squares.sum() for spread in (self.merged(1), self.merged(0)) if spread.count.max(initial=0) > 1]
        if self.places and self.count.size and self.count.min() > 1:
            sums.append((self.squares * self.count / (self.count - 1)).sum())
        return float(min(sums) if sums else self.merged(0, 1).squares.sum())
