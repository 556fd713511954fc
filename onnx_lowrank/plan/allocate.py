"""Rank selection: one choice for every layer under one budget (§2.5).

    maximise Σ_l log E_l    subject to    Σ_l cost_l ≤ budget

over the choices of every layer, which are a form and its ranks, or to leave the layer alone. There are three searches:

* ``exact``: dynamic programming over the layers on a grid of costs, as for the multiple-choice knapsack problem
  (Kellerer, Pferschy, Pisinger, Knapsack Problems, 2004, §11.5). A layer's cost is rounded up to the grid, so the
  budget holds.
* ``greedy``: the paper's search. It begins with the untouched network and always takes the step that loses the least
  log-energy per MAC saved. A layer's steps follow the convex hull of its choices; where a layer has one rank to choose,
  they mostly lower it by one.
* ``uniform``: every layer keeps the same share of its cost, for comparison.

Where the user asks for a number of MACs, exchanges of choices between layers then use up what is left of the budget, so
that the result is just below it.
"""

import heapq
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from types import MappingProxyType
from typing import NamedTuple, TypeAlias

import numpy as np

from onnx_lowrank.errors import TargetError
from onnx_lowrank.plan.pareto import LayerChoices

TOLERANCE = 0.01
"""The share of the budget by which the cost may be below it, where some choice comes as close."""

GRID = 10_000
"""The number of steps into which the dynamic programme divides a budget."""

REACH = 4
"""The number of choices up or down that an exchange considers for a layer."""

Chosen: TypeAlias = tuple[int, ...]
"""An index into the choices of every layer."""

Search: TypeAlias = Callable[[Sequence[LayerChoices], int], Chosen]
"""A function from layers and a budget, at least the sum of their lowest costs, to choices within the budget."""


def total_cost(layers: Sequence[LayerChoices], chosen: Sequence[int]) -> int:
    """Return the cost of all layers together."""
    return sum(int(layer.costs[i]) for layer, i in zip(layers, chosen, strict=True))


def total_energy(layers: Sequence[LayerChoices], chosen: Sequence[int]) -> float:
    """Return Σ log E over all layers."""
    return sum(float(layer.log_energies[i]) for layer, i in zip(layers, chosen, strict=True))


def greedy_steps(layers: Sequence[LayerChoices], budget: int) -> Chosen:
    """Search greedily, as the paper does (§2.5); see ``Search``."""
    hulls = [_hull(layer) for layer in layers]
    corners = [len(hull) - 1 for hull in hulls]
    steps = [(_slope(layers[i], hull, corners[i]), i) for i, hull in enumerate(hulls) if corners[i] > 0]
    heapq.heapify(steps)
    cost = sum(layer.untouched for layer in layers)
    while cost > budget:
        _, i = heapq.heappop(steps)
        hull, costs = hulls[i], layers[i].costs
        cost -= int(costs[hull[corners[i]]] - costs[hull[corners[i] - 1]])
        corners[i] -= 1
        if corners[i] > 0:
            heapq.heappush(steps, (_slope(layers[i], hull, corners[i]), i))
    return tuple(int(hull[k]) for hull, k in zip(hulls, corners, strict=True))


def uniform_share(layers: Sequence[LayerChoices], budget: int) -> Chosen:
    """Search for the largest share of its own cost that every layer can keep; see ``Search``."""

    def choices(share: float) -> list[int]:
        return [max(0, int(np.searchsorted(x.costs, share * x.untouched, side="right")) - 1) for x in layers]

    low, high = 0.0, 1.0
    if total_cost(layers, choices(high)) > budget:
        for _ in range(60):
            middle = (low + high) / 2
            low, high = (middle, high) if total_cost(layers, choices(middle)) <= budget else (low, middle)
        high = low
    return tuple(choices(high))


def exact_steps(layers: Sequence[LayerChoices], budget: int) -> Chosen:
    """Search for the best choices, up to the rounding of costs to the grid; see ``Search``."""
    if sum(layer.untouched for layer in layers) <= budget:
        return tuple(len(layer.costs) - 1 for layer in layers)
    # The grid counts what a layer costs beyond its cheapest choice, so that rounding never makes a budget infeasible.
    floor = sum(int(layer.costs[0]) for layer in layers)
    unit = max((budget - floor) / GRID, 1e-9)
    # The most energy that the layers so far hold at every point of the grid, and the choice of each that leads there.
    best, tables = np.zeros(GRID + 1), []
    for layer in layers:
        steps = np.ceil((layer.costs - layer.costs[0]) / unit - 1e-9).astype(np.int64)
        # Only the last of the choices in one step of the grid can win, because it has the most energy.
        last = np.flatnonzero(np.append(np.diff(steps) > 0, True) & (steps <= GRID))
        new, choice = np.full(GRID + 1, -np.inf), np.zeros(GRID + 1, np.int32)
        for i in last:
            step = int(steps[i])
            candidate = best[: GRID + 1 - step] + layer.log_energies[i]
            better = candidate > new[step:]
            new[step:][better] = candidate[better]
            choice[step:][better] = i
        best = new
        tables.append((choice, steps))
    chosen, left = [], GRID
    for choice, steps in reversed(tables):
        chosen.append(int(choice[left]))
        left -= int(steps[chosen[-1]])
    return tuple(chosen[::-1])


