"""Means and centred second moments of rows, accumulated over blocks and over sets of rows.

Products are float32 within a block, where they are fast, and float64 across blocks. Rows are shifted by a common
reference before they are multiplied, so that large means do not eat the precision of small variances; sets of rows are
merged by the parallel formula of Chan, Golub and LeVeque (1983).

A fully connected layer has one row per sample, often fewer than it has responses y = W x. The weights complete what the
samples do not show: if the inputs were uncorrelated, the responses' covariance would be a multiple of W Wᵀ. This matrix
therefore counts as a few more samples of their mean size, as in shrinkage estimators of covariances (Ledoit and Wolf,
2004).
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_lowrank.factorise.workers import in_order

Array = NDArray[Any]

BLOCK = 1024
"""The number of rows that are handled together: a few megabytes at 512 channels, about a second-level cache."""

WEIGHTS_WORTH = 20
"""The number of samples as which W Wᵀ counts."""

FLOOR = 1e-3
"""A share of the mean variance that is added to a covariance: directions that no sample showed still count a little."""


def root(covariance: Array) -> Array:
    """Return the lower triangular L of C = L Lᵀ for a covariance C [p, p] with a floor.

    A covariance without variance counts as I. Its trace may be negative, because the squares of very small inputs
    vanish and rounding goes either way.
    """
    variance = np.trace(covariance) / len(covariance)
    return np.linalg.cholesky(covariance + FLOOR * (variance if variance > 0 else 1.0) * np.eye(len(covariance)))


@dataclass(frozen=True)
class Moments:
    """The moments of n rows of regressors X [n, p] and targets Y [n, d].

    Attributes
    ----------
    n
        The number of rows.
    x_mean, y_mean
        x̄ [p] and ȳ [d].
    xx, yx, yy
        (X − x̄)ᵀ(X − x̄) [p, p], (Y − ȳ)ᵀ(X − x̄) [d, p], (Y − ȳ)ᵀ(Y − ȳ) [d, d], float64.
    unseen
        The matrix that ``with_weights`` has added to each of the three; 0.0 where it was not used.
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
        """Compute the moments of float32 rows X [n, p] and Y [n, d]."""
        n, p, d = len(X), X.shape[1], Y.shape[1]
        x_mean, y_mean = X.mean(axis=0, dtype=np.float64), Y.mean(axis=0, dtype=np.float64)
        x_shift, y_shift = x_mean.astype(X.dtype), y_mean.astype(Y.dtype)
        xx, yx, yy = np.zeros((p, p)), np.zeros((d, p)), np.zeros((d, d))

        def products(start: int) -> tuple[Array, Array, Array]:
            x = X[start : start + BLOCK] - x_shift
            y = Y[start : start + BLOCK] - y_shift
            return x.T @ x, y.T @ x, y.T @ y

        for of_x, of_both, of_y in in_order(products, range(0, n, BLOCK), min(n, BLOCK) * (p + d) ** 2 / 2):
            xx += of_x
            yx += of_both
            yy += of_y
        return cls(n, x_mean, y_mean, xx, yx, yy)

    def __add__(self, other: "Moments") -> "Moments":
        """Return the moments of both sets of rows together."""
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
        """Return these moments with those of ``WEIGHTS_WORTH`` more rows whose covariance is a multiple of W Wᵀ [d, d].

        X and Y are both responses of the layer with the weights W.
        """
        extra = gram * (WEIGHTS_WORTH / self.n * np.trace(self.yy) / (np.trace(gram) or 1.0))
        return Moments(self.n, self.x_mean, self.y_mean, self.xx + extra, self.yx + extra, self.yy + extra, extra)


class RowCovariance:
    """The mean and covariance of rows, which come in batches [n, p], float32."""

    def __init__(self) -> None:
        self._n = 0

    def add(self, rows: Array) -> None:
        """Accumulate rows [n, p]."""
        p = rows.shape[1]
        if not self._n:
            # Squares of large means would leave nothing of a small variance in float32. One reference serves all.
            self._shift = rows.mean(axis=0, dtype=np.float64).astype(rows.dtype)
            self._total, self._squares = np.zeros(p), np.zeros((p, p))
        shifted = rows - self._shift
        self._n += len(rows)
        self._total += shifted.sum(axis=0, dtype=np.float64)
        self._squares += shifted.T @ shifted

    @property
    def mean(self) -> Array:
        """The mean of all rows, [p]."""
        return np.asarray(self._shift + self._total / self._n)

    @property
    def covariance(self) -> Array:
        """The covariance of all rows, [p, p]."""
        mean = self._total / self._n
        return np.asarray(self._squares / self._n - np.outer(mean, mean))
