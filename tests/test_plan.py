"""Properties of costs, energies, rank selection and saved plans."""

import itertools
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnx_lowrank.errors import DataError, TargetError
from onnx_lowrank.factorise.forms.conv_shape import ConvShape
from onnx_lowrank.plan.allocate import (
    ALLOCATIONS,
    GRID,
    TOLERANCE,
    allocate,
    exact_steps,
    greedy_steps,
    total_cost,
    total_energy,
)
from onnx_lowrank.plan.energy import log_energies, spectrum
from onnx_lowrank.plan.pareto import FORMS, LayerChoices, pareto_front
from onnx_lowrank.plan.plan import Plan, SitePlan


def layer(
    name: str, d: int, c: int, k: int, positions: int, decay: float, forms: tuple[str, ...] = FORMS, multiple: int = 1
) -> LayerChoices:
    shape = ConvShape(d, c, (k, k), positions, positions, positions)
    columns = log_energies((0.5 + decay / 2) ** np.arange(shape.most_columns))
    polyadic = log_energies((0.7 + 0.3 * decay) ** np.arange(shape.highest_ranks("cp")[0]))
    channel = log_energies(decay ** np.arange(d))
    return pareto_front(name, shape, channel, columns, forms, multiple, polyadic=polyadic)


def layers_of(
    forms: tuple[str, ...], most: int = 16, up_to: int = 5, multiple: int = 1
) -> st.SearchStrategy[list[LayerChoices]]:
    one = st.builds(
        layer,
        st.just("conv"),
        st.integers(2, most),
        st.integers(2, most),
        st.sampled_from([1, 3]),
        st.sampled_from([16, 49, 196]),
        st.floats(0.3, 0.99),
        st.just(forms),
        st.just(multiple),
    )
    return st.lists(one, min_size=1, max_size=up_to)


some_layers = st.one_of(
    layers_of(FORMS),
    layers_of(("channel",)),
    layers_of(("spatial", "3d")),
    layers_of(("spatial", "cp")),
    layers_of(FORMS, multiple=2),
    layers_of(FORMS, most=40, multiple=8),
)


# ---- costs and energies


def test_costs_count_every_convolution_of_a_form() -> None:
    shape = ConvShape(64, 32, (3, 5), 100, 110, 120)
    assert shape.macs == shape.cost(None, ()) == 64 * 32 * 15 * 100
    assert shape.cost("channel", (10,)) == 10 * 32 * 15 * 100 + 64 * 10 * 100
    assert shape.cost("spatial", (10,)) == 10 * 32 * 3 * 110 + 64 * 10 * 5 * 100
    assert shape.cost("3d", (10, 7)) == 10 * 32 * 3 * 110 + 7 * 10 * 5 * 100 + 64 * 7 * 100
    assert shape.cost("cp", (10,)) == 10 * 32 * 120 + 10 * 15 * 100 + 64 * 10 * 100


def test_energies_rise_to_one_and_a_dead_layer_loses_nothing() -> None:
    rng = np.random.default_rng(0)
    values = spectrum(rng.standard_normal((500, 6)).astype(np.float32) * np.arange(1, 7, dtype=np.float32))
    assert (np.diff(values) <= 0).all()
    energies = log_energies(values)
    assert (np.diff(energies) >= 0).all() and energies[-1] == pytest.approx(0, abs=1e-12)
    assert (log_energies(np.zeros(4)) == 0).all()


@given(some_layers)
@settings(max_examples=40, deadline=None)
def test_choices_rise_in_cost_and_energy_and_end_with_leaving_the_layer_alone(layers: list[LayerChoices]) -> None:
    for x in layers:
        assert (np.diff(x.costs) > 0).all() and (np.diff(x.log_energies) > 0).all()
        assert x.choice(len(x.costs) - 1) == (None, ()) and x.log_energies[-1] == 0


@pytest.mark.parametrize("multiple", [1, 2, 5])
def test_every_choice_costs_what_its_form_costs_and_keeps_what_its_ranks_keep(multiple: int) -> None:
    shape = ConvShape(12, 9, (3, 3), 50, 60, 70)
    channel, columns = log_energies(0.7 ** np.arange(12)), log_energies(0.8 ** np.arange(27))
    polyadic = log_energies(0.9 ** np.arange(81))
    x = pareto_front("a", shape, channel, columns, FORMS, multiple, polyadic=polyadic)
    for i, (cost, kept) in enumerate(zip(x.costs, x.log_energies, strict=True)):
        form, ranks = x.choice(i)
        assert shape.cost(form, ranks) == cost
        three = (columns, channel)
        cuts = {"channel": (channel,), "spatial": (columns,), "3d": three, "cp": (polyadic,), None: ()}[form]
        assert kept == sum(energy[rank - 1] for energy, rank in zip(cuts, ranks, strict=True))


