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
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

from onnx_lowrank.factorise.als import alternate
from onnx_lowrank.factorise.chain import Chain
from onnx_lowrank.factorise.evidence import Evidence
from onnx_lowrank.factorise.factors import Factorization, LinkShape, compose
from onnx_lowrank.factorise.forms.conv_shape import ConvShape
from onnx_lowrank.factorise.forms.form import Form, pixels_of
from onnx_lowrank.factorise.forms.kind import Energies, FormKind
from onnx_lowrank.factorise.moments import root

Array = NDArray[Any]

FEWEST_SWEEPS, MOST_SWEEPS, WORK = 20, 60, 8e10
"""Bounds on the number of ALS sweeps, and the multiply-accumulates that may be spent on them between the bounds. The
regression and the refinement by descent go on from there."""

BRIEF_SWEEPS = 4
"""The number of ALS sweeps of factors that only rehearse."""

NEGLIGIBLE = 1e-10
"""A share of the kernel's energy for which no sweep is worth its time."""

BLOCK = 8
"""The number of channels that a CPU computes at once, at least. A depthwise convolution whose channels do not fill such
blocks leaves the fast layout, and the 1×1 convolutions around it follow (measured on the embedded model: 1.4 against
2.9 times as fast, at the same MACs). The ranks of this form are so high that going by blocks loses nothing."""

GAIN = 6.0
"""ALS leaves about the share exp(−6 r/m) of the energy that r of the m components of the start miss. On VGG-16's
layers, at a quarter of their MACs, the exponent is 5 to 7 where they are wide, 7 to 12 where they are narrow and have
more sweeps, and 16 in the first one."""


class PixelMoments:
    """Covariances of the channels and of the taps of patches, which come in batches [n, c, *sizes]."""

    def __init__(self) -> None:
        self._n = 0
        self._total: Array | float = 0.0  # [c, s]
        self._channels: Array | float = 0.0  # Σ over patches and taps, [c, c]
        self._taps: Array | float = 0.0  # Σ over patches and channels, [s, s]

    def add(self, patches: Array) -> None:
        """Accumulate patches [n, c, *sizes].

        Sums are in double precision: in single precision, squares of large means would leave nothing of the rest.
        """
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
        """C [c, c], the channels' covariance at one tap, and D [s, s], that of the taps relative to a mean channel."""
        mean = np.asarray(self._total) / self._n
        c, s = mean.shape
        channels = np.asarray(self._channels) / (self._n * s) - mean @ mean.T / s
        taps = np.asarray(self._taps) / (self._n * c) - mean.T @ mean / c
        return channels, taps / (np.trace(channels) / c or 1.0)


