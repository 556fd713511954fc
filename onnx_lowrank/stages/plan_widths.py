"""The part of the plan in which layers may lose channels: forms, ranks and widths under one budget."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from onnx_lowrank.factorise.forms.kind import Energies, FormKind
from onnx_lowrank.factorise.forms.rank_multiple import RankMultiple
from onnx_lowrank.graph.find.families import Family
from onnx_lowrank.plan.allocate import SEARCHES, TOLERANCE, Chosen, budget_for, fill, total_cost, total_energy
from onnx_lowrank.plan.importance import Importance
from onnx_lowrank.plan.layer_costs import LayerCosts
from onnx_lowrank.plan.pareto import LayerChoices
from onnx_lowrank.plan.plan import Plan, WidthPlan
from onnx_lowrank.plan.widths import Levels, WidenedLayer, WidthChoices, WidthSearch
from onnx_lowrank.stages.choices import family_choices
from onnx_lowrank.stages.count import Counted
from onnx_lowrank.stages.hidden_sets import Seen, narrowed_shape, seen_by
from onnx_lowrank.stages.widths import Widths, WidthSet

LARGEST_ERROR = 0.98
"""A width at which a larger share of the response is lost counts as one at which so much is lost."""


@dataclass(frozen=True)
class _Found:
    """A plan: widths, the choices of the layers at these widths and those that are taken, and the unused budget.

    The widths are those that belong to ``levels``, or one of them is a little wider. ``spare`` is a share of the cost
    that the speedup leaves.
    """

    levels: Levels
    widths: Mapping[str, int]
    layers: list[LayerChoices]
    chosen: Chosen
    spare: float


class WidthPlanner:
    """The plans of one network in which layers may lose channels.

    Parameters
    ----------
    counted
        The layers.
    widths
        The sets of channels.
    energies
        The log-energies that every form keeps of the sites, by site name, already weighed.
    importance
        How the sets are weighed.
    multiple
        The numbers that ranks are multiples of.
    costs
        What the layers cost: MACs, or nanoseconds.
    """

    def __init__(
        self,
        counted: Counted,
        widths: Widths,
        energies: Mapping[str, Mapping[FormKind, Energies]],
        importance: Importance,
        multiple: RankMultiple,
        costs: LayerCosts,
    ) -> None:
        self._counted, self._energies, self._multiple, self._costs = counted, energies, multiple, costs
        self._hidden = [one.hidden for one in widths.sets]
        self._counts = {one.name: one.count for one in self._hidden}
        self._known: dict[tuple[float, str], _Found | None] = {}
        self._families = [self._family(family) for family in counted.families]
        self._search = WidthSearch(
            [_choices(one, importance.factor(weight_name(one.name))) for one in widths.sets],
            [*self._families, *self._others()],
        )

    @property
    def most(self) -> float:
        """The highest speedup that widths and ranks reach, about."""
        return self._costs.total / max(1, self._costs.total - self._involved + self._search.least)

    @cached_property
    def _involved(self) -> int:
        """The cost of all layers that the plan may change, as they are."""
        return sum(layer.untouched for layer in self._search.layers(self._search.full))

    def plan(self, speedup: float, ranks: str) -> Plan | None:
        """Return the plan for a speedup; None where no widths and ranks reach it.

        Parameters
        ----------
        speedup
            The cost of the original over that of the result.
        ranks
            The search for the ranks, by its name.
        """
        found = self._chosen(speedup, ranks)
        if found is None:
            return None
        families = zip(found.layers[: len(self._families)], found.chosen, strict=False)
        return Plan(
            tuple(site for layer, index in families for site in layer.site_plans(index)),
            tuple(WidthPlan(name, width) for name, width in found.widths.items() if width < self._counts[name]),
        )

    def comes_close(self, speedup: float, ranks: str) -> bool:
        """Whether the cost of the plan for a speedup is as near to it as promised; see ``plan``."""
        found = self._chosen(speedup, ranks)
        return found is not None and found.spare <= TOLERANCE

    def lost(self, speedup: float, ranks: str) -> float:
        """Return −Σ log E of the plan for a speedup; infinite where there is none."""
        found = self._chosen(speedup, ranks)
        if found is None:
            return math.inf
        return self._search.lost(found.levels) - total_energy(found.layers, found.chosen)

    def _chosen(self, speedup: float, ranks: str) -> "_Found | None":
        """Return the widths, the choices of the layers at these widths, and those that suit a speedup."""
        if (speedup, ranks) not in self._known:
            self._known[speedup, ranks] = self._search_for(speedup, ranks)
        return self._known[speedup, ranks]

    def _search_for(self, speedup: float, ranks: str) -> "_Found | None":
        whole = budget_for(self._costs.total, speedup)
        budget = whole - (self._costs.total - self._involved)
        if self._search.least > budget:
            return None
        levels = self._search.best(budget)

        def at(widths: Mapping[str, int]) -> _Found | None:
            layers = self._search.layers_at(widths)
            if sum(int(layer.costs[0]) for layer in layers) > budget:
                return None
            chosen = fill(layers, SEARCHES[ranks](layers, budget), budget)
            return _Found(levels, widths, layers, chosen, (budget - total_cost(layers, chosen)) / whole)

        best = at(self._search.widths(levels))
        for widths in self._search.between(levels) if best and best.spare > TOLERANCE else ():
            found = at(widths)
            best = found if found and best and found.spare < best.spare else best
            if best and best.spare <= TOLERANCE:
                break
        return best

    def _family(self, family: Family) -> WidenedLayer:
        """Return the layers of one weight; those that share it see no set, since its channels cannot be removed."""
        shapes, first = self._counted.shapes_of(family), family.members[0]
        seen = seen_by(self._hidden, first.output)

        def choices_at(widths: tuple[int, ...]) -> LayerChoices:
            own = dict(zip(seen.names, widths, strict=True))
            narrowed = [narrowed_shape(shape, seen, self._counts, own) for shape in shapes]
            costs = [self._costs.of(name, shape) for name, shape in zip(family.names, narrowed, strict=True)]
            return family_choices(family, narrowed[0], self._energies[family.name], self._multiple, costs)

        return WidenedLayer(family.name, seen.names, choices_at)

    def _others(self) -> list[WidenedLayer]:
        """Return the layers that are no sites but cost less where channels go."""
        sites = {site.output for site in self._counted.sites}
        layers = []
        for output, macs in self._counted.macs.aimed_at.items():
            seen = seen_by(self._hidden, output)
            if output not in sites and seen.names:
                layers.append(WidenedLayer(output, seen.names, self._fixed(output, seen, macs)))
        return layers

    def _fixed(self, output: str, seen: Seen, macs: int) -> Callable[[tuple[int, ...]], LayerChoices]:
        """Return the cost of a layer that stays whole as its only choice.

        A layer that only reads the channels costs less as well, but is always a site where it counts.
        """

        def choices_at(widths: tuple[int, ...]) -> LayerChoices:
            share = seen.share(self._counts, dict(zip(seen.names, widths, strict=True)))
            cost = self._costs.whole(macs * share)
            return LayerChoices(output, np.array([cost]), np.zeros(1), (None,), ((),))

        return choices_at


def weight_name(name: str) -> str:
    """Return the name by which the importance of a set of channels is known, beside that of the layer that makes it."""
    return f"{name} (width)"


def _choices(one: WidthSet, factor: float) -> WidthChoices:
    errors = np.minimum(one.curve.errors, LARGEST_ERROR)
    return WidthChoices(one.name, one.curve.widths, factor * np.log1p(-errors))
