"""The refit of a fully connected layer, at full rank, to what the layers before it now deliver.

Targets y (d) are the original network's responses of the layer, regressors x (p) what it reads in the factorised
network, W (d×p) and b its weights there. The error of the factorised layers is systematic, so a change of the weights
undoes part of it. With the residuals r = y − Wx − b of n samples, X (n×p) and R (n×d) centred over them,

    ΔW = argmin ‖R − X ΔWᵀ‖² + τ ‖ΔW‖²,    Δb = r̄ − ΔW x̄,    τ = ridge · trace(XᵀX)/p.

The ridge shrinks towards the present weights; where it is infinite, only the bias changes. Without a bias to change,
nothing is centred and Δb = 0. One eigendecomposition, of the smaller of two matrices, serves all ridges:

    primal, p ≤ n    XᵀX = QΛQᵀ,    ΔWᵀ = Q (Λ + τI)⁻¹ QᵀXᵀR
    dual,   p > n    XXᵀ = QΛQᵀ,    ΔWᵀ = Xᵀ Q (Λ + τI)⁻¹ QᵀR

The ridge is chosen by the judges, samples that take no part in the solution, by their Σ(y − ŷ)². Where none of them
gains more than the rounding of new weights may cost, the layer stays; else it is solved again on all samples.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

RIDGES = (np.inf, 1000.0, 300.0, 100.0, 30.0, 10.0, 3.0, 1.0, 0.3, 0.1, 0.03, 0.01)
"""Strengths of the shrinkage, in units of the regressors' mean variance."""

BLOCK_BYTES = 1 << 26
"""The bytes of a block in double precision: the weights of a large layer would take gigabytes at once."""


@dataclass(frozen=True)
class Refit:
    """The layer after the fit.

    Attributes
    ----------
    weight, bias
        [d, p] and [d]; None where the layer keeps its own.
    ridge
        The ridge that won; infinite where the bias alone changes, None where nothing does.
    error_before, error_after
        Σ(y − ŷ)² / Σ y² over the judging samples, for the layer as it was and for the winner, solved without them.
    """

    weight: Array | None
    bias: Array | None
    ridge: float | None
    error_before: float
    error_after: float


def refit(X: Array, Y: Array, judges: NDArray[np.bool_], weight: Array, bias: Array, *, intercept: bool) -> Refit:
    """Fit a layer again.

    Parameters
    ----------
    X, Y
        [n, p] and [n, d], finite: the regressors and the targets.
    judges
        [n]: whether a sample judges. Where all or none do, the layer stays.
    weight, bias
        W [d, p] and b [d]. New weights have the precision of the old ones, or single precision where that is higher.
    intercept
        Whether the bias may be changed.
    """
    R = Y - bias
    for part in _blocks(len(weight), weight.shape[1]):
        R[:, part] -= X @ weight[part].astype(np.float64).T
    scale = float(np.square(Y[judges], dtype=np.float64).sum()) or 1.0
    before = float(np.square(R[judges]).sum()) / scale
    unchanged = Refit(None, None, None, before, before)
    if judges.all() or not judges.any():
        return unchanged
    without_judges = Ridge(X[~judges], R[~judges], intercept=intercept)
    projected = without_judges.projected(X[judges])

    def error(ridge: float) -> float:
        return float(np.square(R[judges] - without_judges.correction(projected, ridge)).sum()) / scale

    errors = {ridge: error(ridge) for ridge in RIDGES}
    best = min(errors, key=lambda ridge: errors[ridge])
    if not errors[best] + _rounding(X[judges], weight) / scale < before:
        return unchanged
    solved = Ridge(X, R, intercept=intercept)
    new_weight = None if np.isinf(best) else solved.added_to(weight, best)
    new_bias = bias + solved.offset(best) if intercept else None
    return Refit(new_weight, new_bias, best, before, errors[best])