class _Components(NamedTuple):
    """The components of the spectral start, ordered by energy.

    Attributes
    ----------
    energies
        [m], descending: what each component contributes to the responses.
    directions
        [c, m], the principal channel of each component's slice; principal filters, [d, m], where filters are fewer.
    taps
        [s, m], the right singular vector in the slice.
    """

    energies: Array
    directions: Array
    taps: Array


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
        The number of ALS sweeps; with 0 the factors are those of the spectral start, and with None there are as many
        as ``WORK`` allows.
    """

    whitened: Array
    channels: Array
    taps: Array
    sweeps: int | None = None

    @classmethod
    def moments(cls) -> PixelMoments:
        """Return empty statistics of the channels and taps of patches."""
        return PixelMoments()

    @classmethod
    def of(cls, kernel: Array, moments: PixelMoments | None) -> "Polyadic":
        """Prepare a kernel [d, c, *sizes] for the covariances of channels and taps, or for C = D = I (None)."""
        return cls.weighted_by(kernel, moments.covariances if moments else None)

    def quick(self) -> "Polyadic":
        """Return the spectral start alone, without ALS."""
        return replace(self, sweeps=0)

    def brief(self) -> "Polyadic":
        """Return the factors after ``BRIEF_SWEEPS`` of ALS, whose first sweeps gain most."""
        return replace(self, sweeps=BRIEF_SWEEPS)

    @classmethod
    def weighted_by(cls, kernel: Array, covariances: tuple[Array, Array] | None) -> "Polyadic":
        """Prepare a kernel [d, c, *sizes] for C [c, c] and D [s, s], or for C = D = I (None)."""
        d, c = kernel.shape[:2]
        W = kernel.reshape(d, c, -1).astype(np.float64)
        C, D = covariances or (np.eye(c), np.eye(W.shape[2]))
        L, M = root(C), root(D)
        V = (np.tensordot(W, L, axes=(1, 0)).transpose(0, 2, 1) @ M).astype(np.float64)
        inverse = [scipy.linalg.solve_triangular(X, np.eye(len(X)), lower=True) for X in (L, M)]
        return cls(V, inverse[0], inverse[1])

    @cached_property
    def _components(self) -> _Components:
        """All components of the spectral start."""
        V = self._along
        principal = np.linalg.eigh(np.tensordot(V, V, axes=((0, 2), (0, 2))))[1][:, ::-1]
        slices = np.tensordot(principal.T, V, axes=(1, 1))  # [c, d, s]
        energies, right = np.linalg.eigh(slices.transpose(0, 2, 1) @ slices)  # [c, s], [c, s, s]
        keep = min(V.shape[0], V.shape[2])
        energies, right = np.maximum(energies[:, ::-1][:, :keep], 0), right[:, :, ::-1][:, :, :keep]
        order = np.argsort(-energies, axis=None, kind="stable")
        slice_number, component = np.unravel_index(order, energies.shape)
        taps = right[slice_number, :, component].T
        return _Components(energies.ravel()[order], principal[:, slice_number], taps)

    @property
    def _along(self) -> Array:
        """V with the channels on its middle axis, or with the filters there where they are fewer."""
        d, c, _ = self.whitened.shape
        return self.whitened if c <= d else self.whitened.transpose(1, 0, 2)

    @property
    def energies(self) -> Array:
        """What every component of the start contributes to the responses, [c·min(d, s)], descending."""
        return self._components.energies

    def factors(self, rank: int) -> tuple[Array, Array, Array]:
        """Return A [d, r], B [r, c] and S [s, r] of the kernel itself."""
        energies, directions, taps = (part[..., :rank] for part in self._components)
        V = self._along
        products = (directions[:, None, :] * taps).reshape(-1, rank)
        left = V.reshape(len(V), -1) @ products
        missing = 1 - energies.sum() / (self.energies.sum() or 1.0)
        if missing > NEGLIGIBLE:
            sweeps = min(max(round(WORK / (3 * V.size * rank)), FEWEST_SWEEPS), MOST_SWEEPS)
            sweeps = sweeps if self.sweeps is None else self.sweeps
            left, directions, taps = alternate(V, left, directions, taps, sweeps)
        A, B = (left, directions) if V is self.whitened else (directions, left)
        return A, (B.T @ self.channels), self.taps.T @ taps


class CpForm(FormKind):
    """1×1 c→r, a depthwise k×l, 1×1 r→d."""

    name = "cp"
    summary = "1×1 c→r, depthwise k×k, 1×1 r→d"
    rank_names = ("r",)
    needs = "a kernel larger than a pixel, or than the stride of a ConvTranspose"
    preparation = Polyadic

    def takes(self, shape: ConvShape) -> bool:
        """Tell whether a response sees more than one pixel; if not, the input form of the same rank is never worse."""
        steps = shape.spread or (1,) * len(shape.kernel)
        return any(size > step for size, step in zip(shape.kernel, steps, strict=True))

    def statistics_bytes(self, shape: ConvShape) -> int:
        """Return the bytes of V, of its slices, and of the matrices [s, s] of every slice, for every group."""
        c, d = sorted((shape.channels, shape.filters))
        return 8 * shape.group * c * shape.taps * (2 * d + 2 * shape.taps)

    def rank_step(self, shape: ConvShape, multiple: int) -> int:
        """Return a multiple of ``BLOCK``, unless a layer has so few channels that this would leave it no choice."""
        blocked = min(shape.filters, shape.channels) >= 2 * BLOCK
        return math.lcm(multiple, BLOCK) if blocked else multiple

    def highest_ranks(self, shape: ConvShape) -> tuple[int, ...]:
        """Return the number of components of the spectral start, at which it is exact."""
        d, c = shape.filters, shape.channels
        return (min(d * c, min(d, c) * shape.taps),)

    def macs(self, shape: ConvShape, ranks: Array) -> Array:
        """Return r·(c·pixels + k·l·applications + d·positions): the first 1×1 runs on every pixel of the input."""
        behind = shape.taps * shape.applications + shape.filters * shape.positions
        return np.asarray(ranks[:, 0] * (shape.channels * shape.pixels + behind))

    def log_energies(self, evidence: Evidence) -> Energies:
        """Return the log-share of the responses' energy that ALS is expected to keep (``kept_shares``)."""
        energies = np.sum([polyadic.energies for polyadic in evidence.preparations(Polyadic)], axis=0)
        shares = np.log(kept_shares(energies))
        return lambda ranks: np.asarray(shares[ranks[:, 0] - 1])

    def form(self, kernel: Array, ranks: tuple[int, ...], prepared: Polyadic) -> Form:
        """Return the regression on the r sums of pixels, S ∘ B, at full rank, with A as H₀."""
        links = self.links(kernel.shape, ranks)
        A, B, S = prepared.factors(ranks[0])

        def factorization(chain: Chain) -> Factorization:
            assert chain.taps is not None
            return compose(links, kernel.shape[2:], (chain.first, chain.taps.T, chain.rest[0]), chain.bias)

        return Form(
            inputs=pixels_of,
            first=B,
            prior=A,
            rank=len(kernel),
            chain=lambda solution: Chain(B, (solution.left @ solution.right,), solution.bias, S),
            compose=factorization,
            taps=S,
        )

    def links(self, kernel: tuple[int, ...], ranks: tuple[int, ...]) -> tuple[LinkShape, ...]:
        """Return a link without an axis, a depthwise one that carries all axes, and another without an axis."""
        d, c, *sizes = kernel
        everywhere, nowhere = (True,) * len(sizes), (False,) * len(sizes)
        return (
            LinkShape(ranks[0], c, nowhere),
            LinkShape(ranks[0], 1, everywhere, depthwise=True),
            LinkShape(d, ranks[0], nowhere),
        )


CP = CpForm()


def kept_shares(energies: Array) -> Array:
    """Return the shares of the responses' energy that ranks 1.. are expected to keep, [m], rising to 1.

    A rank r misses a share exp(−``GAIN`` r/m) of what the first r components miss, whose energies [m] are given. A
    layer without any response loses nothing at any rank.
    """
    m, total = len(energies), energies.sum()
    if total <= 0:
        return np.ones(m)
    missing = 1 - np.cumsum(energies) / total
    return np.asarray(np.clip(1 - missing * np.exp(-GAIN * np.arange(1, m + 1) / m), np.finfo(np.float64).tiny, 1.0))
