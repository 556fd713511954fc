"""The elimination of channels: which of them a layer misses least, and what is left of its response without the others.

A layer answers T = W h to columns h (p) of its patches, several of which belong to one channel. With G = cov(h) and a
ridge that holds the map near W, the best map B whose columns of the channels in R vanish raises the squared error by

    ΔR = tr(B_R (P_RR)⁻¹ B_Rᵀ),        P = G⁻¹,

over that of the best map with all columns (optimal brain surgeon: Hassibi and Stork, 1993; for layers: Frantar and
Alistarh, Optimal Brain Compression, 2022). Taking the channel with the least Δ again and again is one sweep, which
gives the order of the channels and the error at every width. Each step replaces P and B by those of the channels left,

    P ← P − P_{:,j} (P_jj)⁻¹ P_{j,:},        B ← B − B_j (P_jj)⁻¹ P_{j,:},

and the sweep needs no more of B than M = BᵀB [p, p], which follows in the same way. Several readers of one set of
channels add their Δ, each in units of its own response.

A kernel of many taps has too many columns for this. Its covariance is then taken for a Kronecker product of that of the
channels, S, and that of the taps, R = L Lᵀ: with W̃ = W (I ⊗ L), a channel is one column again and G is S.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

Array = NDArray[Any]

ONE_BY_ONE = 256
"""The number of channels up to which they go one by one. More than these go in shares of about so many."""


@dataclass(frozen=True)
class ReaderMoments:
    """What a layer makes of its columns, as far as the elimination of some of them asks for it.

    Attributes
    ----------
    gram
        G, [p, p], the covariance of the columns, with the ridge.
    response
        WᵀW, [p, p].
    columns
        [c, g], the columns of every channel that may go; all other columns stay.
    scale
        The squared size of the response, in units of which the error of this reader counts.
    """

    gram: Array
    response: Array
    columns: NDArray[np.intp]
    scale: float


@dataclass(frozen=True)
class Sweep:
    """One sweep of the elimination.

    Attributes
    ----------
    order
        [number that went], the channels in the order in which they went.
    errors
        [number that went + 1], the error with none, one, two … of them gone, summed over the readers, each in units of
        its scale.
    """

    order: NDArray[np.intp]
    errors: Array

    def kept(self, count: int, width: int) -> NDArray[np.intp]:
        """Return the channels that stay, in ascending order, where ``width`` of ``count`` do."""
        return np.setdiff1d(np.arange(count), self.order[: count - width])


def sweep(readers: Sequence[ReaderMoments], fewest: int = 1) -> Sweep:
    """Take away the channel that is missed least, again and again.

    Parameters
    ----------
    readers
        All layers that read the channels.
    fewest
        The number of channels that stay in the end.
    """
    count = len(readers[0].columns)
    states = [_Remaining.of(reader, count - fewest) for reader in readers]
    alive = np.ones(count, bool)
    order: list[int] = []
    errors = [0.0]
    share = max(1, count // ONE_BY_ONE)
    while count - len(order) > fewest:
        losses = np.sum([state.losses() for state in states], axis=0)
        losses[~alive] = np.inf
        going = np.argsort(losses, kind="stable")[: min(share, count - len(order) - fewest)]
        rise = sum(state.remove(going) for state in states)
        alive[going] = False
        order += going.tolist()
        errors += [errors[-1] + rise * (i + 1) / len(going) for i in range(len(going))]
    return Sweep(np.array(order, np.intp), np.maximum.accumulate(np.array(errors)))


class _Remaining:
    """P and M of one reader for the columns that are left.

    Both are the matrices with all columns less what every step took away, which is a product of a few rows. The rows
    are kept and applied only where an entry is asked for: the diagonal blocks of all channels, and the rows of those
    that go next. This takes a fraction of the time of changing the whole matrices in every step.
    """

    def __init__(self, inverse: Array, squares: Array, columns: NDArray[np.intp], scale: float, steps: int) -> None:
        self._P, self._M, self._columns, self._scale = inverse, squares, columns, scale
        blocks = columns[:, :, None], columns[:, None, :]
        self._p_blocks, self._m_blocks = inverse[blocks], squares[blocks]  # [c, g, g]
        # P' = P − Σ Uᵀ V and M' = M − Σ (Aᵀ V + Vᵀ A), over the rows of all steps.
        rows = steps * columns.shape[1]
        self._U, self._V, self._A = (np.empty((rows, len(inverse))) for _ in range(3))
        self._filled = 0

    @classmethod
    def of(cls, reader: ReaderMoments, steps: int) -> "_Remaining":
        """Return the state with all channels, of which ``steps`` will go."""
        factor = scipy.linalg.cho_factor(reader.gram, lower=True)
        inverse = scipy.linalg.cho_solve(factor, np.eye(len(reader.gram)))
        return cls(inverse, reader.response, reader.columns, reader.scale, steps)

    def losses(self) -> Array:
        """Return by how much the error rises if one channel goes, [c]; those that are gone have no meaning."""
        if self._columns.shape[1] == 1:
            return np.asarray(self._m_blocks[:, 0, 0] / self._p_blocks[:, 0, 0] / self._scale)
        solved = np.linalg.solve(self._p_blocks, self._m_blocks)
        return np.asarray(np.trace(solved, axis1=1, axis2=2) / self._scale)

    def remove(self, channels: NDArray[np.intp]) -> float:
        """Take channels away together, and return by how much the error rises."""
        gone = self._columns[channels].ravel()
        U, V, A = self._U[: self._filled], self._V[: self._filled], self._A[: self._filled]
        P = self._P[gone] - U[:, gone].T @ V
        M = self._M[gone] - A[:, gone].T @ V - V[:, gone].T @ A
        factor = scipy.linalg.cho_factor(P[:, gone], lower=True)
        across, square = scipy.linalg.cho_solve(factor, P), M[:, gone]
        rise = float(np.trace(scipy.linalg.cho_solve(factor, square)))
        new = slice(self._filled, self._filled + len(gone))
        # M' = (I − K)ᵀ M (I − K) with K = E_j (P_jj)⁻¹ P_j: the square of K is divided among the two mixed terms.
        self._U[new], self._V[new], self._A[new] = P, across, M - 0.5 * square @ across
        u, v, a = (rows[new][:, self._columns] for rows in (self._U, self._V, self._A))  # [q, c, g]
        self._p_blocks -= np.einsum("qci,qcj->cij", u, v)
        mixed = np.einsum("qci,qcj->cij", a, v)
        self._m_blocks -= mixed + mixed.transpose(0, 2, 1)
        self._p_blocks[channels] = np.eye(self._columns.shape[1])  # so that nothing divides by 0
        self._filled += len(gone)
        return rise / self._scale


def best_map(kernel: Array, gram: Array, stays: NDArray[np.intp]) -> Array:
    """Return the map B [d, p] nearest to W h of those whose other columns than ``stays`` are zero.

    Parameters
    ----------
    kernel
        W, [d, p].
    gram
        G, [p, p], with the ridge.
    stays
        The columns that stay, in ascending order.
    """
    B = np.zeros_like(kernel, dtype=np.float64)
    factor = scipy.linalg.cho_factor(gram[np.ix_(stays, stays)], lower=True)
    B[:, stays] = scipy.linalg.cho_solve(factor, gram[stays] @ kernel.T).T
    return B


def lost(kernel: Array, changed: Array, gram: Array) -> float:
    """Return tr((W − B) G (W − B)ᵀ), the squared error of a map B [d, p] in place of W, for G without a ridge."""
    difference = kernel - changed
    return float(np.einsum("dp,dp->", difference @ gram, difference))
