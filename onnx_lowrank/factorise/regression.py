"""Reduced-rank ridge regression from second moments, the step of the paper that solves for M (§2.2-2.4, eq. 6, 10).

Regressors x (p), auxiliary responses z (d), a prior map H₀ (d×p), a ridge τ ≥ 0:

    min over B of rank ≤ r, b   Σ ‖z − Bx − b‖² + τ ‖B − H₀‖²

With centred rows Xc, Zc, the Cholesky factor L Lᵀ = XcᵀXc + τI, and the whitened cross moment

    C = (ZcᵀXc + τH₀) L⁻ᵀ                                     (d×p),

the objective is ‖BL − C‖² + const, so B = V VᵀC L⁻¹ with V the r leading left singular vectors of C, b = z̄ − Bx̄.
For H₀ = 0, τ → 0 this is the paper's generalised SVD (they agree to round-off); for z = x it is the PCA of §2.2.
"""

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

from onnx_lowrank.factorise.workers import product

Array = NDArray[Any]

LARGE, SWEEPS = 1024, 8
"""The size above which all eigenvectors of a matrix take too long, and the sweeps that approximate the leading ones."""


@dataclass(frozen=True)
class LowRankMap:
    """The map ŷ = left @ (right @ x) + bias.

    Attributes
    ----------
    left
        [d, r], orthonormal columns.
    right
        [r, p].
    bias
        [d].
    """

    left: Array
    right: Array
    bias: Array

    def __call__(self, rows: Array) -> Array:
        """Return the predictions [n, d], float32, for rows [n, p]."""
        predicted = rows
        for factor in self._factors:
            predicted = product(predicted, factor)
        predicted += self._bias
        return predicted

    @functools.cached_property
    def _factors(self) -> tuple[Array, ...]:
        """The matrices by which rows are multiplied in turn: both factors, or their product where that is cheaper."""
        d, r = self.left.shape
        p = self.right.shape[1]
        factors = (self.right.T, self.left.T) if r * (p + d) < p * d else ((self.left @ self.right).T,)
        return tuple(np.ascontiguousarray(factor, np.float32) for factor in factors)

    @functools.cached_property
    def _bias(self) -> Array:
        """The bias in the precision of the predictions."""
        return self.bias.astype(np.float32)

    def shifted(self, reference: Array) -> "LowRankMap":
        """Return the map of rows x that equals this map of x − reference [p]."""
        return LowRankMap(self.left, self.right, self.bias - self.left @ (self.right @ reference))


def leading_subspace(S: Array, rank: int, large: int = LARGE) -> Array:
    """Return the ``rank`` leading eigenvectors of a positive semidefinite S [d, d] as columns [d, rank].

    Where d exceeds ``large`` and few are wanted, randomised subspace iteration approximates them (Halko, Martinsson and
    Tropp, SIAM Review 2011). It may confuse a direction with another one of nearly the same eigenvalue.
    """
    d = len(S)
    if rank == d:
        return np.eye(rank)
    wider = rank + rank // 10 + 10
    if d > large and 2 * wider < d:
        V = np.random.default_rng(0).standard_normal((d, wider))
        for _ in range(SWEEPS):
            V = np.linalg.qr(S @ V)[0]
        return np.asarray(V @ leading_subspace(V.T @ S @ V, rank, large))
    # Divide and conquer for all of them is faster than any driver for some of them (measured: half the time at 512).
    return np.ascontiguousarray(np.linalg.eigh(S)[1][:, ::-1][:, :rank])


class Regression:
    """The part of the problem that depends on the regressors alone, factorised once for all z and all iterations.

    Parameters
    ----------
    mean
        x̄, [p].
    gram
        XcᵀXc, [p, p].
    ridge
        τ in units of trace(XcᵀXc)/p.
    prior
        H₀, [d, p].
    """

    def __init__(self, mean: Array, gram: Array, ridge: float, prior: Array) -> None:
        p = len(gram)
        # A layer whose inputs are constant (a dead one) has no trace; any positive number then keeps L regular.
        tau = ridge * np.trace(gram) / p or 1.0
        self._mean = mean
        factor = np.linalg.cholesky(gram + tau * np.eye(p))
        self._whitener = scipy.linalg.solve_triangular(factor, np.eye(p), lower=True).T  # L⁻ᵀ
        self._prior = tau * prior

    def whitened(self, cross: Array) -> Array:
        """Return C, [d, p], for the cross moment ZcᵀXc [d, p]."""
        return product(cross + self._prior, self._whitener)

    def right(self, C: Array, V: Array) -> Array:
        """Return VᵀC L⁻¹, [r, p], for a subspace V [d, r]."""
        return product(V.T @ C, self._whitener.T)

    def map(self, C: Array, V: Array, z_mean: Array) -> LowRankMap:
        """Return the solution in the subspace V [d, r], with b = z̄ − Bx̄ for z̄ [d]."""
        right = self.right(C, V)
        return LowRankMap(V, right, z_mean - V @ (right @ self._mean))