@given(
    d=st.integers(1, 40),
    c=st.integers(1, 40),
    k=st.sampled_from([1, 3]),
    forms=st.sets(st.sampled_from(FORMS), min_size=1),
    multiple=st.integers(1, 16),
)
@settings(max_examples=100, deadline=None)
def test_ranks_are_multiples_and_the_front_is_that_of_all_choices_with_such_ranks(
    d: int, c: int, k: int, forms: set[str], multiple: int
) -> None:
    allowed = tuple(form for form in FORMS if form in forms)
    x = layer("a", d, c, k, 49, 0.8, allowed, multiple)
    every = layer("a", d, c, k, 49, 0.8, allowed)
    for i in range(len(x.costs)):
        assert all(rank % multiple == 0 for rank in x.choice(i)[1])
    # A choice of the unrestricted front whose ranks happen to be such multiples is on the restricted one, too.
    mine = {x.choice(i) for i in range(len(x.costs))}
    for i in range(len(every.costs)):
        form, ranks = every.choice(i)
        assert (form, ranks) in mine or any(rank % multiple for rank in ranks)


# ---- selection


@pytest.mark.parametrize("how", ALLOCATIONS)
@given(layers=some_layers, speedup=st.floats(1, 8), others=st.integers(0, 20_000))
@settings(max_examples=60, deadline=None)
def test_a_plan_meets_its_budget_or_says_what_can_be_reached(
    how: str, layers: list[LayerChoices], speedup: float, others: int
) -> None:
    before = others + sum(x.untouched for x in layers)
    lowest = others + sum(int(x.costs[0]) for x in layers)
    try:
        chosen = allocate(layers, others, speedup, how)
    except TargetError as error:
        said = re.search(r"this model gets (\d+\.\d\d);", str(error))
        assert said and float(said[1]) <= before / lowest < speedup + 0.01
        allocate(layers, others, max(1.0, float(said[1])), how)
    else:
        assert others + total_cost(layers, chosen) <= before / speedup + 1e-6


def test_speedup_one_leaves_everything_alone() -> None:
    layers = [layer("a", 8, 8, 3, 16, 0.5), layer("b", 16, 8, 3, 16, 0.9)]
    for how in ALLOCATIONS:
        chosen = allocate(layers, 100, 1.0, how)
        assert [x.choice(i) for x, i in zip(layers, chosen, strict=True)] == [(None, ())] * 2


@pytest.mark.parametrize("forms", [FORMS, ("channel",), ("spatial",), ("3d",), ("cp",)])
def test_the_cost_is_within_the_tolerance_where_ranks_are_fine_enough(forms: tuple[str, ...]) -> None:
    layers = [layer(str(i), 64, 50 + 5 * i, 3, 196, 0.8 + 0.02 * i, forms) for i in range(6)]
    before = sum(x.untouched for x in layers)
    for how, speedup in itertools.product(ALLOCATIONS, (2.0, 3.0, 4.0, 5.0, 8.0)):
        cost = total_cost(layers, allocate(layers, 0, speedup, how))
        assert (1 - TOLERANCE) * before / speedup - 1 <= cost <= before / speedup


@given(
    layers=st.one_of(
        layers_of(FORMS, most=6, up_to=3),
        layers_of(FORMS, most=8, up_to=3, multiple=2),
        layers_of(FORMS, most=12, up_to=3, multiple=4),
    ),
    share=st.floats(0.1, 0.95),
)
@settings(max_examples=60, deadline=None)
def test_exact_equals_brute_force_and_no_other_is_ahead(layers: list[LayerChoices], share: float) -> None:
    floor = sum(int(x.costs[0]) for x in layers)
    budget = floor + int(share * (sum(x.untouched for x in layers) - floor))
    every = itertools.product(*(range(len(x.costs)) for x in layers))
    best = max(total_energy(layers, c) for c in every if total_cost(layers, c) <= budget)
    exact = allocate(layers, 0, sum(x.untouched for x in layers) / budget, "exact")
    found = total_energy(layers, exact)
    # Rounding a cost up to the grid can hide the best choice where it fills the budget to within that rounding.
    tighter = budget - (budget - floor) * len(layers) / GRID
    every = itertools.product(*(range(len(x.costs)) for x in layers))
    least = max(total_energy(layers, c) for c in every if total_cost(layers, c) <= tighter)
    reached_budget = total_cost(layers, exact) >= (1 - TOLERANCE) * budget
    assert found <= best + 1e-9
    # What is short of the tolerance gives up energy to come closer to the budget.
    assert found >= least - 1e-9 or reached_budget
    for how in ("greedy", "uniform"):
        assert total_energy(layers, ALLOCATIONS[how](layers, budget)) <= best + 1e-9


