"""Properties of the searches that choose ranks under a budget, against brute force."""

import itertools
import re
from collections.abc import Sequence

import numpy as np
import pytest
from choices_for_tests import ALONE, Decays, Kinds, energies_of, layer, layers_of, shares_of, some_layers, square
from hypothesis import given, settings
from hypothesis import strategies as st

from onnx_lowrank.errors import TargetError
from onnx_lowrank.factorise.forms.channel import CHANNEL
from onnx_lowrank.factorise.forms.conv_shape import ConvShape
from onnx_lowrank.factorise.forms.rank_multiple import RankMultiple
from onnx_lowrank.factorise.forms.table import FORMS
from onnx_lowrank.plan.allocate import (
    GRID,
    SEARCHES,
    TOLERANCE,
    allocate,
    exact_steps,
    fill,
    greedy_steps,
    total_cost,
    total_energy,
)
from onnx_lowrank.plan.pareto import LayerChoices, pareto_front


def allocated(search: str, layers: Sequence[LayerChoices], budget: int) -> tuple[int, ...]:
    """What a search chooses for a budget, after the rest of the budget is used up."""
    return fill(layers, SEARCHES[search](layers, budget), budget)


@pytest.mark.parametrize("search", SEARCHES)
@given(layers=some_layers, speedup=st.floats(1, 8), others=st.integers(0, 20_000))
@settings(max_examples=60, deadline=None)
def test_a_plan_meets_its_budget_or_says_what_can_be_reached(
    search: str, layers: list[LayerChoices], speedup: float, others: int
) -> None:
    before = others + sum(x.untouched for x in layers)
    lowest = others + sum(int(x.costs[0]) for x in layers)
    try:
        chosen = allocate(layers, others, speedup, search)
    except TargetError as error:
        reach = re.search(r"this model gets (\d+\.\d\d);", str(error))
        assert reach and float(reach[1]) <= before / lowest < speedup + 0.01
        allocate(layers, others, max(1.0, float(reach[1])), search)
    else:
        assert others + total_cost(layers, chosen) <= before / speedup + 1e-6


def test_speedup_one_leaves_everything_alone() -> None:
    layers = [layer(square(4, 8, 8, 3), 0.5), layer(square(4, 16, 8, 3), 0.9)]
    for search in SEARCHES:
        chosen = allocate(layers, 100, 1.0, search)
        assert [x.choice(i) for x, i in zip(layers, chosen, strict=True)] == [(None, ())] * 2


@pytest.mark.parametrize("kinds", [FORMS.kinds, *ALONE], ids=["auto", *(kind.name for (kind,) in ALONE)])
def test_the_cost_is_within_the_tolerance_where_ranks_are_fine_enough(kinds: Kinds) -> None:
    layers = [layer(square(14, 64, 50 + 5 * i, 3), 0.8 + 0.02 * i, kinds) for i in range(6)]
    before = sum(x.untouched for x in layers)
    for search, speedup in itertools.product(SEARCHES, (2.0, 3.0, 4.0, 5.0, 8.0)):
        cost = total_cost(layers, allocate(layers, 0, speedup, search))
        assert (1 - TOLERANCE) * before / speedup - 1 <= cost <= before / speedup


@given(
    layers=st.one_of(
        layers_of(FORMS.kinds, most=6, up_to=3),
        layers_of(FORMS.kinds, most=8, up_to=3, multiple=2),
        layers_of(FORMS.kinds, most=12, up_to=3, multiple=4),
    ),
    share=st.floats(0.1, 0.95),
)
@settings(max_examples=60, deadline=None)
def test_exact_equals_brute_force_and_no_other_is_ahead(layers: list[LayerChoices], share: float) -> None:
    floor = sum(int(x.costs[0]) for x in layers)
    budget = floor + int(share * (sum(x.untouched for x in layers) - floor))
    every = itertools.product(*(range(len(x.costs)) for x in layers))
    best = max(total_energy(layers, c) for c in every if total_cost(layers, c) <= budget)
    # The budget goes to the search as it is: a speedup can round it down by one MAC, which moves the tolerance.
    exact = allocated("exact", layers, budget)
    reached = total_energy(layers, exact)
    # Rounding a cost up to the grid can hide the best choice where it fills the budget to within that rounding.
    tighter = budget - (budget - floor) * len(layers) / GRID
    every = itertools.product(*(range(len(x.costs)) for x in layers))
    least = max(total_energy(layers, c) for c in every if total_cost(layers, c) <= tighter)
    within_tolerance = budget - total_cost(layers, exact) <= TOLERANCE * budget
    assert reached <= best + 1e-9
    # What is short of the tolerance gives up energy to come closer to the budget.
    assert reached >= least - 1e-9 or within_tolerance
    for search in SEARCHES:
        assert total_energy(layers, allocated(search, layers, budget)) <= best + 1e-9


