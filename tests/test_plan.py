"""Properties of costs, energies, rank selection and saved plans."""

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from forms_for_tests import every_kind
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from onnx_lowrank.errors import DataError, TargetError
from onnx_lowrank.factorise.energy import log_shares, spectrum
from onnx_lowrank.factorise.forms.channel import CHANNEL
from onnx_lowrank.factorise.forms.conv_shape import ConvShape
from onnx_lowrank.factorise.forms.cp import CP
from onnx_lowrank.factorise.forms.kind import Energies, FormKind
from onnx_lowrank.factorise.forms.spatial import SPATIAL
from onnx_lowrank.factorise.forms.table import FORMS
from onnx_lowrank.factorise.forms.three_d import THREE_D
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
from onnx_lowrank.plan.cost import lowest_macs
from onnx_lowrank.plan.pareto import LayerChoices, pareto_front
from onnx_lowrank.plan.plan import Plan, SitePlan

Array = NDArray[Any]
Kinds = tuple[FormKind, ...]

ALONE: list[Kinds] = [(kind,) for kind in FORMS]
"""Every kind of form, the only one that is allowed."""


@dataclass(frozen=True)
class Decays:
    """How fast the spectra of energies fall: by d', by d'', and by the ranks of other forms."""

    responses: float
    columns: float
    others: float

    @classmethod
    def related(cls, decay: float) -> "Decays":
        return cls(decay, 0.5 + decay / 2, 0.7 + 0.3 * decay)

    @classmethod
    def independent(cls, responses: float, columns: float) -> "Decays":
        """The other forms are now ahead of these and now behind."""
        return cls(responses, columns, (responses * columns) ** 0.1)

    def of(self, symbol: str) -> float:
        return {"d'": self.responses, "d''": self.columns}.get(symbol, self.others)


def shares_of(kind: FormKind, shape: ConvShape, decays: Decays) -> list[Array]:
    """Log-energies by every rank of a kind."""
    return [
        log_shares(decays.of(symbol) ** np.arange(highest))
        for symbol, highest in zip(kind.rank_names, kind.highest_ranks(shape), strict=True)
    ]


def energies_of(kinds: Sequence[FormKind], shape: ConvShape, decays: Decays) -> dict[FormKind, Energies]:
    """Energies of some kinds; those of several ranks add up."""

    def energies(kind: FormKind) -> Energies:
        shares = shares_of(kind, shape, decays)
        return lambda ranks: np.asarray(sum(share[ranks[:, i] - 1] for i, share in enumerate(shares)))

    return {kind: energies(kind) for kind in kinds}


def square(size: int, d: int, c: int, k: int) -> ConvShape:
    """A k×k convolution of images size×size, which keeps their size."""
    return ConvShape(d, c, (k, k), (size, size), (size, size))


def layer(shape: ConvShape, decay: float, kinds: Kinds = FORMS.kinds, multiple: int = 1) -> LayerChoices:
    return pareto_front("conv", shape, energies_of(kinds, shape, Decays.related(decay)), multiple)


def layers_of(kinds: Kinds, most: int = 16, up_to: int = 5, multiple: int = 1) -> st.SearchStrategy[list[LayerChoices]]:
    sizes = st.integers(2, most)
    shape = st.builds(square, st.sampled_from([4, 7, 14]), sizes, sizes, st.sampled_from([1, 3]))
    one = st.builds(layer, shape, st.floats(0.3, 0.99), st.just(kinds), st.just(multiple))
    return st.lists(one, min_size=1, max_size=up_to)


some_layers = st.one_of(
    layers_of(FORMS.kinds),
    layers_of((CHANNEL,)),
    layers_of((SPATIAL, THREE_D)),
    layers_of((SPATIAL, CP)),
    layers_of(FORMS.kinds, multiple=2),
    layers_of(FORMS.kinds, most=40, multiple=8),
)


def allocated(search: str, layers: Sequence[LayerChoices], budget: int) -> tuple[int, ...]:
    """What a search chooses for a budget, after the rest of the budget is used up."""
    return fill(layers, SEARCHES[search](layers, budget), budget)


# ---- costs and energies

