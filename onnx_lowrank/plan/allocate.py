"""Rank selection: one choice for every layer under one budget (§2.5).

Maximise Σ_l log E_l subject to Σ_l cost_l ≤ budget, over the choices of every layer (form and ranks, or to leave it
alone). Three ways:

* ``exact``: dynamic programming over the layers on a grid of costs, as for the multiple-choice knapsack problem
  (Kellerer, Pferschy, Pisinger, Knapsack Problems, 2004, §11.5). A layer's cost is rounded up to the grid, so the
  budget holds.
* ``greedy``, the paper's: from the untouched network, always take the step that loses the least log-energy per MAC
  saved. A layer's steps follow the convex hull of its choices; in the channel form alone that is one rank at a time.
* ``uniform``: every layer keeps the same share of its cost. For comparison.

Where the cost itself is what was asked for, all then use up what is left of the budget by exchanging choices between
layers, so that the result is just below it.
"""

import heapq
import itertools
import math
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_lowrank.errors import TargetError
from onnx_lowrank.plan.pareto import LayerChoices

Array = NDArray[Any]

TOLERANCE = 0.01
"""The result's cost is at most this share below the budget, wherever some choice is."""

GRID = 10_000
"""Steps of cost in a budget for the dynamic programme."""

_REACH = 4
"""Choices up or down that the exchange looks at, per layer."""

Chosen = tuple[int, ...]
"""An index into the choices of every layer."""


def total_cost(layers: Sequence[LayerChoices], chosen: Sequence[int]) -> int:
    """MACs of all layers together."""
    return sum(int(layer.costs[i]) for layer, i in zip(layers, chosen, strict=True))


def total_energy(layers: Sequence[LayerChoices], chosen: Sequence[int]) -> float:
    """Σ log E."""
    return sum(float(layer.log_energies[i]) for layer, i in zip(layers, chosen, strict=True))


def greedy_steps(layers: Sequence[LayerChoices], budget: int) -> Chosen:
    """The paper's greedy search; ``budget`` (MACs) at least the sum of the lowest costs."""
    hulls = [_hull(layer) for layer in layers]
    at = [len(hull) - 1 for hull in hulls]
    steps = [(_slope(layers[i], hull, at[i]), i) for i, hull in enumerate(hulls) if at[i] > 0]
    heapq.heapify(steps)
    cost = sum(layer.untouched for layer in layers)
    while cost > budget:
        _, i = heapq.heappop(steps)
        hull, costs = hulls[i], layers[i].costs
        cost -= int(costs[hull[at[i]]] - costs[hull[at[i] - 1]])
        at[i] -= 1
        if at[i] > 0:
            heapq.heappush(steps, (_slope(layers[i], hull, at[i]), i))
    return tuple(int(hull[k]) for hull, k in zip(hulls, at, strict=True))


def uniform_share(layers: Sequence[LayerChoices], budget: int) -> Chosen:
    """The same share of its own cost for every layer; ``budget`` (MACs) at least the sum of the lowest costs."""

    def at(share: float) -> list[int]:
        return [max(0, int(np.searchsorted(x.costs, share * x.untouched, side="right")) - 1) for x in layers]

    low, high = 0.0, 1.0
    if total_cost(layers, at(high)) > budget:
        for _ in range(60):
            middle = (low + high) / 2
            low, high = (middle, high) if total_cost(layers, at(middle)) <= budget else (low, middle)
        high = low
    return tuple(at(high))


def exact_steps(layers: Sequence[LayerChoices], budget: int) -> Chosen:
    """The best choice up to the grid; ``budget`` (MACs) at least the sum of the lowest costs."""
    if sum(layer.untouched for layer in layers) <= budget:
        return tuple(len(layer.costs) - 1 for layer in layers)
    # The grid counts what a layer costs beyond its cheapest choice, so that rounding never makes a budget infeasible.
    floor = sum(int(layer.costs[0]) for layer in layers)
    unit = max((budget - floor) / GRID, 1e-9)
    best, taken = np.zeros(GRID + 1), []
    for layer in layers:
        steps = np.ceil((layer.costs - layer.costs[0]) / unit - 1e-9).astype(np.int64)
        # Of the choices in one step of the grid only the one with the most energy can win: the last.
        last = np.flatnonzero(np.append(np.diff(steps) > 0, True) & (steps <= GRID))
        new, choice = np.full(GRID + 1, -np.inf), np.zeros(GRID + 1, np.int32)
        for i in last:
            step = int(steps[i])
            candidate = best[: GRID + 1 - step] + layer.log_energies[i]
            better = candidate > new[step:]
            new[step:][better] = candidate[better]
            choice[step:][better] = i
        best = new
        taken.append((choice, steps))
    chosen, left = [], GRID
    for choice, steps in reversed(taken):
        chosen.append(int(choice[left]))
        left -= int(steps[chosen[-1]])
    return tuple(chosen[::-1])


