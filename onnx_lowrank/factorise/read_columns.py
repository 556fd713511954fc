"""The covariance of the columns of patches, as the elimination of channels needs it (see ``elimination``).

Up to ``MOST_COLUMNS`` columns it is the covariance itself. Beyond, it is taken for the Kronecker product of the
covariance S of the channels, averaged over the taps, and that of the taps, R, averaged over the channels and of unit
mean variance. What the solver fits later rests on no such assumption.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_lowrank.factorise.moments import RowCovariance

Array = NDArray[Any]

MOST_COLUMNS = 1_200
"""The number of columns up to which a covariance is held in full: 12 MB, and a sweep takes about half a second."""


@dataclass(frozen=True)
class ReadColumns:
    """A layer whose columns belong to channels.

    Attributes
    ----------
    kernel
        W, [d, p]. Where the covariance is a Kronecker product, d stands for filters and taps together.
    gram, judging
        The covariances of the columns, [p, p], without a ridge, over the samples that solve and over those that judge.
    columns
        [c, g], the columns of every channel of the layer's input.
    mean
        The mean of all c·g columns of a patch, channel by channel.
    root
        L, [g, g], where the covariance is a Kronecker product; else None.
    """

    kernel: Array
    gram: Array
    judging: Array
    columns: NDArray[np.intp]
    mean: Array
    root: Array | None = None

    def weights(self, changed: Array) -> Array:
        """Return a map in place of ``kernel`` as weights [filters, c·g], channel by channel."""
        if self.root is None:
            return changed
        g = len(self.root)
        spread = changed.reshape(-1, g, len(self.gram)).transpose(0, 2, 1)
        return np.asarray(spread @ np.linalg.inv(self.root)).reshape(len(spread), -1)


class ReadMoments:
    """Statistics of the patches that a layer reads, accumulated over batches.

    Parameters
    ----------
    channels, taps
        The numbers c and g of channels and of columns that each of them has.
    """

    def __init__(self, channels: int, taps: int) -> None:
        self._channels, self._taps = channels, taps
        self.full = taps == 1 or channels * taps <= MOST_COLUMNS
        self._solving, self._judging, self._of_taps = RowCovariance(), RowCovariance(), RowCovariance()

    def add(self, patches: Array, *, judging: bool) -> None:
        """Accumulate patches [n, c, *sizes] of samples that judge, or of others."""
        n = len(patches)
        rows: Array = patches.reshape(n, -1)
        if not self.full:
            self._of_taps.add(patches.reshape(-1, self._taps))
            by_tap = patches.reshape(n, self._channels, self._taps).transpose(0, 2, 1)
            rows = np.ascontiguousarray(by_tap).reshape(-1, self._channels)
        (self._judging if judging else self._solving).add(rows)

    def of(self, kernel: Array) -> ReadColumns:
        """Return what is known for the kernel [d, c, *sizes]."""
        c, g = self._channels, self._taps
        covariances = self._solving.covariance, self._judging.covariance
        if self.full:
            columns = np.arange(c * g).reshape(c, g)
            return ReadColumns(kernel.reshape(len(kernel), -1), *covariances, columns, self._solving.mean)
        taps = self._of_taps.covariance
        taps = taps * (g / (np.trace(taps) or 1.0)) + 1e-6 * np.eye(g)
        root = np.linalg.cholesky(taps)
        spread = (kernel.reshape(-1, g) @ root).reshape(len(kernel), c, g).transpose(0, 2, 1).reshape(-1, c)
        return ReadColumns(spread, *covariances, np.arange(c)[:, None], np.repeat(self._solving.mean, g), root)