SMALL_SHAPES = st.builds(
    ConvShape,
    st.integers(2, 4),
    st.integers(2, 4),
    st.sampled_from([(3, 3), (2, 3), (1, 3), (1, 1)]),
    st.sampled_from([16, 49]),
    st.sampled_from([16, 60]),
    st.sampled_from([16, 70]),
)


@given(
    shapes=st.lists(SMALL_SHAPES, min_size=1, max_size=3),
    decays=st.lists(st.tuples(st.floats(0.2, 0.95), st.floats(0.2, 0.95)), min_size=3, max_size=3),
    share=st.floats(0.1, 0.95),
    multiple=st.integers(1, 3),
)
@settings(max_examples=100, deadline=None)
def test_exact_is_the_best_of_all_forms_at_all_ranks_and_of_leaving_layers_alone(
    shapes: list[ConvShape], decays: list[tuple[float, float]], share: float, multiple: int
) -> None:
    layers, everything = [], []
    for shape, (decay, column_decay) in zip(shapes, decays, strict=False):
        channel = log_energies(decay ** np.arange(shape.filters))
        columns = log_energies(column_decay ** np.arange(shape.most_columns))
        # The CP form's energy is made of the others' decays, so that it is now ahead of them and now behind.
        polyadic = log_energies((decay * column_decay) ** (0.1 * np.arange(shape.highest_ranks("cp")[0])))
        layers.append(pareto_front("conv", shape, channel, columns, FORMS, multiple, polyadic=polyadic))
        # Written out from the definitions, without the front that the planner searches: (cost, log-energy).
        rank, column = (
            [r for r in range(1, highest + 1) if r % multiple == 0] for highest in (shape.filters, shape.most_columns)
        )
        points = [(shape.macs, 0.0)] + [(shape.cost("channel", (r,)), channel[r - 1]) for r in rank]
        if min(shape.kernel) > 1:
            points += [(shape.cost("spatial", (s,)), columns[s - 1]) for s in column]
            pairs = itertools.product(column, rank)
            points += [(shape.cost("3d", (s, r)), columns[s - 1] + channel[r - 1]) for s, r in pairs]
        if shape.takes("cp"):
            own = [r for r in range(1, len(polyadic) + 1) if r % shape.step("cp", multiple) == 0]
            points += [(shape.cost("cp", (r,)), polyadic[r - 1]) for r in own]
        everything.append(np.array(points).T)

    def brute_force(budget: float) -> float:
        cost, energy = np.zeros(1), np.zeros(1)
        for own_cost, own_energy in everything:
            cost = np.add.outer(cost, own_cost).ravel()
            energy = np.add.outer(energy, own_energy).ravel()
        return float(energy[cost <= budget].max())

    floor = sum(int(x.costs[0]) for x in layers)
    budget = floor + int(share * (sum(x.untouched for x in layers) - floor))
    found = exact_steps(layers, budget)
    assert total_cost(layers, found) <= budget
    # As above, rounding a cost up to the grid can hide what fills the budget to within that rounding.
    tighter = budget - (budget - floor) * len(layers) / GRID
    assert brute_force(tighter) - 1e-9 <= total_energy(layers, found) <= brute_force(budget) + 1e-9


