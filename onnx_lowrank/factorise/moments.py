"""Means and centred second moments of rows, added up over blocks and over sets of rows.

Products are float32 within a block, where they are fast, and float64 across blocks. Rows are shifted by a common
reference before they are multiplied, so that large means do not eat the precision of small variances; sets of rows are
merged by the parallel formula of Chan, Golub and LeVeque (1983).

A fully connected layer has one row of every sample, often fewer than it has responses y = W x. What the samples do not
show, W tells: if the inputs were uncorrelated, the responses' covariance would be a multiple of W Wᵀ. So it is counted
in, as in shrinkage estimators of covariances (Ledoit and Wolf, 2004), like some more samples of their mean size.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

BLOCK = 1024
"""Rows that are handled together: a few megabytes at 512 channels, about a processor's second-level cache."""


WEIGHTS_WORTH = 20
"""How many samples W Wᵀ counts as."""


FLOOR = 1e-3
"""Added to a covariance, as a share of its mean variance: directions that no sample showed still count a little."""


def root(covariance: Array) -> Array:
    """L of C = L Lᵀ, lower triangular, for a covariance C with a floor; a covariance of nothing counts as I.

    Of inputs so small that their squares are none, rounding leaves less than nothing.
    """
    variance = np.trace(covariance) / len(covariance)
    return np.linalg.cholesky(covariance + FLOOR * (variance if variance > 0 else 1.0) * np.eye(len(covariance)))


@dataclass(frozen=True)
class Moments:
    """Of n rows of regressors X [n, p] and targets Y [n, d].

    Attributes
    ----------
    n
        The number of rows.
    x_mean, y_mean
        [p], [d].
    xx, yx, yy
        (X − x̄)ᵀ(X − x̄) [p, p], (Y − ȳ)ᵀ(X − x̄) [d, p], (Y − ȳ)ᵀ(Y − ȳ) [d, d], float64.
    unseen
        What ``with_weights`` has added to each of the three.
    """

    n: int
    x_mean: Array
    y_mean: Array
    xx: Array
    yx: Array
    yy: Array
    unseen: Array | float = 0.0

    @classmethod
    def of(cls, X: Array, Y: Array) -> "Moments":
        """The moments of float32 rows X [n, p] and Y [n, d]."""
        n, p, d = len(X), X.shape[1], Y.shape[1]
        x_mean, y_mean = X.mean(axis=0, dtype=np.float64), Y.mean(axis=0, dtype=np.float64)
        x_shift, y_shift = x_mean.astype(X.dtype), y_mean.astype(Y.dtype)
        xx, yx, yy = np.zeros((p, p)), np.zeros((d, p)), np.zeros((d, d))
        for start in range(0, n, BLOCK):
            x = X[start : start + BLOCK] - x_shift
            y = Y[start : start + BLOCK] - y_shift
            xx += x.T @ x
            yx += y.T @ x
            yy += y.T @ y
        return cls(n, x_mean, y_mean, xx, yx, yy)

    def __add__(self, other: "Moments") -> "Moments":
        """The moments of both sets of rows together."""
        n = self.n + other.n
        share = other.n / n
        dx, dy = other.x_mean - self.x_mean, other.y_mean - self.y_mean
        weight = self.n * share
        return Moments(
            n,
            self.x_mean + share * dx,
            self.y_mean + share * dy,
            self.xx + other.xx + weight * np.outer(dx, dx),
            self.yx + other.yx + weight * np.outer(dy, dx),
            self.yy + other.yy + weight * np.outer(dy, dy),
            self.unseen + other.unseen,
        )

    def with_weights(self, gram: Array) -> "Moments":
        """These moments, where X and Y are responses, with those of ``WEIGHTS_WORTH`` rows that W Wᵀ [d, d] implies."""
        extra = gram * (WEIGHTS_WORTH / self.n * np.trace(self.yy) / (np.trace(gram) or 1.0))
        return Moments(self.n, self.x_mean, self.y_mean, self.xx + extra, self.yx + extra, self.yy + extra, extra)
