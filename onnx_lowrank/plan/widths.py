"""Widths and ranks chosen together: the plan that maximises Σ log E where channels may become fewer.

A set of channels has choices of its own: a width, and the log-energy that its readers keep there. The cost of a layer
depends on its own choice, which is a form with ranks, and on the widths of the channels that it reads and makes. So
neighbours share costs. For a price μ of a unit of cost, the problem

    minimise over widths   Σ_s −log E_s(w_s) + Σ_l min over choices of l (−log E_l + μ cost_l(choice, widths))

is a sum of tables, each of which depends on the few widths that a layer sees. Eliminating one width after the other
solves it exactly, as dynamic programming does along a chain (Bertelè and Brioschi, Nonserial Dynamic Programming,
1972). Where a table would become too large, because many sets meet, the widths are improved one by one instead. The
price is the least at which the cost keeps within the budget; with the widths that belong to it, the usual search
divides what is left among the ranks.
"""

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from onnx_lowrank.plan.allocate import TOLERANCE
from onnx_lowrank.plan.pareto import LayerChoices

Array = NDArray[Any]

Levels: TypeAlias = dict[str, int]
"""The number of the chosen width of every set, by the name of the set."""

LARGEST_TABLE = 20_000
"""The most entries of a table over the widths of some sets."""

HALVINGS = 40
"""The number of times that the interval of prices is halved."""


@dataclass(frozen=True)
class WidthChoices:
    """The choices of one set of channels.

    Attributes
    ----------
    name
        The name of the layer that makes the channels.
    widths
        [m], ascending; the last one is all of them.
    log_energies
        [m], at most 0 and never falling; 0 for all channels.
    """

    name: str
    widths: NDArray[np.int64]
    log_energies: Array


@dataclass(frozen=True)
class WidenedLayer:
    """A layer whose choices depend on widths.

    Attributes
    ----------
    name
        The name of the layer, or of the first of several that share a weight.
    sets
        The names of the sets whose widths matter to it.
    choices_at
        The choices of the layer for widths of these sets, in their order.
    """

    name: str
    sets: tuple[str, ...]
    choices_at: Callable[[tuple[int, ...]], LayerChoices]
    _known: dict[tuple[int, ...], LayerChoices] = field(default_factory=dict, compare=False)

    def at(self, widths: Mapping[str, int]) -> LayerChoices:
        """Return the choices at some widths, by the name of the set."""
        own = tuple(widths[name] for name in self.sets)
        if own not in self._known:
            self._known[own] = self.choices_at(own)
        return self._known[own]


@dataclass(frozen=True)
class _Table:
    """A function of the levels of some sets; the axes are in the order of the names."""

    sets: tuple[str, ...]
    values: Array


