"""The choices of layers whose energies fall geometrically, for the tests of plans."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from forms_for_tests import OF_CONV
from hypothesis import strategies as st
from numpy.typing import NDArray

from onnx_lowrank.factorise.energy import log_shares
from onnx_lowrank.factorise.forms.channel import CHANNEL
from onnx_lowrank.factorise.forms.conv_shape import ConvShape
from onnx_lowrank.factorise.forms.cp import CP
from onnx_lowrank.factorise.forms.kind import Energies, FormKind
from onnx_lowrank.factorise.forms.rank_multiple import RankMultiple
from onnx_lowrank.factorise.forms.spatial import SPATIAL
from onnx_lowrank.factorise.forms.table import FORMS
from onnx_lowrank.factorise.forms.three_d import THREE_D
from onnx_lowrank.plan.pareto import LayerChoices, pareto_front

Array = NDArray[Any]
Kinds = tuple[FormKind, ...]

ALONE: list[Kinds] = [(kind,) for kind in OF_CONV]
"""Every kind of form that replaces a Conv, the only one that is allowed."""


@dataclass(frozen=True)
class Decays:
    """How fast the spectra of energies fall: by d', by d'', and by the ranks of other forms."""

    responses: float
    columns: float
    others: float

    @classmethod
    def related(cls, decay: float) -> "Decays":
        return cls(decay, 0.5 + decay / 2, 0.7 + 0.3 * decay)

    @classmethod
    def independent(cls, responses: float, columns: float) -> "Decays":
        """The other forms are now ahead of these and now behind."""
        return cls(responses, columns, (responses * columns) ** 0.1)

    def of(self, symbol: str) -> float:
        return {"d'": self.responses, "d''": self.columns}.get(symbol, self.others)


def shares_of(kind: FormKind, shape: ConvShape, decays: Decays) -> list[Array]:
    """Log-energies by every rank of a kind."""
    return [
        log_shares(decays.of(symbol) ** np.arange(highest))
        for symbol, highest in zip(kind.rank_names, kind.highest_ranks(shape), strict=True)
    ]


def energies_of(kinds: Sequence[FormKind], shape: ConvShape, decays: Decays) -> dict[FormKind, Energies]:
    """Energies of some kinds; those of several ranks add up."""

    def energies(kind: FormKind) -> Energies:
        shares = shares_of(kind, shape, decays)
        return lambda ranks: np.asarray(sum(share[ranks[:, i] - 1] for i, share in enumerate(shares)))

    return {kind: energies(kind) for kind in kinds}


def square(size: int, d: int, c: int, k: int) -> ConvShape:
    """A k×k convolution of images size×size, which keeps their size."""
    return ConvShape(d, c, (k, k), (size, size), (size, size))


def layer(shape: ConvShape, decay: float, kinds: Kinds = FORMS.kinds, multiple: int = 1) -> LayerChoices:
    return pareto_front("conv", shape, energies_of(kinds, shape, Decays.related(decay)), RankMultiple(multiple))


def layers_of(kinds: Kinds, most: int = 16, up_to: int = 5, multiple: int = 1) -> st.SearchStrategy[list[LayerChoices]]:
    sizes = st.integers(2, most)
    shape = st.builds(square, st.sampled_from([4, 7, 14]), sizes, sizes, st.sampled_from([1, 3]))
    one = st.builds(layer, shape, st.floats(0.3, 0.99), st.just(kinds), st.just(multiple))
    return st.lists(one, min_size=1, max_size=up_to)


some_layers = st.one_of(
    layers_of(FORMS.kinds),
    layers_of((CHANNEL,)),
    layers_of((SPATIAL, THREE_D)),
    layers_of((SPATIAL, CP)),
    layers_of(FORMS.kinds, multiple=2),
    layers_of(FORMS.kinds, most=40, multiple=8),
)
