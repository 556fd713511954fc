"""The choices of one layer: every form at all its ranks, as points of cost and log-energy.

Each kind of form states the log-energy that it is expected to keep at its ranks, and their cost. Only the points on the
Pareto front are kept: a costlier one must hold more energy.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from onnx_lowrank.factorise.forms.conv_shape import ConvShape
from onnx_lowrank.factorise.forms.kind import Energies, FormKind
from onnx_lowrank.factorise.forms.rank_multiple import EVERY_RANK, RankMultiple
from onnx_lowrank.plan.cost import Costs, MacsCosts
from onnx_lowrank.plan.plan import SitePlan

Array = NDArray[Any]


@dataclass(frozen=True)
class LayerChoices:
    """The choices of one layer, by rising cost and rising log-energy; the last one leaves the layer alone.

    Attributes
    ----------
    name
        The name of the site, or of the first of several that share a weight.
    costs
        [m], whole numbers: MACs or nanoseconds, of all these sites together.
    log_energies
        [m], at most 0; 0 for the last choice.
    forms
        [m], the names of the forms; None for the last choice.
    ranks
        [m], the ranks from the input on; empty for the last choice.
    sharing
        The names of the other sites that share the weight, for which the same is chosen.
    """

    name: str
    costs: Array
    log_energies: Array
    forms: tuple[str | None, ...]
    ranks: tuple[tuple[int, ...], ...]
    sharing: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """The names of all sites that a choice is for."""
        return (self.name, *self.sharing)

    @property
    def untouched(self) -> int:
        """The cost of the layer as it is."""
        return int(self.costs[-1])

    def choice(self, index: int) -> tuple[str | None, tuple[int, ...]]:
        """Return the form and the ranks of a choice; they are (None, ()) for the last one."""
        return self.forms[index], self.ranks[index]

    def site_plans(self, index: int) -> tuple[SitePlan, ...]:
        """Return a choice as the plans of all its sites."""
        return tuple(SitePlan(name, *self.choice(index)) for name in self.names)


def pareto_front(
    name: str,
    shape: ConvShape,
    energies: Mapping[FormKind, Energies],
    multiple: RankMultiple = EVERY_RANK,
    costs: Costs | None = None,
) -> LayerChoices:
    """Return the Pareto front of a layer.

    Parameters
    ----------
    name
        The name of the site.
    shape
        Its geometry.
    energies
        The log-energies that every allowed kind of form is expected to keep. A kind that does not take the kernel has
        no choices.
    multiple
        The numbers of which ranks must be multiples.
    costs
        The costs of the choices; None for their MACs.
    """
    costs = costs or MacsCosts(shape)
    # Point 0 leaves the layer alone. The points of one kind after the other follow.
    points = [_Points(None, np.zeros((1, 0), np.int64), np.array([costs.untouched], np.float64), np.zeros(1))]
    for kind, expected in energies.items():
        ranks = multiple.ranks(kind, shape)
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
    """The choices of one kind: its name, ranks [m, number of ranks], costs [m] and log-energies [m]."""

    form: str | None
    ranks: Array
    cost: Array
    energy: Array


def _pareto(cost: Array, energy: Array, untouched: int) -> Array:
    """Return the indices of the points on the front, by ascending cost; the last one is 0, the untouched layer."""
    saving = np.flatnonzero(cost < untouched)
    # Points are ordered by cost, and those of equal cost by falling energy; only what exceeds all before it is kept.
    order = saving[np.lexsort((-energy[saving], cost[saving]))]
    if not len(order):
        return np.array([0])
    best_before = np.concatenate([[-np.inf], np.maximum.accumulate(energy[order])[:-1]])
    return np.append(order[energy[order] > best_before], 0)
