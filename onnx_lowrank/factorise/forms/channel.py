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
from onnx_lowrank.factorise.factors import LinkShape, compose
from onnx_lowrank.factorise.forms.conv_shape import ConvShape
from onnx_lowrank.factorise.forms.form import Form
from onnx_lowrank.factorise.forms.kind import Energies, FormKind

Array = NDArray[Any]


class ChannelForm(FormKind):
    """k×k c→d', 1×1 d'→d."""

    name = "channel"
    summary = "k×k c→d', 1×1 d'→d"
    rank_names = ("d'",)

    def highest_ranks(self, shape: ConvShape) -> tuple[int, ...]:
        """Return d, where the map M has full rank."""
        return (shape.filters,)

    def macs(self, shape: ConvShape, ranks: Array) -> Array:
        """Return d'·(c·k·k·applications + d·positions); both are counted by output pixels, unless it is transposed.

        The paper's budget (§2.5) leaves out the second convolution, d·d': 11% of a 3×3 layer, all of a 1×1 layer.
        """
        each = shape.channels * shape.taps * shape.applications + shape.filters * shape.positions
        return np.asarray(ranks[:, 0] * each)

    def log_energies(self, evidence: Evidence) -> Energies:
        """Return the log-share of the responses' variance that d' principal components hold (§2.5, eq. 13)."""
        shares = log_shares(evidence.spectrum)
        return lambda ranks: np.asarray(shares[ranks[:, 0] - 1])

    def form(self, kernel: Array, ranks: tuple[int, ...], prepared: None = None) -> Form:
        """Return the regression of the responses on themselves, at rank d'."""
        W = kernel.reshape(len(kernel), -1)
        links = self.links(kernel.shape, ranks)
        return Form(
            inputs=lambda patches: responses(patches, kernel)[:, None, :],
            first=None,
            prior=np.eye(len(kernel)),
            rank=ranks[0],
            chain=lambda solution: Chain(solution.right, (solution.left,), solution.bias),
            compose=lambda chain: compose(links, kernel.shape[2:], (chain.first @ W, chain.rest[0]), chain.bias),
            gram=gram(kernel) if kernel.ndim == 2 else None,  # a fully connected layer has one row per sample
        )

    def links(self, kernel: tuple[int, ...], ranks: tuple[int, ...]) -> tuple[LinkShape, ...]:
        """Return a link that carries all axes and one that carries none."""
        d, c, *sizes = kernel
        return (
            LinkShape(ranks[0], c, (True,) * len(sizes)),
            LinkShape(d, ranks[0], (False,) * len(sizes)),
        )


CHANNEL = ChannelForm()


def responses(patches: Array, kernel: Array) -> Array:
    """Return the responses [n, d], without bias, of a kernel [d, c, *sizes] to patches [n, c, *sizes]."""
    return np.asarray(patches.reshape(len(patches), -1) @ kernel.reshape(len(kernel), -1).T.astype(patches.dtype))