def small_shape(d: int, c: int, kernel: tuple[int, int], size: int, stride: int) -> ConvShape:
    return ConvShape(d, c, kernel, (size, size + 1), (-(-size // stride), -(-(size + 1) // stride)))


SMALL_SHAPES = st.builds(
    small_shape,
    st.integers(2, 4),
    st.integers(2, 4),
    st.sampled_from([(3, 3), (2, 3), (1, 3), (1, 1)]),
    st.sampled_from([4, 7]),
    st.sampled_from([1, 2]),
)


@given(
    shapes=st.lists(SMALL_SHAPES, min_size=1, max_size=3),
    spectra=st.lists(st.builds(Decays.independent, st.floats(0.2, 0.95), st.floats(0.2, 0.95)), min_size=3, max_size=3),
    share=st.floats(0.1, 0.95),
    multiple=st.integers(1, 3),
)
@settings(max_examples=100, deadline=None)
def test_exact_is_the_best_of_all_forms_at_all_ranks_and_of_leaving_layers_alone(
    shapes: list[ConvShape], spectra: list[Decays], share: float, multiple: int
) -> None:
    layers, everything = [], []
    for shape, decays in zip(shapes, spectra, strict=False):
        layers.append(pareto_front("conv", shape, energies_of(FORMS.kinds, shape, decays), RankMultiple(multiple)))
        # Written out from the definitions, without the front that the planner searches: (cost, log-energy).
        points = [(shape.macs, 0.0)]
        for kind in FORMS:
            shares = shares_of(kind, shape, decays)
            step = kind.rank_step(shape, multiple)
            sides = [[r for r in range(1, len(own) + 1) if r % step == 0] for own in shares]
            for ranks in itertools.product(*sides) if kind.takes(shape) else ():
                energy = sum(float(own[r - 1]) for own, r in zip(shares, ranks, strict=True))
                points.append((kind.cost(shape, ranks), energy))
        everything.append(np.array(points).T)

    def brute_force(budget: float) -> float:
        cost, energy = np.zeros(1), np.zeros(1)
        for own_cost, own_energy in everything:
            cost = np.add.outer(cost, own_cost).ravel()
            energy = np.add.outer(energy, own_energy).ravel()
        return float(energy[cost <= budget].max())

    floor = sum(int(x.costs[0]) for x in layers)
    budget = floor + int(share * (sum(x.untouched for x in layers) - floor))
    chosen = exact_steps(layers, budget)
    assert total_cost(layers, chosen) <= budget
    # As above, rounding a cost up to the grid can hide what fills the budget to within that rounding.
    tighter = budget - (budget - floor) * len(layers) / GRID
    assert brute_force(tighter) - 1e-9 <= total_energy(layers, chosen) <= brute_force(budget) + 1e-9


@given(layers=layers_of((CHANNEL,), most=24, up_to=6), share=st.floats(0.1, 0.9))
@settings(max_examples=40, deadline=None)
def test_greedy_is_exact_at_the_cost_where_it_stops(layers: list[LayerChoices], share: float) -> None:
    budget = int(share * sum(x.untouched for x in layers))
    floor = sum(int(x.costs[0]) for x in layers)
    if budget < floor:
        return
    # A step of the greedy search ends on the convex hull, where nothing cheaper holds as much energy.
    hull_cost = total_cost(layers, greedy_steps(layers, budget))
    best = total_energy(layers, exact_steps(layers, hull_cost))
    assert total_energy(layers, greedy_steps(layers, budget)) >= best - 1e-9


def test_greedy_spares_the_layer_that_loses_most() -> None:
    flat, steep = layer(square(10, 32, 32, 3), 0.99), layer(square(10, 32, 32, 3), 0.6)
    chosen = allocated("greedy", [flat, steep], (flat.untouched + steep.untouched) // 2)
    assert flat.costs[chosen[0]] > steep.costs[chosen[1]]
