"""Alternating least squares (ALS) for the canonical polyadic decomposition of a three-way tensor.

    min over A, B, S   Σ (V[o, i, x] − Σ_j A[o, j] B[i, j] S[x, j])²

Two factors are fixed in turn and the third is solved for. With the Khatri-Rao product ⊙ and the unfolding V_A [d, c·s],
the normal equations of A are A ((BᵀB) ∘ (SᵀS)) = V_A (B ⊙ S), and likewise for B and S.

Sweeps have momentum: each starts from a point beyond the last one, A + β (A − A₋) and S likewise, where β grows as long
as the error falls. Where the error does not fall, the sweep is discarded and β starts low again (Mitchell, Ye and De
Sterck, Numerical Linear Algebra with Applications, 2020). Twelve such sweeps come as far as thirty without momentum.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

from onnx_lowrank.factorise.workers import stop_at_end

Array = NDArray[Any]

MOMENTUM, GROWTH, MOST_MOMENTUM = 0.5, 1.1, 2.0
"""β at first, the factor by which it grows after each sweep that succeeds, and its upper bound."""

RIDGES = (1e-4, 1e-2, 1.0)
"""Ridges of each least-squares problem, as shares of the mean of its Gram matrix's diagonal; the first one with which
single precision can factorise the matrix is taken. They shrink the change of the factor and not the factor itself, so
they slow down but do not bias."""


def alternate(
    V: Array, A: Array, B: Array, S: Array, sweeps: int, ridges: Sequence[float] = RIDGES
) -> tuple[Array, Array, Array]:
    """Improve the factors A [d, r], B [c, r] and S [s, r] of a tensor V [d, c, s].

    A sweep costs two products of V with a factor, d·c·s·r multiply-accumulates each, and about as much as a third one
    for all the rest. It runs in single precision, whose round-off is far below the residual at any rank of interest. V
    is scaled so that no product of weights overflows.

    Parameters
    ----------
    V
        The tensor. Where it is zero or not finite, the factors are returned as they are.
    A, B, S
        The factors to start from.
    sweeps
        The number of sweeps.
    ridges
        See ``RIDGES``. A factor for which no ridge helps stays as it is.

    Returns
    -------
    tuple[Array, Array, Array]
        A, B and S in double precision. The columns of B and S have length 1.
    """
    largest = float(np.abs(V).max(initial=0))
    if not 0 < largest < np.inf:
        return A, B, S
    scale = 2.0 ** math.frexp(largest)[1]  # a power of two, which rounds nothing
    tensor = _Unfolded.of((V / scale).astype(np.float32))
    A, B, S = (np.ascontiguousarray(factor, np.float32) for factor in (A / scale, B, S))
    before, momentum, lowest = (A, S), np.float32(0), np.inf
    for _ in range(sweeps):
        stop_at_end()
        beyond = A + momentum * (A - before[0]), S + momentum * (S - before[1])
        factors, error = tensor.sweep(beyond[0], B, beyond[1], ridges)
        if error < lowest or not momentum:
            before, (A, B, S), lowest = (A, S), factors, error
            momentum = np.float32(min(MOST_MOMENTUM, GROWTH * momentum or MOMENTUM))
        else:
            before, momentum = (A, S), np.float32(0)
    return scale * A.astype(np.float64), B.astype(np.float64), S.astype(np.float64)


@dataclass(frozen=True)
class _Unfolded:
    """A tensor V [d, c, s] in the two orders that products with its factors take.

    Attributes
    ----------
    shape
        (d, c, s).
    by_filter
        [c·s, d].
    by_channel
        [d·s, c].
    """

    shape: tuple[int, int, int]
    by_filter: Array
    by_channel: Array

    @classmethod
    def of(cls, V: Array) -> "_Unfolded":
        """Unfold a tensor [d, c, s]."""
        d, c, s = V.shape
        by_channel = np.ascontiguousarray(V.transpose(0, 2, 1)).reshape(d * s, c)
        return cls((d, c, s), np.ascontiguousarray(V.reshape(d, c * s).T), by_channel)

    def sweep(self, A: Array, B: Array, S: Array, ridges: Sequence[float]) -> tuple[tuple[Array, Array, Array], float]:
        """Solve for B, S and A in turn; return the factors and ‖V − V̂‖² − ‖V‖²."""
        d, c, s = self.shape
        gram_A, gram_S = A.T @ A, S.T @ S
        contracted = (self.by_filter @ A).reshape(c, s, -1)
        B = _unit(_solved(np.einsum("cxj,xj->cj", contracted, S), gram_A * gram_S, B, ridges))
        gram_B = B.T @ B
        S = _unit(_solved(np.einsum("cxj,cj->xj", contracted, B), gram_A * gram_B, S, ridges))
        gram_BS = gram_B * (S.T @ S)
        contracted = (self.by_channel @ B).reshape(d, s, -1)
        product = np.einsum("dxj,xj->dj", contracted, S)
        A = _solved(product, gram_BS.copy(), A, ridges)
        return (A, B, S), float(np.vdot(A.T @ A, gram_BS) - 2 * np.vdot(A, product))


def _solved(product: Array, gram: Array, start: Array, ridges: Sequence[float]) -> Array:
    """Solve the normal equations of one factor.

    Parameters
    ----------
    product
        V_A (B ⊙ S), [d, r], for the factor A.
    gram
        (BᵀB) ∘ (SᵀS), [r, r]; it is overwritten.
    start
        [d, r], the factor towards which the ridge shrinks the solution.
    ridges
        See ``RIDGES``.
    """
    diagonal = np.diagonal(gram).copy()
    for ridge in ridges:
        weight = np.float32(ridge) * (diagonal.mean() or np.float32(1))
        np.fill_diagonal(gram, diagonal + weight)
        try:
            factor = scipy.linalg.cho_factor(gram, check_finite=False)
        except np.linalg.LinAlgError:
            continue
        return np.asarray(scipy.linalg.cho_solve(factor, (product + weight * start).T, check_finite=False).T)
    return start


def _unit(factor: Array) -> Array:
    """Scale the columns of a factor to length 1."""
    length = np.linalg.norm(factor, axis=0)
    return np.asarray(factor / np.where(length > 0, length, 1).astype(np.float32))
