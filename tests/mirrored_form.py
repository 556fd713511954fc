"""A form that the package does not know: the channel form mirrored, 1×1 c→c' and then k×k c'→d.

The kernel W (d, c, s) is a matrix [d·s, c] with the singular value decomposition U Σ Vᵀ. The first c' rows of Vᵀ become
the 1×1 kernel, and those columns of U Σ are H₀ of the regression on c' numbers of every pixel.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_lowrank.factorise.chain import Chain
from onnx_lowrank.factorise.energy import log_shares
from onnx_lowrank.factorise.evidence import Evidence
from onnx_lowrank.factorise.factors import Factorization, LinkShape, compose
from onnx_lowrank.factorise.forms.conv_shape import ConvShape
from onnx_lowrank.factorise.forms.form import Form, pixels_of
from onnx_lowrank.factorise.forms.kind import Energies, FormKind

Array = NDArray[Any]


class MirroredForm(FormKind):
    """1×1 c→c', k×k c'→d."""

    name = "mirrored"
    summary = "1×1 c→c', k×k c'→d"
    rank_names = ("c'",)

    def highest_ranks(self, shape: ConvShape) -> tuple[int, ...]:
        return (min(shape.channels, shape.filters * shape.taps),)

    def macs(self, shape: ConvShape, ranks: Array) -> Array:
        behind = shape.taps * shape.filters * shape.applications
        return np.asarray(ranks[:, 0] * (shape.channels * shape.pixels + behind))

    def log_energies(self, evidence: Evidence) -> Energies:
        parts = [np.linalg.svd(unfolded(kernel), compute_uv=False) ** 2 for kernel in evidence.kernels]
        shares = log_shares(np.sum(parts, axis=0))
        return lambda ranks: np.asarray(shares[ranks[:, 0] - 1])

    def form(self, kernel: Array, ranks: tuple[int, ...], prepared: None = None) -> Form:
        (rank,), d = ranks, len(kernel)
        U, sigma, V = np.linalg.svd(unfolded(kernel), full_matrices=False)
        links, first = self.links(kernel.shape, ranks), V[:rank]

        def factorization(chain: Chain) -> Factorization:
            second = chain.rest[0].reshape(d, -1, rank).transpose(0, 2, 1)
            return compose(links, kernel.shape[2:], (chain.first, second), chain.bias)

        return Form(
            inputs=pixels_of,
            first=first,
            prior=(U * sigma)[:, :rank].reshape(d, -1),
            rank=d,
            chain=lambda solution: Chain(first, (solution.left @ solution.right,), solution.bias),
            compose=factorization,
        )

    def links(self, kernel: tuple[int, ...], ranks: tuple[int, ...]) -> tuple[LinkShape, ...]:
        d, c, *sizes = kernel
        return LinkShape(ranks[0], c, (False,) * len(sizes)), LinkShape(d, ranks[0], (True,) * len(sizes))


MIRRORED = MirroredForm()


def unfolded(kernel: Array) -> Array:
    """The matrix [d·s, c] of a kernel [d, c, *sizes]."""
    d, c = kernel.shape[:2]
    return kernel.reshape(d, c, -1).transpose(0, 2, 1).reshape(-1, c)
