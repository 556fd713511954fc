"""Alternating least squares for the canonical polyadic decomposition of a three-way tensor."""

import math
from typing import Any

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

Array = NDArray[Any]

MOMENTUM, GROWTH, MOST_MOMENTUM = 0.5, 1.1, 2.0
"""How far a sweep goes on in the direction of the last one: at first, by how much more after each that succeeds, and
at most."""


RIDGES = (1e-4, 1e-2, 1.0)
"""Of each least-squares problem, as a share of the mean of its Gram matrix's diagonal; the first that single precision
can factorise. They shrink the change of the factor, not the factor, so they slow down but do not bias."""


def alternate(V: Array, A: Array, B: Array, S: Array, sweeps: int) -> tuple[Array, Array, Array]:
    """Alternating least squares for V [d, c, s] ≈ Σ_j A[:, j] B[:, j] S[:, j]; B and S have columns of length 1.

    Sweeps have momentum: each starts from a point beyond the last one, A + β (A − A₋) and S likewise, where β grows as
    long as the error falls; where it does not, the sweep is forgotten and β starts low again (Mitchell, Ye and De
    Sterck, Numerical Linear Algebra with Applications, 2020). Twelve such sweeps come as far as thirty without.

    A sweep costs two products of V with a factor, d·c·s·r each, and as much as a third one for all the rest; in single
    precision, which the residual of any rank worth looking at exceeds by far. V is scaled, so that no product of
    weights is too large for it.
    """
    d, c, s = V.shape
    largest = float(np.abs(V).max(initial=0))
    if not 0 < largest < np.inf:
        return A, B, S
    scale = 2.0 ** math.frexp(largest)[1]  # a power of two, which rounds nothing
    V, A = (V / scale).astype(np.float32), A / scale
    by_filter = np.ascontiguousarray(V.reshape(d, c * s).T)
    by_channel = np.ascontiguousarray(V.transpose(0, 2, 1)).reshape(d * s, c)
    A, B, S = (np.ascontiguousarray(factor, np.float32) for factor in (A, B, S))
    before, momentum, lowest = (A, S), np.float32(0), np.inf
    for _ in range(sweeps):
        start, start_taps = A + momentum * (A - before[0]), S + momentum * (S - before[1])
        gram_A, gram_S = start.T @ start, start_taps.T @ start_taps
        through = (by_filter @ start).reshape(c, s, -1)
        new_B = _unit(_least_squares(np.einsum("cxj,xj->cj", through, start_taps), gram_A * gram_S, B))
        gram_B = new_B.T @ new_B
        new_S = _unit(_least_squares(np.einsum("cxj,cj->xj", through, new_B), gram_A * gram_B, start_taps))
        others = gram_B * (new_S.T @ new_S)
        through = (by_channel @ new_B).reshape(d, s, -1)
        product = np.einsum("dxj,xj->dj", through, new_S)
        new_A = _least_squares(product, others.copy(), start)
        # ‖V − V̂‖² without ‖V‖², which does not change.
        error = float(np.vdot(new_A.T @ new_A, others) - 2 * np.vdot(new_A, product))
        if error < lowest or not momentum:
            before, (A, B, S), lowest = (A, S), (new_A, new_B, new_S), error
            momentum = np.float32(min(MOST_MOMENTUM, GROWTH * momentum or MOMENTUM))
        else:
            before, momentum = (A, S), np.float32(0)
    return scale * A.astype(np.float64), B.astype(np.float64), S.astype(np.float64)


def _least_squares(product: Array, gram: Array, near: Array) -> Array:
    """The third factor, from the product of the tensor with two, their Gram matrix, and where to look for it.

    The Gram matrix is overwritten.
    """
    diagonal = np.diagonal(gram).copy()
    for ridge in RIDGES:
        weight = np.float32(ridge) * (diagonal.mean() or np.float32(1))
        np.fill_diagonal(gram, diagonal + weight)
        try:
            factor = scipy.linalg.cho_factor(gram, check_finite=False)
        except np.linalg.LinAlgError:
            continue
        return np.asarray(scipy.linalg.cho_solve(factor, (product + weight * near).T, check_finite=False).T)
    return near


def _unit(factor: Array) -> Array:
    length = np.linalg.norm(factor, axis=0)
    return np.asarray(factor / np.where(length > 0, length, 1).astype(np.float32))