COUNTED: list[tuple[ConvShape, dict[FormKind, dict[tuple[int, ...], int]]]] = [
    (
        ConvShape(64, 32, (3, 5), (20, 24), (10, 12)),
        {
            CHANNEL: {(10,): 10 * 32 * 15 * (10 * 12) + 64 * 10 * (10 * 12)},
            SPATIAL: {(10,): 10 * 32 * 3 * (10 * 24) + 64 * 10 * 5 * (10 * 12)},
            THREE_D: {(10, 7): 10 * 32 * 3 * (10 * 24) + 7 * 10 * 5 * (10 * 12) + 64 * 7 * (10 * 12)},
            CP: {(10,): 10 * 32 * (20 * 24) + 10 * 15 * (10 * 12) + 64 * 10 * (10 * 12)},
        },
    ),
    (
        ConvShape(6, 4, (1, 3, 2), (5, 9, 8), (5, 4, 7), group=3),
        {
            CHANNEL: {(2,): 3 * (2 * 4 * 6 * (5 * 4 * 7) + 6 * 2 * (5 * 4 * 7))},
            SPATIAL: {(2,): 3 * (2 * 4 * 3 * (5 * 4 * 8) + 6 * 2 * 2 * (5 * 4 * 7))},
            THREE_D: {(2, 5): 3 * (2 * 4 * 3 * (5 * 4 * 8) + 5 * 2 * 2 * (5 * 4 * 7) + 6 * 5 * (5 * 4 * 7))},
            CP: {(2,): 3 * (2 * 4 * (5 * 9 * 8) + 2 * 6 * (5 * 4 * 7) + 6 * 2 * (5 * 4 * 7))},
        },
    ),
    (ConvShape(8, 6, (3,), (40,), (20,)), {CHANNEL: {(5,): 5 * 6 * 3 * 20 + 8 * 5 * 20}}),
    (ConvShape(8, 6, (), (), ()), {CHANNEL: {(5,): 5 * 6 + 8 * 5}}),
]


@pytest.mark.parametrize(("shape", "counted"), COUNTED, ids=["2-D", "3-D grouped", "1-D", "fully connected"])
def test_costs_count_every_convolution_of_a_form(
    shape: ConvShape, counted: dict[FormKind, dict[tuple[int, ...], int]]
) -> None:
    for kind, costs in counted.items():
        for ranks, cost in costs.items():
            assert kind.cost(shape, ranks) == cost
            np.testing.assert_array_equal(kind.macs(shape, np.array([ranks, ranks])), [cost, cost])


def test_the_untouched_layer_costs_what_its_kernel_does_at_every_position() -> None:
    assert ConvShape(64, 32, (3, 5), (20, 24), (10, 12)).macs == 64 * 32 * 15 * (10 * 12)
    assert ConvShape(6, 4, (1, 3, 2), (5, 9, 8), (5, 4, 7), group=3).macs == 3 * 6 * 4 * 6 * (5 * 4 * 7)


def test_energies_rise_to_one_and_a_dead_layer_loses_nothing() -> None:
    rng = np.random.default_rng(0)
    values = spectrum(rng.standard_normal((500, 6)).astype(np.float32) * np.arange(1, 7, dtype=np.float32))
    assert (np.diff(values) <= 0).all()
    shares = log_shares(values)
    assert (np.diff(shares) >= 0).all() and shares[-1] == pytest.approx(0, abs=1e-12)
    assert (log_shares(np.zeros(4)) == 0).all()


@given(some_layers)
@settings(max_examples=40, deadline=None)
def test_choices_rise_in_cost_and_energy_and_end_with_leaving_the_layer_alone(layers: list[LayerChoices]) -> None:
    for x in layers:
        assert (np.diff(x.costs) > 0).all() and (np.diff(x.log_energies) > 0).all()
        assert x.choice(len(x.costs) - 1) == (None, ()) and x.log_energies[-1] == 0


@pytest.mark.parametrize("multiple", [1, 2, 5])
def test_every_choice_costs_what_its_form_costs_and_keeps_what_its_ranks_keep(multiple: int) -> None:
    shape = ConvShape(12, 9, (3, 3), (10, 8), (10, 5))
    x = layer(shape, 0.7, multiple=multiple)
    for i, (cost, kept) in enumerate(zip(x.costs, x.log_energies, strict=True)):
        form, ranks = x.choice(i)
        if form is None:
            assert (cost, kept) == (shape.macs, 0)
            continue
        assert FORMS[form].cost(shape, ranks) == cost
        shares = shares_of(FORMS[form], shape, Decays.related(0.7))
        assert kept == sum(share[rank - 1] for share, rank in zip(shares, ranks, strict=True))


@given(
    d=st.integers(1, 40),
    c=st.integers(1, 40),
    k=st.sampled_from([1, 3]),
    kinds=st.sets(st.sampled_from(FORMS.kinds), min_size=1),
    multiple=st.integers(1, 16),
)
@settings(max_examples=100, deadline=None)
def test_ranks_are_multiples_and_the_front_is_that_of_all_choices_with_such_ranks(
    d: int, c: int, k: int, kinds: set[FormKind], multiple: int
) -> None:
    allowed = tuple(kind for kind in FORMS if kind in kinds)
    x = layer(square(7, d, c, k), 0.8, allowed, multiple)
    every = layer(square(7, d, c, k), 0.8, allowed)
    for i in range(len(x.costs)):
        assert all(rank % multiple == 0 for rank in x.choice(i)[1])
    # A choice of the unrestricted front whose ranks happen to be such multiples is on the restricted one as well.
    mine = {x.choice(i) for i in range(len(x.costs))}
    for i in range(len(every.costs)):
        form, ranks = every.choice(i)
        assert (form, ranks) in mine or any(rank % multiple for rank in ranks)


# ---- selection


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