SEARCHES: Mapping[str, Search] = MappingProxyType(
    {"exact": exact_steps, "greedy": greedy_steps, "uniform": uniform_share}
)
"""The searches by the values of the option ``ranks``."""


def allocate(layers: Sequence[LayerChoices], others: int, speedup: float, search: str) -> Chosen:
    """Choose the forms and ranks for a speedup of the whole network.

    Parameters
    ----------
    layers
        The layers that may be factorised.
    others
        The MACs of the layers that may not.
    speedup
        The MACs of both together, over those that are left.
    search
        A key of ``SEARCHES``.

    Raises
    ------
    TargetError
        If even the lowest ranks everywhere are not enough.
    """
    before = others + sum(layer.untouched for layer in layers)
    check_reach(before, others + sum(int(layer.costs[0]) for layer in layers), speedup)
    budget = budget_for(before, speedup) - others
    return fill(layers, SEARCHES[search](layers, budget), budget)


def budget_for(before: int, speedup: float) -> int:
    """Return the most MACs that a speedup leaves, with the decimals that the user wrote: 112 MACs at 1.12 leave 100."""
    return int(before / Fraction(str(float(speedup))))


def check_reach(before: int, lowest: int, speedup: float, multiple: int = 1, ways_out: Sequence[str] = ()) -> None:
    """Refuse a speedup that a network cannot have.

    Parameters
    ----------
    before
        The MACs of the network.
    lowest
        The MACs that are left at the lowest ranks.
    speedup
        The speedup that the user asks for.
    multiple
        The number of which every rank is a multiple.
    ways_out
        What else may help, in a few words each.

    Raises
    ------
    TargetError
        If the speedup is out of reach. The message names the highest one within reach, rounded down.
    """
    if budget_for(before, speedup) < lowest:
        reach = math.floor(100 * before / lowest) / 100
        ranks, ways = "ranks", ["lower --speedup", *ways_out]
        if multiple > 1:
            ranks, ways = f"multiples of {multiple} as ranks", ["lower --rank-multiple", *ways]
        raise TargetError(
            f"speedup {speedup:g} is out of reach: at the lowest {ranks} this model gets {reach:.2f}; "
            + " or ".join(filter(None, (", ".join(ways[:-1]), ways[-1])))
        )


def _hull(layer: LayerChoices) -> list[int]:
    """Return the upper convex hull of (cost, log-energy) as indices by ascending cost (Andrew's monotone chain)."""
    hull: list[int] = []
    c, e = layer.costs.astype(np.float64), layer.log_energies
    for i in range(len(c)):
        while len(hull) > 1:
            a, b = hull[-2], hull[-1]
            if (e[b] - e[a]) * (c[i] - c[a]) > (e[i] - e[a]) * (c[b] - c[a]):
                break
            hull.pop()
        hull.append(i)
    return hull


def _slope(layer: LayerChoices, hull: list[int], k: int) -> float:
    """Return the log-energy that the step down from the k-th corner of the hull loses per MAC saved."""
    upper, lower = hull[k], hull[k - 1]
    return float((layer.log_energies[upper] - layer.log_energies[lower]) / (layer.costs[upper] - layer.costs[lower]))


def fill(layers: Sequence[LayerChoices], start: Chosen, budget: int) -> Chosen:
    """Use up what a search left of the budget by changing single layers, and then by exchanges between two layers.

    There are many exchanges, so they are tried only while the cost is further below the budget than ``TOLERANCE``. One
    that ends within the tolerance may lose a little energy, because the user asked for this cost.
    """
    chosen = start
    while (better := _best_exchange(layers, chosen, budget, 1)) is not None:
        chosen = better
    while budget - total_cost(layers, chosen) > TOLERANCE * budget:
        better = _best_exchange(layers, chosen, budget, 2)
        if better is None:
            break
        chosen = better
    return chosen


class _Move(NamedTuple):
    """A change of one layer: the number of the new choice, the extra cost, and the gained log-energy."""

    choice: int
    extra: int
    gain: float


def _best_exchange(layers: Sequence[LayerChoices], chosen: Chosen, budget: int, size: int) -> Chosen | None:
    """Return the choices after the change of ``size`` layers that gains most, or None where no change helps."""
    slack = budget - total_cost(layers, chosen)
    moves = [_moves(layer, i) for layer, i in zip(layers, chosen, strict=True)]
    best: tuple[float, Chosen] | None = None
    for changing in itertools.combinations(range(len(layers)), size):
        for combined in itertools.product(*(moves[i] for i in changing)):
            extra = sum(move.extra for move in combined)
            gain = sum(move.gain for move in combined)
            reaches = extra > 0 and slack - extra <= TOLERANCE * budget
            if extra > slack or not (reaches or (gain > 1e-12 and extra > 0)) or (best and gain <= best[0]):
                continue
            changed = dict(zip(changing, (move.choice for move in combined), strict=True))
            best = gain, tuple(changed.get(i, index) for i, index in enumerate(chosen))
    return best and best[1]


def _moves(layer: LayerChoices, now: int) -> list[_Move]:
    """Return the changes of one layer that an exchange considers: to near choices, and to leaving the layer alone."""
    near = {*range(max(0, now - REACH), min(len(layer.costs), now + REACH + 1)), len(layer.costs) - 1} - {now}
    cost, energy = layer.costs, layer.log_energies
    return [_Move(i, int(cost[i] - cost[now]), float(energy[i] - energy[now])) for i in sorted(near)]
