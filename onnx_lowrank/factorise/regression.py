"""Reduced-rank ridge regression, the M-step of the paper (§2.2-2.4, eq. 6 and 10), from second moments.

Regressors x (p), auxiliary responses z (d), a prior map H₀ (d×p), a ridge τ ≥ 0:

    min over B of rank ≤ r, b   Σ ‖z − Bx − b‖² + τ ‖B − H₀‖²

With centred rows Xc, Zc, the Cholesky factor L Lᵀ = XcᵀXc + τI, and the whitened cross moment

    C = (ZcᵀXc + τH₀) L⁻ᵀ                                     (d×p),

the objective is ‖BL − C‖² + const, so B = V VᵀC L⁻¹ with V the r leading left singular vectors of C, b = z̄ − Bx̄.
For H₀ = 0, τ → 0 this is the paper's generalised SVD (they agree to round-off); for z = x it is the PCA of §2.2.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

Array = NDArray[Any]

_BLOCK = 4096


@dataclass(frozen=True)
class LowRankMap:
    """ŷ = left @ (right @ x) + bias.

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
        """Predictions [n, d] for rows [n, p], in the rows' precision."""
        dtype = rows.dtype
        predicted: Array = (rows @ self.right.T.astype(dtype)) @ self.left.T.astype(dtype)
        predicted += self.bias.astype(dtype)
        return predicted


def cross_moment(a: Array, b: Array) -> Array:
    """aᵀb in float64, [p, q], for float32 rows [n, p] and [n, q]: blocks in float32, their sum in float64."""
    total = np.zeros((a.shape[1], b.shape[1]))
    for start in range(0, len(a), _BLOCK):
        total += a[start : start + _BLOCK].T @ b[start : start + _BLOCK]
    return total


def leading_subspace(C: Array, rank: int) -> Array:
    """The ``rank`` leading left singular vectors of C, [d, rank]."""
    d = C.shape[0]
    _, vectors = scipy.linalg.eigh(C @ C.T, subset_by_index=(d - rank, d - 1))
    return np.asarray(vectors[:, ::-1])


class Regression:
    """The regressors' side of the problem, factorised once and used for every z and every iteration.

    Parameters
    ----------
    rows
        Centred regressors Xc, [n, p], float32.
    mean
        x̄, [p].
    gram
        XcᵀXc, [p, p].
    ridge
        τ in units of trace(XcᵀXc)/p.
    prior
        H₀, [d, p].
    """

    def __init__(self, rows: Array, mean: Array, gram: Array, ridge: float, prior: Array) -> None:
        p = len(gram)
        # A layer whose inputs are constant (a dead one) has no trace; any positive number then keeps L regular.
        tau = ridge * np.trace(gram) / p or 1.0
        self._rows, self._mean = rows, mean
        factor = np.linalg.cholesky(gram + tau * np.eye(p))
        self._whitener = scipy.linalg.solve_triangular(factor, np.eye(p), lower=True).T  # L⁻ᵀ
        self._prior = tau * prior

    def whitened(self, cross: Array) -> Array:
        """C, [d, p], from the cross moment ZcᵀXc."""
        return np.asarray((cross + self._prior) @ self._whitener)

    def cross(self, Z: Array) -> Array:
        """ZᵀXc, [d, p]; Xc is centred, so Z need not be."""
        return cross_moment(Z, self._rows)

    def map(self, C: Array, V: Array, z_mean: Array) -> LowRankMap:
        """The solution that a subspace V spans."""
        right = (V.T @ C) @ self._whitener.T
        return LowRankMap(V, right, z_mean - V @ (right @ self._mean))
