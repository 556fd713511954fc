"""The 3D form (§2.6): k×1 c→d'', 1×l d''→d' and then 1×1 d'→d.

It combines the spatial cut of the kernel with the reduced-rank map of the channel form. With V fixed, its regression is
that of the spatial form at rank d': the solution P Qᵀ gives the 1×l kernel Qᵀ and the 1×1 kernel P.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_lowrank.factorise.energy import log_shares
from onnx_lowrank.factorise.evidence import Evidence
from onnx_lowrank.factorise.factors import LinkShape
from onnx_lowrank.factorise.forms.conv_shape import ConvShape
from onnx_lowrank.factorise.forms.form import Form
from onnx_lowrank.factorise.forms.kind import Energies, FormKind
from onnx_lowrank.factorise.forms.spatial import (
    SPATIAL,
    Columns,
    column_form,
    column_shares,
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
        """Tell whether k×1 and 1×l are both smaller than the kernel."""
        return SPATIAL.takes(shape)

    def statistics_bytes(self, shape: ConvShape) -> int:
        """Return those of the spatial cut."""
        return SPATIAL.statistics_bytes(shape)

    def highest_ranks(self, shape: ConvShape) -> tuple[int, ...]:
        """Return the highest rank of the spatial form, and d."""
        return (*SPATIAL.highest_ranks(shape), shape.filters)

    def macs(self, shape: ConvShape, ranks: Array) -> Array:
        """Return d''·c·k·between + d'·(d''·l + d)·positions; ``vertical_macs`` explains the first term."""
        columns, rank = ranks[:, 0], ranks[:, 1]
        behind = rank * (columns * two_sizes(shape.kernel)[1] + shape.filters) * shape.positions
        return np.asarray(columns * vertical_macs(shape) + behind)

    def log_energies(self, evidence: Evidence) -> Energies:
        """Return the sum of the log-energies of the spatial cut at d'' and of the responses at d'."""
        columns, responses = column_shares(evidence), log_shares(evidence.spectrum)
        return lambda ranks: np.asarray(columns[ranks[:, 0] - 1] + responses[ranks[:, 1] - 1])

    def form(self, kernel: Array, ranks: tuple[int, ...], prepared: Columns) -> Form:
        """Return the regression on V of every column, at rank d', with the 1×l kernel of the cut as H₀."""
        links = self.links(kernel.shape, ranks)
        return column_form(prepared, links, kernel.shape[2:], (ranks[0], ranks[1]), lambda x: (x.right, x.left))

    def links(self, kernel: tuple[int, ...], ranks: tuple[int, ...]) -> tuple[LinkShape, ...]:
        """Return the two links of the spatial form, the second with d' filters, and one that carries no axis."""
        d, _, *sizes = kernel
        vertical, horizontal = SPATIAL.links((ranks[1], *kernel[1:]), ranks[:1])
        return vertical, horizontal, LinkShape(d, ranks[1], (False,) * len(sizes))


THREE_D = ThreeDForm()
