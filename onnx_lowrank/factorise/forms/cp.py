"""The canonical polyadic (CP) form: 1×1 c→r, a depthwise k×l of r channels, and then 1×1 r→d.

The kernel W (d, c, s), its s = k·l taps in a row, becomes a sum of r products (Lebedev et al., ICLR 2015, with both
spatial axes in one factor, as in Phan et al., ECCV 2020):

    W[o, i, x] ≈ Σ_j A[o, j] B[j, i] S[x, j]

What counts is not the kernel's error but the responses'. The covariance of the patches is taken as that of the channels
times that of the taps, C = L Lᵀ and D = M Mᵀ, so that the factors of the whitened kernel V[o, i', x'] =
Σ W[o, i, x] L[i, i'] M[x, x'] are those of the kernel: B L⁻¹ and M⁻ᵀ S. Without data C = D = I.

CP has no closed form. The start is spectral: along the principal channels of V every slice (d×s) has a singular value
decomposition, and the r largest of all components are kept. At c·min(d, s) of them that is exact; below, alternating
least squares (ALS) goes on from there. With fewer filters than channels the two change places.
"""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

from onnx_lowrank.factorise.chain import Chain
from onnx_lowrank.factorise.factors import Factorization, Link
from onnx_lowrank.factorise.moments import root

Array = NDArray[Any]

FEWEST_SWEEPS, MOST_SWEEPS, WORK = 20, 60, 8e10
"""Of alternating least squares: as many as this number of multiply-accumulates allows, within bounds. The regression
and the refinement by descent go on from there."""

MOMENTUM, GROWTH, MOST_MOMENTUM = 0.5, 1.1, 2.0
"""How far a sweep goes on in the direction of the last one: at first, by how much more after each that succeeds, and
at most."""

RIDGES = (1e-4, 1e-2, 1.0)
"""Of each least-squares problem, as a share of the mean of its Gram matrix's diagonal; the first that single precision
can factorise. They shrink the change of the factor, not the factor, so they slow down but do not bias."""

ENOUGH = 1e-10
"""A share of the kernel's energy that need not be looked for."""

GAIN = 6.0
"""Of the energy that r of the m components of the start miss, alternating least squares leaves about the share
exp(−6 r/m). On VGG-16's layers, at a quarter of their MACs, the exponent is 5 to 7 where they are wide, 7 to 12 where
they are narrow and have more sweeps, and 16 in the first one.
"""


class PixelMoments:
    """Covariances of the channels and of the taps of patches, which come in batches [n, c, *sizes]."""

    def __init__(self, *batches: Array) -> None:
        self._n = 0
        self._total: Array | float = 0.0  # [c, s]
        self._channels: Array | float = 0.0  # Σ over patches and taps, [c, c]
        self._taps: Array | float = 0.0  # Σ over patches and channels, [s, s]
        for patches in batches:
            self.add(patches)

    def add(self, patches: Array) -> None:
        """Count in patches [n, c, *sizes], in double precision: squares of large means leave nothing of less."""
        n, c = patches.shape[:2]
        P = patches.reshape(n, c, -1).astype(np.float64)
        by_channel = P.transpose(0, 2, 1).reshape(-1, c)
        by_tap = P.reshape(n * c, -1)
        self._n += n
        self._total += P.sum(axis=0)
        self._channels += by_channel.T @ by_channel
        self._taps += by_tap.T @ by_tap

    @property
    def covariances(self) -> tuple[Array, Array]:
        """Of the channels at one tap, [c, c], and of the taps in units of the mean channel, [s, s]."""
        mean = np.asarray(self._total) / self._n
        c, s = mean.shape
        channels = np.asarray(self._channels) / (self._n * s) - mean @ mean.T / s
        taps = np.asarray(self._taps) / (self._n * c) - mean.T @ mean / c
        return channels, taps / (np.trace(channels) / c or 1.0)