@given(layers=layers_of(("channel",), most=24, up_to=6), share=st.floats(0.1, 0.9))
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
    flat, steep = layer("flat", 32, 32, 3, 100, 0.99), layer("steep", 32, 32, 3, 100, 0.6)
    chosen = ALLOCATIONS["greedy"]([flat, steep], (flat.untouched + steep.untouched) // 2)
    assert flat.costs[chosen[0]] > steep.costs[chosen[1]]


@pytest.mark.parametrize(
    "shape", [ConvShape(7, 5, (3, 2), 40, 50, 60), ConvShape(8, 9, (1, 3), 9, 9, 9), ConvShape(4, 4, (1, 1), 9, 9, 9)]
)
@pytest.mark.parametrize("forms", [FORMS, ("channel",), ("spatial",), ("3d",), ("cp",)])
@pytest.mark.parametrize("multiple", [1, 2, 3, 4, 8, 100])
def test_the_lowest_cost_is_that_of_the_cheapest_choice(
    shape: ConvShape, forms: tuple[str, ...], multiple: int
) -> None:
    columns = log_energies(0.8 ** np.arange(shape.most_columns))
    polyadic = log_energies(0.9 ** np.arange(shape.highest_ranks("cp")[0]))
    channel = log_energies(0.7 ** np.arange(shape.filters))
    x = pareto_front("a", shape, channel, columns, forms, multiple, polyadic=polyadic)
    assert shape.lowest(forms, multiple) == x.costs[0]


@pytest.mark.parametrize(("multiple", "step"), [(1, 8), (8, 8), (12, 24)])
def test_ranks_of_the_cp_form_fill_blocks_of_channels(multiple: int, step: int) -> None:
    shape, small = ConvShape(32, 16, (3, 3), 9, 9, 9), ConvShape(32, 15, (3, 3), 9, 9, 9)
    assert (shape.step("cp", multiple), shape.step("spatial", multiple)) == (step, multiple)
    assert small.step("cp", multiple) == multiple  # so small a layer would have no choice
    x = layer("a", 32, 16, 3, 49, 0.8, ("cp",), multiple)
    ranks = {x.choice(i)[1][0] for i in range(len(x.costs) - 1)}
    assert ranks and all(rank % step == 0 for rank in ranks)


def test_a_layer_that_cannot_gain_is_left_alone() -> None:
    square = layer("1x1", 8, 2, 1, 100, 0.5)  # both convolutions of rank 2 cost more than the layer
    assert [square.choice(i)[1] for i in range(len(square.costs))] == [(1,), ()]


# ---- saved plans


def test_a_plan_survives_being_saved() -> None:
    plan = Plan((SitePlan("a", "channel", (3,)), SitePlan("b", None)))
    assert Plan.from_json(plan.to_json()) == plan


def test_a_plan_is_fitted_to_the_sites() -> None:
    plan = Plan((SitePlan("b", "channel", (3,)),))
    square, point = ConvShape(8, 4, (3, 3), 9, 9, 9), ConvShape(8, 4, (1, 1), 9, 9, 9)
    assert plan.fitted({"a": square, "b": square}).sites == (SitePlan("a", None), SitePlan("b", "channel", (3,)))
    with pytest.raises(DataError, match="no convolution to factorise"):
        plan.fitted({"a": square})
    with pytest.raises(DataError, match="the plan asks 'b' for the form channel; skipped: excluded by --exclude"):
        plan.fitted({"a": square}, {"b": "excluded by --exclude"})
    assert Plan((SitePlan("b", None),)).fitted({"a": square}, {"b": "excluded"}).sites == (SitePlan("a", None),)
    with pytest.raises(DataError, match="rank 9; it can have 8"):
        Plan((SitePlan("b", "channel", (9,)),)).fitted({"b": square})
    with pytest.raises(DataError, match="rank 13; it can have 12"):
        Plan((SitePlan("b", "3d", (13, 8)),)).fitted({"b": square})
    with pytest.raises(DataError, match="the form spatial"):
        Plan((SitePlan("b", "spatial", (3,)),)).fitted({"b": point})


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("", "not JSON"),
        ("[]", "schema"),
        ('{"schema": 2}', "schema"),
        ('{"schema": 1}', "sites"),
        ('{"schema": 1, "sites": [3]}', "without a name"),
        ('{"schema": 1, "sites": [{"name": "a", "form": "x", "ranks": []}]}', "form"),
        ('{"schema": 1, "sites": [{"name": "a", "form": "channel", "ranks": [0]}]}', "ranks"),
        ('{"schema": 1, "sites": [{"name": "a", "form": "channel", "ranks": [true]}]}', "ranks"),
        ('{"schema": 1, "sites": [{"name": "a", "form": null, "ranks": [1]}]}', "ranks"),
    ],
)
def test_a_bad_plan_is_named(text: str, what: str) -> None:
    with pytest.raises(DataError, match=what) as caught:
        Plan.from_json(text, "plan.json")
    assert "plan.json" in str(caught.value) and "\n" not in str(caught.value)
