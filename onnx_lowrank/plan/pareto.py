"""All that can be done with one layer: every form at all its ranks, as points of cost and log-energy.

Each kind of form says what it is expected to keep of the layer's responses at its ranks, and what that costs. Only
points on the Pareto front are kept: a costlier one must hold more energy.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from onnx_lowrank.factorise.forms.conv_shape import ConvShape
from onnx_lowrank.factorise.forms.kind import Energies, FormKind
from onnx_lowrank.plan.cost import Costs, MacsCosts

Array = NDArray[Any]


@dataclass(frozen=True)
class LayerChoices:
    """One layer's choices, by rising cost and never falling log-energy; the last one leaves the layer alone.

    Attributes
    ----------
    name
        The site's name.
    costs
        [m], whole numbers: MACs, or nanoseconds.
    log_energies
        [m], ≤ 0; 0 for the last.
    forms
        [m], the names of the forms; None for the last.
    ranks
        [m], the ranks of each choice from the input on; empty for the last.
    """

    name: str
    costs: Array
    log_energies: Array
    forms: tuple[str | None, ...]
    ranks: tuple[tuple[int, ...], ...]

    @property
    def untouched(self) -> int:
        """What the layer costs as it is."""
        return int(self.costs[-1])

    def choice(self, index: int) -> tuple[str | None, tuple[int, ...]]:
        """The form and the ranks of a choice; (None, ()) for leaving the layer alone."""
        return self.forms[index], self.ranks[index]


def pareto_front(
    name: str,
    shape: ConvShape,
    energies: Mapping[FormKind, Energies],
    multiple: int = 1,
    costs: Costs | None = None,
) -> LayerChoices:
    """The Pareto front of a layer.

    Parameters
    ----------
    name
        The site's name.
    shape
        Its geometry.
    energies
        What every kind of form that is allowed is expected to keep. Kinds that do not take the kernel are left out.
    multiple
        A number of which every rank must be a multiple.
    costs
        The costs of the choices; None for their MACs.
    """
    costs = costs or MacsCosts(shape)
    # Point 0 leaves the layer alone; behind it come the points of one kind after the other.
    points = [_Points(None, np.zeros((1, 0), np.int64), np.array([costs.untouched], np.float64), np.zeros(1))]
    for kind, expected in energies.items():
        ranks = kind.rank_choices(shape, multiple)
        if len(ranks):
            points.append(_Points(kind.name, ranks, costs.of(kind, ranks), np.minimum(expected(ranks), 0.0)))
    cost, energy = np.concatenate([p.cost for p in points]), np.concatenate([p.energy for p in points])
    kept = _pareto(cost, energy, costs.untouched)
    ends = np.cumsum([len(p.cost) for p in points])
    owners = np.searchsorted(ends, kept, side="right")
    choices = [
        (points[owner].form, tuple(points[owner].ranks[index - ends[owner]].tolist()))
        for owner, index in zip(owners, kept, strict=True)
    ]
    return LayerChoices(
        name,
        cost[kept].astype(np.int64),
        energy[kept],
        tuple(form for form, _ in choices),
        tuple(ranks for _, ranks in choices),
    )


class _Points(NamedTuple):
    """All choices of one kind: its name, ranks [m, number of ranks], costs [m] and log-energies [m]."""

    form: str | None
    ranks: Array
    cost: Array
    energy: Array


def _pareto(cost: Array, energy: Array, untouched: int) -> Array:
    """Indices of the front, by ascending cost; it ends with index 0, the untouched layer."""
    saving = np.flatnonzero(cost < untouched)
    # By cost, and of equal costs the most energy first; then only what exceeds everything cheaper.
    order = saving[np.lexsort((-energy[saving], cost[saving]))]
    if not len(order):
        return np.array([0])
    best_before = np.concatenate([[-np.inf], np.maximum.accumulate(energy[order])[:-1]])
    return np.append(order[energy[order] > best_before], 0)
