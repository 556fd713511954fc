"""The channel form (§2.2): k×k c→d' and then 1×1 d'→d.

The regressors are the layer's own responses, x = W·patch, so a map M = P Qᵀ of them gives the kernels QᵀW (d', c, k, k)
and P (d, d', 1, 1). Working on d responses in place of c·k·k inputs keeps the number of unknowns small, and H₀ = I.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_lowrank.factorise.chain import Chain
from onnx_lowrank.factorise.energy import log_shares
from onnx_lowrank.factorise.evidence import Evidence, gram
from onnx_lowrank.factorise.factors import Factorization, Link
from onnx_lowrank.factorise.forms.conv_shape import ConvShape
from onnx_lowrank.factorise.forms.form import Form
from onnx_lowrank.factorise.forms.kind import Energies, FormKind, LinkShape

Array = NDArray[Any]


class ChannelForm(FormKind):
    """k×k c→d', 1×1 d'→d."""

    name = "channel"
    summary = "k×k c→d', 1×1 d'→d"
    rank_names = ("d'",)

    def highest_ranks(self, shape: ConvShape) -> tuple[int, ...]:
        """d' = d."""
        return (shape.filters,)

    def macs(self, shape: ConvShape, ranks: Array) -> Array:
        """d'·(c·k·l + d)·positions.

        The paper's budget (§2.5) leaves out the second convolution, d·d': 11% of a 3×3 layer, all of a 1×1 layer.
        """
        return np.asarray(ranks[:, 0] * (shape.channels * shape.taps + shape.filters) * shape.positions)

    def log_energies(self, evidence: Evidence) -> Energies:
        """The share of the responses' variance that d' principal components hold (§2.5, eq. 13)."""
        shares = log_shares(evidence.spectrum)
        return lambda ranks: np.asarray(shares[ranks[:, 0] - 1])

    def form(self, kernel: Array, ranks: tuple[int, ...], prepared: None = None) -> Form:
        """The regression of the responses on themselves, at rank d'."""
        return Form(
            lambda patches: responses(patches, kernel)[:, None, :],
            None,
            np.eye(len(kernel)),
            ranks[0],
            lambda solution: Chain(solution.right, (solution.left,), solution.bias),
            lambda chain: compose(kernel, chain),
            gram(kernel) if kernel.ndim == 2 else None,  # a layer without positions has one row of every sample
        )

    def links(self, kernel: tuple[int, ...], ranks: tuple[int, ...]) -> tuple[LinkShape, ...]:
        """The first convolution carries all axes."""
        d, c, *sizes = kernel
        return (
            LinkShape(ranks[0], c, (True,) * len(sizes)),
            LinkShape(d, ranks[0], (False,) * len(sizes)),
        )


CHANNEL = ChannelForm()


def responses(patches: Array, kernel: Array) -> Array:
    """The layer's responses without bias, [n, d], for patches [n, c, *sizes] and its kernel [d, c, *sizes]."""
    return np.asarray(patches.reshape(len(patches), -1) @ kernel.reshape(len(kernel), -1).T.astype(patches.dtype))


def compose(kernel: Array, chain: Chain) -> Factorization:
    """The two convolutions that factors of a map of the responses stand for."""
    d, axes = len(kernel), kernel.ndim - 2
    first = (chain.first @ kernel.reshape(d, -1)).reshape(-1, *kernel.shape[1:])
    second = chain.rest[0].reshape(d, -1, *(1,) * axes)
    return Factorization(CHANNEL.name, (Link(first, (True,) * axes), Link(second, (False,) * axes)), chain.bias)
