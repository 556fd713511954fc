"""Weights rounded column by column, so that later columns make up for the error of those before them.

The responses of a layer are y = W x. Rounded weights Q change them by (W − Q) x, whose mean square is the trace of
(W − Q) H (W − Q)ᵀ with H the covariance of x; the mean of x is the bias's business. The nearest Q is the best one only
where the entries of x do not depend on one another. Therefore, after a column has been rounded, the columns that are
still free take the values that are best given its error (E. Frantar, S. P. Singh and D. Alistarh, Optimal Brain
Compression, NeurIPS 2022; E. Frantar et al., GPTQ, ICLR 2023). The order is that of falling variance, and errors are
passed on within blocks of columns first, so that most of the work is products of matrices.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import lapack

Array = NDArray[Any]

DAMPING = 0.01
"""The share of the mean variance of all columns that is added to each, so that the covariance can be inverted."""

BLOCK = 128
"""The number of columns within which errors are passed on one by one."""

SHARES = np.linspace(0.6, 1.0, 21)
"""The shares of a filter's largest weight at which its range may end."""

TINY_SHARE = 1e-3
"""The share of the mean variance that counts for columns without any, so that their weights are not forgotten."""

EIGHT_BITS, SEVEN_BITS = 127, 63
"""The largest code of weights. The 8-bit products of x86 processors without VNNI add up two of them in 16 bits, which
only weights of seven bits never overflow."""


@dataclass(frozen=True)
class RoundedWeights:
    """The weights of one group of filters.

    Attributes
    ----------
    codes
        [d, p], whole numbers.
    scales
        [d], by which the codes of each filter are multiplied.
    """

    codes: Array
    scales: Array

    @property
    def values(self) -> Array:
        """The weights, [d, p]."""
        return self.codes * self.scales[:, None]


def filter_scales(weights: Array, variances: Array, most: int, least: Array | None = None) -> Array:
    """Return the scale of every filter [d] whose rounding errors change the responses least.

    Parameters
    ----------
    weights
        [d, p].
    variances
        The variance of every column of the inputs, [p].
    most
        The largest code.
    least
        The smallest scale of every filter, [d], if any.
    """
    mean = float(variances.mean())
    costs = variances + TINY_SHARE * mean if mean > 0 else np.ones_like(variances)
    largest = np.maximum(np.abs(weights).max(axis=1, initial=0.0), 1e-12)
    best, scales = np.full(len(weights), np.inf), largest / most
    for share in SHARES:
        own = largest * share / most
        rounded = np.clip(np.rint(weights / own[:, None]), -most, most) * own[:, None]
        error = np.square(rounded - weights) @ costs
        scales = np.where(error < best, own, scales)
        best = np.minimum(best, error)
    scales = scales if least is None else np.maximum(scales, least)
    # Scales are stored in single precision, so they are rounded before any code is computed with them.
    return np.asarray(scales.astype(np.float32), np.float64)


def round_to_nearest(weights: Array, most: int) -> RoundedWeights:
    """Round every weight for itself; the parameters are those of ``round_weights``."""
    scales = filter_scales(weights, np.ones(weights.shape[1]), most)
    return RoundedWeights(np.clip(np.rint(weights / scales[:, None]), -most, most), scales)


def round_weights(weights: Array, covariance: Array, most: int, least: Array | None = None) -> RoundedWeights:
    """Round weights for inputs of a known covariance.

    Parameters
    ----------
    weights
        [d, p], float64.
    covariance
        Of the inputs, [p, p]; it may be singular.
    most
        The largest code: ``EIGHT_BITS`` or ``SEVEN_BITS``.
    least
        The smallest scale of every filter, [d], if any.
    """
    variances = np.maximum(np.diagonal(covariance), 0.0)
    scales = filter_scales(weights, variances, most, least)
    order = np.argsort(-variances, kind="stable")
    passing = _passing(covariance[np.ix_(order, order)])
    # Filters lie side by side, so that a column of the weights is a row in memory.
    free = np.ascontiguousarray(weights[:, order].T, dtype=np.float64)
    codes = np.empty_like(free)
    for start in range(0, len(free), BLOCK):
        end = min(start + BLOCK, len(free))
        errors = np.empty((end - start, free.shape[1]))
        for column in range(start, end):
            codes[column] = np.clip(np.rint(free[column] / scales), -most, most)
            errors[column - start] = (free[column] - codes[column] * scales) / passing[column, column]
            own = passing[column, column + 1 : end]
            free[column + 1 : end] -= own[:, None] * errors[column - start]
        free[end:] -= passing[start:end, end:].T @ errors
    unordered = np.empty_like(codes)
    unordered[order] = codes
    return RoundedWeights(np.ascontiguousarray(unordered.T), scales)


def _passing(covariance: Array) -> Array:
    """Return U [p, p], upper triangular, with UᵀU the inverse of the damped covariance.

    Row j of it, divided by its diagonal, says by how much the later columns move for the error of column j.
    """
    damped = covariance.astype(np.float64)
    mean = float(np.trace(damped)) / len(damped)
    damped[np.diag_indices_from(damped)] += DAMPING * mean if mean > 0 else 1.0
    # Turned around twice, the factor of Cholesky is upper triangular: damped = R Rᵀ, so U = R⁻¹.
    factor = np.linalg.cholesky(damped[::-1, ::-1])[::-1, ::-1]
    inverse, failed = lapack.dtrtri(factor, lower=0)
    assert failed == 0  # the diagonal of such a factor is positive
    return np.asarray(np.triu(inverse))
