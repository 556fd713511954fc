"""The 3D form (§2.6): k×1 c→d'', 1×l d''→d' and then 1×1 d'→d.

It makes both cuts: the spatial one of the kernel and, of the map from V of every column to the d responses, the
reduced-rank one of the channel form. With V fixed, its regression is that of the spatial form at rank d'.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_lowrank.factorise.chain import Chain
from onnx_lowrank.factorise.energy import log_shares
from onnx_lowrank.factorise.evidence import Evidence
from onnx_lowrank.factorise.forms.conv_shape import ConvShape
from onnx_lowrank.factorise.forms.form import Form
from onnx_lowrank.factorise.forms.kind import Energies, FormKind, LinkShape
from onnx_lowrank.factorise.forms.spatial import (
    SPATIAL,
    Columns,
    column_shares,
    columns_of,
    compose,
    shared_axes,
    two_sizes,
    vertical_macs,
)

Array = NDArray[Any]


class ThreeDForm(FormKind):
    """k×1 c→d'', 1×l d''→d', 1×1 d'→d."""

    name = "3d"
    summary = "k×1 c→d'', 1×k d''→d', 1×1 d'→d"
    rank_names = ("d''", "d'")
    needs = SPATIAL.needs
    preparation = Columns

    def takes(self, shape: ConvShape) -> bool:
        """Whether the kernel can be cut in space."""
        return SPATIAL.takes(shape)

    def highest_ranks(self, shape: ConvShape) -> tuple[int, ...]:
        """The highest rank of the spatial cut, and d."""
        return (*SPATIAL.highest_ranks(shape), shape.filters)

    def macs(self, shape: ConvShape, ranks: Array) -> Array:
        """d''·c·k·between + d'·(d''·l + d)·positions."""
        columns, rank = ranks[:, 0], ranks[:, 1]
        behind = rank * (columns * two_sizes(shape.kernel)[1] + shape.filters) * shape.positions
        return np.asarray(columns * vertical_macs(shape) + behind)

    def log_energies(self, evidence: Evidence) -> Energies:
        """The sum of the log-energies of both cuts."""
        columns, responses = column_shares(evidence), log_shares(evidence.spectrum)
        return lambda ranks: np.asarray(columns[ranks[:, 0] - 1] + responses[ranks[:, 1] - 1])

    def form(self, kernel: Array, ranks: tuple[int, ...], prepared: Columns) -> Form:
        """The regression on V of every column, at rank d', with the 1×l kernel of the cut as H₀."""
        first = prepared.filters[: ranks[0]]
        return Form(
            columns_of,
            first,
            prepared.prior(ranks[0]),
            ranks[1],
            lambda solution: Chain(first, (solution.right, solution.left), solution.bias),
            lambda chain: compose(chain, kernel.shape[2:], self.name),
        )

    def links(self, kernel: tuple[int, ...], ranks: tuple[int, ...]) -> tuple[LinkShape, ...]:
        """The first two convolutions carry their own axes, the last one none."""
        d, c, *sizes = kernel
        vertical, horizontal = shared_axes(sizes)
        return (
            LinkShape(ranks[0], c, vertical),
            LinkShape(ranks[1], ranks[0], horizontal),
            LinkShape(d, ranks[1], (False,) * len(sizes)),
        )


THREE_D = ThreeDForm()
