"""The input form of a transposed convolution: 1×1 c→c' and then the transposed k×l c'→d.

The channel form reduces the channels behind the kernel, where a transposed convolution has the most pixels. This form
reduces them in front of it. Write the kernel W (d, c, s), its s = k·l taps in a row, as a matrix A (s·d, c) of what it
does to one pixel. With the covariance S of the pixels under the taps (c×c), S = L Lᵀ, a factorisation A ≈ H V is found
as for the spatial form, with single pixels in the place of columns:

    min ‖(A − H V) L‖²,     A L = U Σ Qᵀ,     V = Q_{c'}ᵀ L⁻¹,     H = U_{c'} Σ_{c'}

Where a kernel is as large as its stride, an output pixel sees one input pixel, and this is the best form of rank c' for
the responses, but for their mean. Elsewhere the pixels under the taps are taken as independent. With V fixed, H is
found by regression on V of every pixel.

Other convolutions do not take this form: the channel form saves as much there.
"""

from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from onnx_lowrank.factorise.chain import Chain
from onnx_lowrank.factorise.energy import log_shares
from onnx_lowrank.factorise.evidence import Evidence
from onnx_lowrank.factorise.factors import Factorization, LinkShape, compose
from onnx_lowrank.factorise.forms.conv_shape import ConvShape
from onnx_lowrank.factorise.forms.form import Form, pixels_of
from onnx_lowrank.factorise.forms.kind import Energies, FormKind
from onnx_lowrank.factorise.forms.spatial import FACTORS, ColumnMoments, Columns

Array = NDArray[Any]


def in_a_row(array: Array) -> Array:
    """View kernels or patches [n, c, *sizes] as [n, c, 1, s]: every pixel is a column of its own."""
    return array.reshape(*array.shape[:2], 1, -1)


class PixelMoments(ColumnMoments):
    """The covariance S of the pixels of patches, which come in batches [n, c, *sizes]."""

    def add(self, patches: Array) -> None:
        """Accumulate patches [n, c, *sizes], float32."""
        super().add(in_a_row(patches))


class Pixels(Columns):
    """The cut A ≈ H V of one kernel at every rank."""

    @classmethod
    def moments(cls) -> PixelMoments:
        """Return empty statistics of the pixels of patches."""
        return PixelMoments()

    @classmethod
    def of(cls, kernel: Array, moments: ColumnMoments | None) -> Self:
        """Cut a kernel [d, c, *sizes] for the covariance S of the pixels that it sees, or for S = I (None)."""
        return super().of(in_a_row(kernel), moments)


class InputForm(FormKind):
    """1×1 c→c', transposed k×k c'→d."""

    name = "input"
    summary = "1×1 c→c', transposed k×k c'→d"
    rank_names = ("c'",)
    needs = "a ConvTranspose"
    preparation = Pixels

    def takes(self, shape: ConvShape) -> bool:
        """Tell whether the convolution is transposed."""
        return shape.transposed

    def statistics_bytes(self, shape: ConvShape) -> int:
        """Return the bytes of A L, and of ``FACTORS`` matrices [c, c], for every group."""
        d, c = shape.filters, shape.channels
        return 8 * shape.group * (d * shape.taps * c + FACTORS * c**2)

    def highest_ranks(self, shape: ConvShape) -> tuple[int, ...]:
        """Return min(c, s·d), the highest rank of A."""
        return (min(shape.channels, shape.taps * shape.filters),)

    def macs(self, shape: ConvShape, ranks: Array) -> Array:
        """Return c'·(c·pixels + k·l·d·applications)."""
        behind = shape.taps * shape.filters * shape.applications
        return np.asarray(ranks[:, 0] * (shape.channels * shape.pixels + behind))

    def log_energies(self, evidence: Evidence) -> Energies:
        """Return the log-share of the responses' energy that the first c' combinations of channels contribute."""
        shares = log_shares(np.sum([cut.energies for cut in evidence.preparations(Pixels)], axis=0))
        return lambda ranks: np.asarray(shares[ranks[:, 0] - 1])

    def form(self, kernel: Array, ranks: tuple[int, ...], prepared: Pixels) -> Form:
        """Return the regression on V of every pixel, at full rank, with the H of the cut as H₀."""
        (rank,), d = ranks, len(kernel)
        links, first = self.links(kernel.shape, ranks), prepared.filters[:rank]

        def factorization(chain: Chain) -> Factorization:
            # H is [d, s·c'] and the kernel of the second link [d, c', s].
            second = chain.rest[0].reshape(d, -1, rank).transpose(0, 2, 1)
            return compose(links, kernel.shape[2:], (chain.first, second), chain.bias)

        return Form(
            inputs=pixels_of,
            first=first,
            prior=prepared.prior(rank),
            rank=d,
            chain=lambda solution: Chain(first, (solution.left @ solution.right,), solution.bias),
            compose=factorization,
        )

    def links(self, kernel: tuple[int, ...], ranks: tuple[int, ...]) -> tuple[LinkShape, ...]:
        """Return a link that carries no axis and one that carries all."""
        d, c, *sizes = kernel
        return LinkShape(ranks[0], c, (False,) * len(sizes)), LinkShape(d, ranks[0], (True,) * len(sizes))


INPUT = InputForm()