@pytest.mark.parametrize("kinds", [FORMS.kinds, *ALONE], ids=["auto", *FORMS.names])
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
    exact = allocate(layers, 0, sum(x.untouched for x in layers) / budget, "exact")
    reached = total_energy(layers, exact)
    # Rounding a cost up to the grid can hide the best choice where it fills the budget to within that rounding.
    tighter = budget - (budget - floor) * len(layers) / GRID
    every = itertools.product(*(range(len(x.costs)) for x in layers))
    least = max(total_energy(layers, c) for c in every if total_cost(layers, c) <= tighter)
    within_tolerance = total_cost(layers, exact) >= (1 - TOLERANCE) * budget
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
        layers.append(pareto_front("conv", shape, energies_of(FORMS.kinds, shape, decays), multiple))
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


@pytest.mark.parametrize(
    "shape",
    [
        ConvShape(7, 5, (3, 2), (10, 12), (5, 8)),
        ConvShape(8, 9, (1, 3), (3, 3), (3, 3)),
        ConvShape(4, 4, (1, 1), (3, 3), (3, 3)),
    ],
)
@pytest.mark.parametrize("kinds", [FORMS.kinds, *ALONE], ids=["auto", *FORMS.names])
@pytest.mark.parametrize("multiple", [1, 2, 3, 4, 8, 100])
def test_the_lowest_cost_is_that_of_the_cheapest_choice(shape: ConvShape, kinds: Kinds, multiple: int) -> None:
    assert lowest_macs(shape, kinds, multiple) == layer(shape, 0.7, kinds, multiple).costs[0]


@pytest.mark.parametrize(("multiple", "step"), [(1, 8), (8, 8), (12, 24)])
def test_ranks_of_the_cp_form_fill_blocks_of_channels(multiple: int, step: int) -> None:
    shape, small = square(7, 32, 16, 3), square(7, 32, 15, 3)
    assert (CP.rank_step(shape, multiple), SPATIAL.rank_step(shape, multiple)) == (step, multiple)
    assert CP.rank_step(small, multiple) == multiple  # so small a layer would have no choice
    x = layer(shape, 0.8, (CP,), multiple)
    ranks = {x.choice(i)[1][0] for i in range(len(x.costs) - 1)}
    assert ranks and all(rank % step == 0 for rank in ranks)


def test_a_layer_that_cannot_gain_is_left_alone() -> None:
    pointwise = layer(square(10, 8, 2, 1), 0.5)  # both convolutions of rank 2 cost more than the layer
    assert [pointwise.choice(i)[1] for i in range(len(pointwise.costs))] == [(1,), ()]


# ---- saved plans


def test_a_plan_survives_being_saved() -> None:
    plan = Plan((SitePlan("a", "channel", (3,)), SitePlan("b", None)))
    assert Plan.from_json(plan.to_json()) == plan


SQUARE, POINT = square(3, 8, 4, 3), square(3, 8, 4, 1)


def test_a_plan_is_fitted_to_the_sites() -> None:
    plan = Plan((SitePlan("b", "channel", (3,)),))
    assert plan.fitted({"a": SQUARE, "b": SQUARE}).sites == (SitePlan("a", None), SitePlan("b", "channel", (3,)))
    with pytest.raises(DataError, match="'b', which is not a convolution to factorise"):
        plan.fitted({"a": SQUARE})
    with pytest.raises(DataError, match="the form channel for 'b', which is skipped: excluded by --exclude"):
        plan.fitted({"a": SQUARE}, {"b": "excluded by --exclude"})
    assert Plan((SitePlan("b", None),)).fitted({"a": SQUARE}, {"b": "excluded"}).sites == (SitePlan("a", None),)


@every_kind
def test_a_plan_takes_ranks_up_to_the_highest(kind: FormKind) -> None:
    highest = kind.highest_ranks(SQUARE)
    plan = Plan((SitePlan("b", kind.name, highest),))
    assert plan.fitted({"b": SQUARE}) == plan
    for i, (symbol, rank) in enumerate(zip(kind.rank_names, highest, strict=True)):
        ranks = tuple(r + (i == j) for j, r in enumerate(highest))
        with pytest.raises(DataError, match=f"{symbol} = {rank + 1} for 'b'; it can be {rank} at most"):
            Plan((SitePlan("b", kind.name, ranks),)).fitted({"b": SQUARE})
    with pytest.raises(DataError, match=f"the form {kind.name} takes {', '.join(kind.rank_names)}"):
        Plan((SitePlan("b", kind.name, (*highest, 1)),)).fitted({"b": SQUARE})


def test_a_plan_with_a_form_that_a_layer_cannot_have_is_refused() -> None:
    with pytest.raises(DataError, match=r"the form spatial for 'b': it needs .*; the kernel is 1×1"):
        Plan((SitePlan("b", "spatial", (3,)),)).fitted({"b": POINT})
    with pytest.raises(DataError, match='form "butterfly" for \'b\'; use one of "channel", '):
        Plan((SitePlan("b", "butterfly", (3,)),)).fitted({"b": SQUARE})


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
