"""Rank selection: the ranks of all layers under one budget (§2.5).

Maximise Σ_l log E_l(r_l) subject to Σ_l cost_l(r_l) ≤ budget. Every layer may also be left alone: its own cost,
log E = 0. Two ways:

* ``greedy``, the paper's: from the untouched network, always take the step that loses the least log-energy per MAC
  saved. A step lowers a factorised layer's rank by one, or turns an untouched layer into the factorised one on the
  steepest such line (its highest rank usually saves nothing: both convolutions are paid for).
* ``uniform``: every layer keeps the same share of its cost. For comparison.

Both then use up what is left of the budget by exchanging ranks between layers, so that the result is just below it.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_lowrank.errors import TargetError

Array = NDArray[Any]

TOLERANCE = 0.01
"""The result's cost is at most this share below the budget, wherever some choice of ranks is."""

_REACH = 4
"""Ranks up or down that the exchange looks at, per layer."""


@dataclass(frozen=True)
class Layer:
    """One layer's choices.

    Attributes
    ----------
    name
        Of the site.
    alone
        MACs of the untouched layer.
    costs
        [d], MACs at rank 1..d, ascending.
    log_energies
        [d], at rank 1..d, ascending.
    """

    name: str
    alone: int
    costs: Array
    log_energies: Array

    @property
    def highest(self) -> int:
        """The highest rank that saves anything, 0 where none does."""
        return int(np.searchsorted(self.costs, self.alone))

    def cost(self, rank: int | None) -> int:
        """MACs at a rank, or untouched (None)."""
        return self.alone if rank is None else int(self.costs[rank - 1])

    def log_energy(self, rank: int | None) -> float:
        """log E at a rank; 0 untouched."""
        return 0.0 if rank is None else float(self.log_energies[rank - 1])


Ranks = tuple[int | None, ...]
"""One entry a layer: its rank, or None where it is left alone."""


def total_cost(layers: Sequence[Layer], ranks: Ranks) -> int:
    """MACs of all layers together."""
    return sum(layer.cost(rank) for layer, rank in zip(layers, ranks, strict=True))


def lowest_cost(layers: Sequence[Layer]) -> int:
    """The least that any choice costs: rank 1 wherever that saves."""
    return sum(min(layer.alone, layer.cost(1)) for layer in layers)


def greedy(layers: Sequence[Layer], budget: int) -> Ranks:
    """The paper's greedy search; ``budget`` (MACs) must be at least ``lowest_cost``."""
    ranks: list[int | None] = [None] * len(layers)
    steps = [_next_step(layer, None) for layer in layers]
    cost = total_cost(layers, tuple(ranks))
    while cost > budget:
        slope, i = min((step[0], i) for i, step in enumerate(steps) if step is not None)
        step = steps[i]
        assert step is not None and np.isfinite(slope)
        cost += layers[i].cost(step[1]) - layers[i].cost(ranks[i])
        ranks[i] = step[1]
        steps[i] = _next_step(layers[i], ranks[i])
    return _fill(layers, ranks, budget)


def uniform(layers: Sequence[Layer], budget: int) -> Ranks:
    """The same share of its own cost for every layer; ``budget`` (MACs) must be at least ``lowest_cost``."""

    def at(share: float) -> list[int | None]:
        return [_rank_at(layer, share) for layer in layers]

    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if total_cost(layers, tuple(at(middle))) <= budget else (low, middle)
    return _fill(layers, at(low), budget)


ALLOCATIONS = {"greedy": greedy, "uniform": uniform}


def allocate(layers: Sequence[Layer], others: int, speedup: float, how: str) -> Ranks:
    """Ranks for a speedup of the whole network.

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
        Where even rank 1 everywhere is not enough.
    """
    before = others + sum(layer.alone for layer in layers)
    lowest = lowest_cost(layers)
    budget = int(before / speedup) - others
    if budget < lowest:
        reach = before / (others + lowest)
        raise TargetError(
            f"speedup {speedup:g} is out of reach: at the lowest ranks this model gets {reach:.2f}; "
            "lower --speedup or widen --include"
        )
    return ALLOCATIONS[how](layers, budget)


def _rank_at(layer: Layer, share: float) -> int | None:
    if share >= 1 or layer.highest == 0:
        return None
    return max(1, min(layer.highest, int(np.searchsorted(layer.costs, share * layer.alone, side="right"))))


def _next_step(layer: Layer, rank: int | None) -> tuple[float, int] | None:
    """(log-energy lost per MAC saved, rank) of the layer's next step down, None where there is none."""
    if rank is None:
        if layer.highest == 0:
            return None
        losses = -layer.log_energies[: layer.highest] / (layer.alone - layer.costs[: layer.highest])
        # Of equal slopes (a spectrum that ends early loses nothing for many ranks) the highest rank is the safest.
        best = len(losses) - 1 - int(np.argmin(losses[::-1]))
        return float(losses[best]), best + 1
    if rank == 1:
        return None
    saved = layer.cost(rank) - layer.cost(rank - 1)
    return (layer.log_energy(rank) - layer.log_energy(rank - 1)) / saved, rank - 1


def _fill(layers: Sequence[Layer], start: Sequence[int | None], budget: int) -> Ranks:
    """Use what the search left of the budget: first single layers, then exchanges between two.

    Exchanges are many, so they are tried only while the cost is further below the budget than the tolerance; one that
    ends within it may lose a little energy, because the user asked for this cost.
    """
    ranks = tuple(start)
    while (better := _best_exchange(layers, ranks, budget, 1)) is not None:
        ranks = better
    while budget - total_cost(layers, ranks) > TOLERANCE * budget:
        closer = _best_exchange(layers, ranks, budget, 2)
        if closer is None:
            break
        ranks = closer
    return ranks


def _best_exchange(layers: Sequence[Layer], ranks: Ranks, budget: int, size: int) -> Ranks | None:
    """The change of ``size`` layers that gains most energy within the budget, None where none helps."""
    slack = budget - total_cost(layers, ranks)
    moves = [_moves(layer, rank) for layer, rank in zip(layers, ranks, strict=True)]
    best: tuple[float, Ranks] | None = None
    for chosen in itertools.combinations(range(len(layers)), size):
        for combined in itertools.product(*(moves[i] for i in chosen)):
            extra = sum(cost for _, cost, _ in combined)
            gain = sum(energy for _, _, energy in combined)
            reaches = extra > 0 and slack - extra <= TOLERANCE * budget
            if extra > slack or not (reaches or (gain > 1e-12 and extra > 0)) or (best and gain <= best[0]):
                continue
            changed = dict(zip(chosen, (rank for rank, _, _ in combined), strict=True))
            best = gain, tuple(changed.get(i, rank) for i, rank in enumerate(ranks))
    return best and best[1]


def _moves(layer: Layer, rank: int | None) -> list[tuple[int | None, int, float]]:
    """(new rank, extra MACs, gained log-energy) of the changes of one layer that the exchange considers."""
    highest = layer.highest
    if highest == 0:
        return []
    near = range(max(1, (rank or highest + 1) - _REACH), min(highest, (rank or highest) + _REACH) + 1)
    options: list[int | None] = [r for r in near if r != rank]
    if rank is not None:
        options.append(None)
    here = layer.cost(rank), layer.log_energy(rank)
    return [(r, layer.cost(r) - here[0], layer.log_energy(r) - here[1]) for r in options]
