"""All that can be done with one layer: every form at all its ranks, as points of cost and log-energy.

The log-energy of a form is the sum over its cuts: the channel cut keeps the share E(d') of the responses' variance
(§2.5), the spatial cut the share E_s(d'') of what the kernel's columns contribute to it, and the 3D form makes both.
The CP form is expected to keep a share of its own. Only points on the Pareto front are kept: a costlier one must hold
more energy.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_lowrank.factorise.forms.conv_shape import ConvShape
from onnx_lowrank.plan.cost import Costs, MacsCosts, all_ranks

Array = NDArray[Any]

FORMS = ("channel", "spatial", "3d", "cp")


@dataclass(frozen=True)
class LayerChoices:
    """One layer's pareto_front, by rising cost and never falling log-energy; the last one is to leave it alone.

    Attributes
    ----------
    name
        Of the site.
    costs
        [m], whole numbers: MACs, or nanoseconds.
    log_energies
        [m], ≤ 0; 0 for the last.
    forms
        [m], an index into ``FORMS``; -1 for the last.
    ranks
        [m, 2], (d'', d') with 0 where the form has no such cut; (r, 0) of the CP form.
    """

    name: str
    costs: Array
    log_energies: Array
    forms: Array
    ranks: Array

    @property
    def untouched(self) -> int:
        """What the untouched layer costs."""
        return int(self.costs[-1])

    def choice(self, index: int) -> tuple[str | None, tuple[int, ...]]:
        """(form, ranks from the input on) of a choice; (None, ()) for leaving it alone."""
        which = int(self.forms[index])
        return (FORMS[which] if which >= 0 else None), tuple(int(r) for r in self.ranks[index] if r)


def pareto_front(
    name: str,
    shape: ConvShape,
    channel: Array,
    columns: Array | None,
    forms: Sequence[str],
    multiple: int = 1,
    *,
    costs: Costs | None = None,
    polyadic: Array | None = None,
) -> LayerChoices:
    """The Pareto front of a layer.

    Parameters
    ----------
    name
        Of the site.
    shape
        Its geometry.
    channel
        [d], log E(d') for d' = 1..d.
    columns
        log E_s(d'') for d'' = 1.., None where no form with a spatial cut is allowed.
    forms
        The forms allowed, of ``FORMS``.
    multiple
        What every rank must be a multiple of.
    costs
        Of the pareto_front; None for their MACs.
    polyadic
        log E of the CP form for r = 1.., None where it is not allowed.
    """
    costs = costs or MacsCosts(shape)
    points = [(np.array([costs.untouched], np.float64), np.zeros(1), np.array([-1]), np.zeros((1, 2), np.int64))]
    r = all_ranks(len(channel), multiple)
    if "channel" in forms:
        points.append(_points(0, costs.of("channel", r[:, None]), channel[r - 1], np.zeros_like(r), r))
    if columns is not None and shape.splits_in_space:
        s = all_ranks(len(columns), multiple)
        if "spatial" in forms:
            points.append(_points(1, costs.of("spatial", s[:, None]), columns[s - 1], s, np.zeros_like(s)))
        if "3d" in forms:
            S, R = (grid.ravel() for grid in np.meshgrid(s, r, indexing="ij"))
            energy = columns[S - 1] + channel[R - 1]
            points.append(_points(2, costs.of("3d", np.stack([S, R], axis=1)), energy, S, R))
    if polyadic is not None and "cp" in forms and shape.takes("cp"):
        p = all_ranks(len(polyadic), shape.step("cp", multiple))
        points.append(_points(3, costs.of("cp", p[:, None]), polyadic[p - 1], p, np.zeros_like(p)))
    cost, energy, form, ranks = (np.concatenate(parts) for parts in zip(*points, strict=True))
    kept = _pareto(cost, energy, costs.untouched)
    return LayerChoices(name, cost[kept].astype(np.int64), energy[kept], form[kept], ranks[kept])


def _points(form: int, cost: Array, energy: Array, columns: Array, rank: Array) -> tuple[Array, Array, Array, Array]:
    return cost, np.minimum(energy, 0.0), np.full(len(cost), form), np.stack([columns, rank], axis=1)


def _pareto(cost: Array, energy: Array, alone: int) -> Array:
    """Indices of the front, by ascending cost; it ends with index 0, the untouched layer."""
    saving = np.flatnonzero(cost < alone)
    # By cost, and of equal costs the most energy first; then only what exceeds everything cheaper.
    order = saving[np.lexsort((-energy[saving], cost[saving]))]
    if not len(order):
        return np.array([0])
    best_before = np.concatenate([[-np.inf], np.maximum.accumulate(energy[order])[:-1]])
    return np.append(order[energy[order] > best_before], 0)