def _filled(search: Callable[[Sequence[LayerChoices], int], Chosen]) -> Callable[[Sequence[LayerChoices], int], Chosen]:
    return lambda layers, budget: _fill(layers, search(layers, budget), budget)


SEARCHES: dict[str, Callable[[Sequence[LayerChoices], int], Chosen]] = {
    "exact": exact_steps,
    "greedy": greedy_steps,
    "uniform": uniform_share,
}
"""What is within the budget, as close to it as it may be."""

ALLOCATIONS = {how: _filled(search) for how, search in SEARCHES.items()}
"""As close to the budget as can be."""


def allocate(layers: Sequence[LayerChoices], others: int, speedup: float, how: str) -> Chosen:
    """Choose for a speedup of the whole network.

    Parameters
    ----------
    layers
        Those that may be factorised.
    others
        MACs of the convolutions that may not.
    speedup
        Of all convolutions together.
    how
        A key of ``ALLOCATIONS``.

    Raises
    ------
    TargetError
        Where even the lowest ranks everywhere are not enough.
    """
    before = others + sum(layer.untouched for layer in layers)
    check_reach(before, others + sum(int(layer.costs[0]) for layer in layers), speedup)
    return ALLOCATIONS[how](layers, _budget(before, speedup) - others)


def _budget(before: int, speedup: float) -> int:
    """The most MACs that a speedup leaves, with the decimals that its user wrote: 112 MACs at 1.12 leave 100."""
    return int(before / Fraction(str(float(speedup))))


def check_reach(before: int, lowest: int, speedup: float, multiple: int = 1) -> None:
    """Refuse a speedup that a network of so many MACs cannot have, if its lowest ranks leave ``lowest`` of them.

    Ranks are multiples of ``multiple``.

    Raises
    ------
    TargetError
        With the highest speedup that it can have, rounded down.
    """
    if _budget(before, speedup) < lowest:
        reach = math.floor(100 * before / lowest) / 100
        ranks, way_out = "ranks", "lower --speedup or widen --include"
        if multiple > 1:
            ranks, way_out = f"multiples of {multiple} as ranks", f"lower --rank-multiple, {way_out}"
        raise TargetError(
            f"speedup {speedup:g} is out of reach: at the lowest {ranks} this model gets {reach:.2f}; {way_out}"
        )


def _hull(layer: LayerChoices) -> list[int]:
    """Indices of the upper convex hull of (cost, log-energy), by ascending cost: Andrew's monotone chain."""
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
    """Log-energy lost per MAC saved by the step down from the k-th point of the hull."""
    upper, lower = hull[k], hull[k - 1]
    return float((layer.log_energies[upper] - layer.log_energies[lower]) / (layer.costs[upper] - layer.costs[lower]))


def _fill(layers: Sequence[LayerChoices], start: Sequence[int], budget: int) -> Chosen:
    """Use what the search left of the budget: first single layers, then exchanges between two.

    Exchanges are many, so they are tried only while the cost is further below the budget than the tolerance; one that
    ends within it may lose a little energy, because the user asked for this cost.
    """
    chosen = tuple(start)
    while (better := _best_exchange(layers, chosen, budget, 1)) is not None:
        chosen = better
    while budget - total_cost(layers, chosen) > TOLERANCE * budget:
        closer = _best_exchange(layers, chosen, budget, 2)
        if closer is None:
            break
        chosen = closer
    return chosen


def _best_exchange(layers: Sequence[LayerChoices], chosen: Chosen, budget: int, size: int) -> Chosen | None:
    """The change of ``size`` layers that gains most energy within the budget, None where none helps."""
    slack = budget - total_cost(layers, chosen)
    moves = [_moves(layer, i) for layer, i in zip(layers, chosen, strict=True)]
    best: tuple[float, Chosen] | None = None
    for which in itertools.combinations(range(len(layers)), size):
        for combined in itertools.product(*(moves[i] for i in which)):
            extra = sum(cost for _, cost, _ in combined)
            gain = sum(energy for _, _, energy in combined)
            reaches = extra > 0 and slack - extra <= TOLERANCE * budget
            if extra > slack or not (reaches or (gain > 1e-12 and extra > 0)) or (best and gain <= best[0]):
                continue
            changed = dict(zip(which, (index for index, _, _ in combined), strict=True))
            best = gain, tuple(changed.get(i, index) for i, index in enumerate(chosen))
    return best and best[1]


def _moves(layer: LayerChoices, here: int) -> list[tuple[int, int, float]]:
    """(new index, extra MACs, gained log-energy) of the changes of one layer that the exchange considers."""
    near = {*range(max(0, here - _REACH), min(len(layer.costs), here + _REACH + 1)), len(layer.costs) - 1} - {here}
    cost, energy = layer.costs, layer.log_energies
    return [(i, int(cost[i] - cost[here]), float(energy[i] - energy[here])) for i in sorted(near)]