@dataclass(frozen=True)
class Polyadic:
    """The CP factors of one kernel at every rank.

    Attributes
    ----------
    whitened
        V, [d, c, s].
    channels, taps
        L⁻¹ [c, c] and M⁻¹ [s, s].
    sweeps
        Of alternating least squares; 0 takes the spectral start, None as many as are worth their time.
    """

    whitened: Array
    channels: Array
    taps: Array
    sweeps: int | None = None

    @classmethod
    def of(cls, kernel: Array, covariances: tuple[Array, Array] | None) -> "Polyadic":
        """Of a kernel [d, c, *sizes], for the covariances of channels and taps, or for none that matter."""
        d, c = kernel.shape[:2]
        W = kernel.reshape(d, c, -1).astype(np.float64)
        C, D = covariances or (np.eye(c), np.eye(W.shape[2]))
        L, M = root(C), root(D)
        V = (np.tensordot(W, L, axes=(1, 0)).transpose(0, 2, 1) @ M).astype(np.float64)
        inverse = [scipy.linalg.solve_triangular(X, np.eye(len(X)), lower=True) for X in (L, M)]
        return cls(V, inverse[0], inverse[1])

    @cached_property
    def _components(self) -> tuple[Array, Array, Array]:
        """Of every slice: energies [m], descending, their slices' principal directions, and their taps."""
        V = self._along
        principal = np.linalg.eigh(np.tensordot(V, V, axes=((0, 2), (0, 2))))[1][:, ::-1]
        slices = np.tensordot(principal.T, V, axes=(1, 1))  # [c, d, s]
        energies, right = np.linalg.eigh(slices.transpose(0, 2, 1) @ slices)  # [c, s], [c, s, s]
        keep = min(V.shape[0], V.shape[2])
        energies, right = np.maximum(energies[:, ::-1][:, :keep], 0), right[:, :, ::-1][:, :, :keep]
        order = np.argsort(-energies, axis=None, kind="stable")
        which, number = np.unravel_index(order, energies.shape)
        return energies.ravel()[order], principal[:, which], right[which, :, number].T

    @property
    def _along(self) -> Array:
        """V with channels in the middle, or filters where they are fewer."""
        d, c, _ = self.whitened.shape
        return self.whitened if c <= d else self.whitened.transpose(1, 0, 2)

    @property
    def energies(self) -> Array:
        """What every component of the start contributes to the responses, [c·min(d, s)], descending."""
        return self._components[0]

    def factors(self, rank: int) -> tuple[Array, Array, Array]:
        """A [d, r], B [r, c] and S [s, r] of the kernel itself."""
        energies, principal, taps = (part[..., :rank] for part in self._components)
        V = self._along
        products = (principal[:, None, :] * taps).reshape(-1, rank)
        left = V.reshape(len(V), -1) @ products
        missing = 1 - energies.sum() / (self.energies.sum() or 1.0)
        if missing > ENOUGH:
            sweeps = min(max(round(WORK / (3 * V.size * rank)), FEWEST_SWEEPS), MOST_SWEEPS)
            sweeps = sweeps if self.sweeps is None else self.sweeps
            left, principal, taps = alternate(V, left, principal, taps, sweeps)
        A, B = (left, principal) if V is self.whitened else (principal, left)
        return A, (B.T @ self.channels), self.taps.T @ taps


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
        of_A, of_S = start.T @ start, start_taps.T @ start_taps
        through = (by_filter @ start).reshape(c, s, -1)
        new_B = _unit(_least_squares(np.einsum("cxj,xj->cj", through, start_taps), of_A * of_S, B))
        of_B = new_B.T @ new_B
        new_S = _unit(_least_squares(np.einsum("cxj,cj->xj", through, new_B), of_A * of_B, start_taps))
        others = of_B * (new_S.T @ new_S)
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


def taps_of(patches: Array) -> Array:
    """The pixels under every tap of patches [n, c, *sizes], as a view [n, s, c]."""
    n, c = patches.shape[:2]
    return patches.reshape(n, c, -1).transpose(0, 2, 1)


def compose(chain: Chain, sizes: tuple[int, ...]) -> Factorization:
    """The three convolutions that the factors stand for."""
    assert chain.taps is not None
    ones = (1,) * len(sizes)
    everywhere, nowhere = (True,) * len(sizes), (False,) * len(sizes)
    depthwise = chain.taps.T.reshape(-1, 1, *sizes)
    links = (
        Link(chain.first.reshape(*chain.first.shape, *ones), nowhere),
        Link(depthwise, everywhere, depthwise=True),
        Link(chain.rest[0].reshape(*chain.rest[0].shape, *ones), nowhere),
    )
    return Factorization("cp", links, chain.bias)


def kept(energies: Array) -> Array:
    """The shares of the responses' energy that ranks 1.. are expected to keep, [m], rising to 1.

    A layer without any response loses nothing at any rank.
    """
    m, total = len(energies), energies.sum()
    if total <= 0:
        return np.ones(m)
    missing = 1 - np.cumsum(energies) / total
    return np.asarray(np.clip(1 - missing * np.exp(-GAIN * np.arange(1, m + 1) / m), np.finfo(np.float64).tiny, 1.0))