class WidthSearch:
    """The search for the widths under a budget.

    Parameters
    ----------
    sets
        The sets of channels.
    layers
        All layers that take part: those with choices, and those whose cost alone depends on widths.
    """

    def __init__(self, sets: Sequence[WidthChoices], layers: Sequence[WidenedLayer]) -> None:
        self._sets, self._layers = {one.name: one for one in sets}, layers

    def widths(self, levels: Levels) -> dict[str, int]:
        """Return the widths that belong to levels."""
        return {name: int(self._sets[name].widths[level]) for name, level in levels.items()}

    def layers(self, levels: Levels) -> list[LayerChoices]:
        """Return the choices of all layers at the widths that belong to levels."""
        return self.layers_at(self.widths(levels))

    def layers_at(self, widths: Mapping[str, int]) -> list[LayerChoices]:
        """Return the choices of all layers at some widths, by the names of the sets."""
        return [layer.at(widths) for layer in self._layers]

    def between(self, levels: Levels) -> Iterator[dict[str, int]]:
        """Yield the widths of which one is a little wider than at its level, and not as wide as at the next one."""
        widths = self.widths(levels)
        for name, level in levels.items():
            if level < self.full[name]:
                for width in range(widths[name] + 1, int(self._sets[name].widths[level + 1])):
                    yield widths | {name: width}

    def lost(self, levels: Levels) -> float:
        """Return −Σ log E of the sets at some levels."""
        return -sum(float(self._sets[name].log_energies[level]) for name, level in levels.items())

    @cached_property
    def full(self) -> Levels:
        """The levels at which all channels stay."""
        return {name: len(one.widths) - 1 for name, one in self._sets.items()}

    @cached_property
    def least(self) -> int:
        """The lowest cost that any widths and choices reach, about: each set at its smallest width."""
        return sum(int(layer.costs[0]) for layer in self.layers(dict.fromkeys(self._sets, 0)))

    def best(self, budget: int) -> Levels:
        """Return the levels of the plan within a budget of at least ``least``."""
        untouched = self.layers(self.full)
        if sum(layer.untouched for layer in untouched) <= budget:
            return self.full
        # Prices are per unit of cost; a loss of a few units of log-energy for the whole budget is already absurd.
        low, high = 1e-12 / max(budget, 1), 1e3 / max(budget, 1)
        best: Levels = dict.fromkeys(self._sets, 0)
        for _ in range(HALVINGS):
            price = float(np.sqrt(low * high))
            levels = self.priced(price)
            if self._cost(levels, price) <= budget:
                best, high = levels, price
            else:
                low = price
        return self._widened(best, budget, high)

    def _cost(self, levels: Levels, price: float) -> int:
        """Return the cost of all layers, each of which makes the choice that suits a price."""
        return sum(int(layer.costs[_cheapest(layer, price)]) for layer in self.layers(levels))

    def _widened(self, levels: Levels, budget: int, price: float) -> Levels:
        """Use up what is left of the budget by widening sets one level at a time, the most valuable step first."""
        while budget - self._cost(levels, price) > TOLERANCE * budget / 4:
            steps = []
            for name, level in levels.items():
                if level == self.full[name]:
                    continue
                wider = levels | {name: level + 1}
                extra = self._cost(wider, price) - self._cost(levels, price)
                gain = float(self._sets[name].log_energies[level + 1] - self._sets[name].log_energies[level])
                if self._cost(levels, price) + extra <= budget:
                    steps.append((gain / max(extra, 1), name))
            if not steps:
                break
            name = max(steps)[1]
            levels = levels | {name: levels[name] + 1}
        return levels

    def priced(self, price: float) -> Levels:
        """Return the levels that are best at a price."""
        tables = [_Table((name,), -one.log_energies) for name, one in self._sets.items()]
        large: list[WidenedLayer] = []
        for layer in self._layers:
            if not layer.sets:
                continue
            sizes = [len(self._sets[name].widths) for name in layer.sets]
            if math.prod(sizes) > LARGEST_TABLE:
                large.append(layer)
                continue
            values = np.empty(sizes)
            for level in itertools.product(*map(range, sizes)):
                values[level] = self._value(layer, dict(zip(layer.sets, level, strict=True)), price)
            tables.append(_Table(layer.sets, values))
        levels = None if large else eliminated(tables, LARGEST_TABLE)
        return levels if levels is not None else self._one_by_one(price)

    def _value(self, layer: WidenedLayer, levels: Levels, price: float) -> float:
        choices = layer.at(self.widths(levels))
        return float((price * choices.costs - choices.log_energies).min())

    def _one_by_one(self, price: float) -> Levels:
        """Improve one width after the other until none changes."""
        levels = dict(self.full)
        readers = {name: [layer for layer in self._layers if name in layer.sets] for name in self._sets}
        changed = True
        while changed:
            changed = False
            for name, one in self._sets.items():
                values = -one.log_energies.copy()
                for level in range(len(values)):
                    tried = levels | {name: level}
                    own = ({s: tried[s] for s in layer.sets} for layer in readers[name])
                    values[level] += sum(
                        self._value(layer, at, price) for layer, at in zip(readers[name], own, strict=True)
                    )
                best = int(np.argmin(values))
                if values[best] < values[levels[name]] - 1e-12:
                    levels[name], changed = best, True
        return levels


def _cheapest(layer: LayerChoices, price: float) -> int:
    """Return the choice of a layer that suits a price."""
    return int(np.argmin(price * layer.costs - layer.log_energies))


def eliminated(tables: Sequence[_Table], largest: int) -> Levels | None:
    """Minimise a sum of tables by eliminating one set after the other.

    Parameters
    ----------
    tables
        The tables; every set is in one of them.
    largest
        The most entries that a table may have on the way.

    Returns
    -------
    Levels or None
        None where a table would become larger.
    """
    left = list(tables)
    sizes = {name: size for table in tables for name, size in zip(table.sets, table.values.shape, strict=True)}
    remaining = sorted(sizes)
    decided: list[tuple[str, tuple[str, ...], Array]] = []
    while remaining:
        neighbours = {name: _neighbours(name, left) for name in remaining}
        name = min(remaining, key=lambda one: math.prod(sizes[other] for other in neighbours[one]))
        axes = (*neighbours[name], name)
        if math.prod(sizes[other] for other in axes) > largest:
            return None
        total = np.zeros([sizes[other] for other in axes])
        for table in left:
            if name in table.sets:
                total = total + _aligned(table, axes)
        left = [table for table in left if name not in table.sets]
        left.append(_Table(neighbours[name], total.min(axis=-1)))
        decided.append((name, neighbours[name], total.argmin(axis=-1)))
        remaining.remove(name)
    levels: Levels = {}
    for name, others, choice in reversed(decided):
        levels[name] = int(choice[tuple(levels[other] for other in others)])
    return levels


def _neighbours(name: str, tables: Sequence[_Table]) -> tuple[str, ...]:
    """Return the other sets with which one shares a table."""
    together = {other for table in tables if name in table.sets for other in table.sets}
    return tuple(sorted(together - {name}))


def _aligned(table: _Table, axes: Sequence[str]) -> Array:
    """Return the values of a table with an axis for each of several sets, of size 1 for those that it does not have."""
    order = [table.sets.index(name) for name in axes if name in table.sets]
    shape = [table.values.shape[table.sets.index(name)] if name in table.sets else 1 for name in axes]
    return table.values.transpose(order).reshape(shape)