def _rounding(X: Array, weight: Array) -> float:
    """Return what rounding the weights adds to Σ(y − ŷ)² over the rows X, if their last digits are random."""
    # Not numpy.finfo, which does not know the types that NumPy itself does not have.
    one = np.ones((), weight.dtype)
    eps = float(one)
    while one + np.asarray(eps / 2, weight.dtype) != one:
        eps /= 2
    sizes = np.zeros(weight.shape[1])
    for part in _blocks(len(weight), weight.shape[1]):
        sizes += np.square(weight[part].astype(np.float64)).sum(axis=0)
    return eps**2 / 12 * float(np.square(X, dtype=np.float64).sum(axis=0) @ sizes)


def _blocks(count: int, width: int) -> Iterator[slice]:
    """Divide ``count`` rows or columns of ``width`` numbers each into blocks of ``BLOCK_BYTES``."""
    step = max(1, BLOCK_BYTES // (8 * max(1, width)))
    return (slice(start, min(start + step, count)) for start in range(0, count, step))


class Ridge:
    """The regression of residuals on regressors for every ridge.

    Parameters
    ----------
    X, R
        [n, p] and [n, d].
    intercept
        Whether both are centred and Δb is solved for.
    dual
        Whether XXᵀ is decomposed and not XᵀX; None for the smaller one.
    """

    def __init__(self, X: Array, R: Array, *, intercept: bool, dual: bool | None = None) -> None:
        n, p = X.shape
        self._X, self._dual = X, n < p if dual is None else dual
        self._mean = X.mean(axis=0, dtype=np.float64) if intercept else np.zeros(p)
        self._shift = R.mean(axis=0, dtype=np.float64) if intercept else np.zeros(R.shape[1])
        centred = R - self._shift
        if self._dual:
            values, self._Q = np.linalg.eigh(self._products(X))
            self._projected = self._Q.T @ centred
        else:
            Xc = X - self._mean
            values, self._Q = np.linalg.eigh(Xc.T @ Xc)
            self._projected = self._Q.T @ (Xc.T @ centred)
        self._values = values.clip(min=0)
        self._mean_variance = float(values.sum()) / p

    def _products(self, rows: Array) -> Array:
        """Return the scalar products [m, n] of rows [m, p], centred, with those of X."""
        total = np.zeros((len(rows), len(self._X)))
        for part in _blocks(self._X.shape[1], len(self._X) + len(rows)):
            total += (rows[:, part] - self._mean[part]) @ (self._X[:, part] - self._mean[part]).T
        return total

    def _coefficients(self, ridge: float) -> Array:
        """Return (Λ + τI)⁻¹ QᵀR or (Λ + τI)⁻¹ QᵀXᵀR, [n or p, d]."""
        # Constant regressors have no variance; any positive number then keeps the division regular.
        tau = ridge * self._mean_variance or 1.0
        coefficients: Array = self._projected / (self._values + tau)[:, None]
        return coefficients

    def projected(self, rows: Array) -> Array:
        """Project rows [m, p] on Q for ``correction``; one projection [m, n or p] serves all ridges."""
        return np.asarray((self._products(rows) if self._dual else rows - self._mean) @ self._Q)

    def correction(self, projected: Array, ridge: float) -> Array:
        """Return ΔW x + Δb, [m, d], for projected rows."""
        if np.isinf(ridge):
            return np.broadcast_to(self._shift, (len(projected), len(self._shift)))
        return np.asarray(projected @ self._coefficients(ridge) + self._shift)

    def offset(self, ridge: float) -> Array:
        """Return Δb, [d]."""
        return np.asarray(self.correction(self.projected(np.zeros((1, len(self._mean)))), ridge)[0])

    def added_to(self, weight: Array, ridge: float) -> Array:
        """Return W + ΔW, [d, p]."""
        coefficients = self._Q @ self._coefficients(ridge)
        changed = np.empty(weight.shape, np.result_type(weight.dtype, np.float32))
        for part in _blocks(weight.shape[1], len(weight) + len(self._X)):
            difference = coefficients.T @ (self._X[:, part] - self._mean[part]) if self._dual else coefficients[part].T
            changed[:, part] = weight[:, part].astype(np.float64) + difference
        return changed
