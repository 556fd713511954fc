"""Properties of costs, energies, rank selection and saved plans."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnx_lowrank.errors import DataError, TargetError
from onnx_lowrank.plan.cost import ConvShape
from onnx_lowrank.plan.energy import log_energies, spectrum
from onnx_lowrank.plan.plan import Plan, SitePlan
from onnx_lowrank.plan.select import ALLOCATIONS, TOLERANCE, Layer, allocate, lowest_cost, total_cost


def layer(name: str, d: int, c: int, k: int, positions: int, decay: float) -> Layer:
    shape = ConvShape(d, c, (k, k), positions)
    return Layer(name, shape.macs, shape.all_channel_macs(), log_energies(decay ** np.arange(d)))


layers_strategy = st.lists(
    st.builds(
        layer,
        st.just("conv"),
        st.integers(2, 24),
        st.integers(2, 24),
        st.sampled_from([1, 3]),
        st.sampled_from([16, 49, 196]),
        st.floats(0.3, 0.99),
    ),
    min_size=1,
    max_size=6,
)


def test_channel_costs_count_both_convolutions() -> None:
    shape = ConvShape(64, 32, (3, 3), 100)
    assert shape.macs == 64 * 32 * 9 * 100
    assert shape.channel_macs(10) == (10 * 32 * 9 + 64 * 10) * 100
    assert shape.all_channel_macs()[9] == shape.channel_macs(10)
    assert ConvShape.from_macs((64, 32, 3, 3), shape.macs) == shape


def test_energies_rise_to_one_and_a_dead_layer_loses_nothing() -> None:
    rng = np.random.default_rng(0)
    values = spectrum(rng.standard_normal((500, 6)).astype(np.float32) * np.arange(1, 7, dtype=np.float32))
    assert (np.diff(values) <= 0).all()
    energies = log_energies(values)
    assert (np.diff(energies) >= 0).all() and energies[-1] == pytest.approx(0, abs=1e-12)
    assert (log_energies(np.zeros(4)) == 0).all()


@pytest.mark.parametrize("how", ALLOCATIONS)
@given(layers=layers_strategy, speedup=st.floats(1, 8), others=st.integers(0, 20_000))
@settings(max_examples=60, deadline=None)
def test_a_plan_meets_its_budget_or_says_what_can_be_reached(
    how: str, layers: list[Layer], speedup: float, others: int
) -> None:
    before = others + sum(x.alone for x in layers)
    try:
        ranks = allocate(layers, others, speedup, how)
    except TargetError as error:
        assert before / (others + lowest_cost(layers)) <= speedup + 0.01
        assert f"{before / (others + lowest_cost(layers)):.2f}" in str(error)
    else:
        assert others + total_cost(layers, ranks) <= before / speedup + 1e-6
        for x, rank in zip(layers, ranks, strict=True):
            assert rank is None or (rank >= 1 and x.cost(rank) < x.alone)


def test_speedup_one_leaves_everything_alone() -> None:
    layers = [layer("a", 8, 8, 3, 16, 0.5), layer("b", 16, 8, 3, 16, 0.9)]
    for how in ALLOCATIONS:
        assert allocate(layers, 100, 1.0, how) == (None, None)


def test_the_cost_is_within_the_tolerance_where_ranks_are_fine_enough() -> None:
    layers = [layer(str(i), 64, 64, 3, 196, 0.8 + 0.02 * i) for i in range(6)]
    before = sum(x.alone for x in layers)
    for how, speedup in itertools.product(ALLOCATIONS, (2.0, 3.0, 4.0, 5.0, 8.0)):
        cost = total_cost(layers, allocate(layers, 0, speedup, how))
        assert (1 - TOLERANCE) * before / speedup - 1 <= cost <= before / speedup


@given(layers=st.lists(layers_strategy.map(lambda x: x[0]), min_size=2, max_size=2), share=st.floats(0.2, 0.9))
@settings(max_examples=40, deadline=None)
def test_greedy_is_close_to_brute_force_and_never_behind_uniform_by_much(layers: list[Layer], share: float) -> None:
    budget = max(lowest_cost(layers), int(share * sum(x.alone for x in layers)))
    choices = [[None, *range(1, x.highest + 1)] for x in layers]
    feasible = (ranks for ranks in itertools.product(*choices) if total_cost(layers, ranks) <= budget)
    best = max(sum(x.log_energy(r) for x, r in zip(layers, ranks, strict=True)) for ranks in feasible)
    found = ALLOCATIONS["greedy"](layers, budget)
    reached = sum(x.log_energy(r) for x, r in zip(layers, found, strict=True))
    assert best - 0.7 <= reached <= best + 1e-9


def test_greedy_spares_the_layer_that_loses_most() -> None:
    flat, steep = layer("flat", 32, 32, 3, 100, 0.99), layer("steep", 32, 32, 3, 100, 0.6)
    ranks = ALLOCATIONS["greedy"]([flat, steep], (flat.alone + steep.alone) // 2)
    assert (ranks[0] or 32) > (ranks[1] or 32)


def test_a_layer_that_cannot_gain_is_left_alone() -> None:
    square = layer("1x1", 8, 2, 1, 100, 0.5)  # both convolutions of rank 2 cost more than the layer
    wide = layer("3x3", 32, 32, 3, 100, 0.9)
    assert square.highest == 1
    for how in ALLOCATIONS:
        ranks = allocate([square, wide], 0, 1.5, how)
        assert ranks[0] in (None, 1)


# ---- saved plans


def test_a_plan_survives_being_saved() -> None:
    plan = Plan((SitePlan("a", "channel", (3,)), SitePlan("b", None)))
    assert Plan.from_json(plan.to_json()) == plan


def test_a_plan_is_fitted_to_the_sites() -> None:
    plan = Plan((SitePlan("b", "channel", (3,)),))
    assert plan.fitted({"a": 8, "b": 8}).sites == (SitePlan("a", None), SitePlan("b", "channel", (3,)))
    with pytest.raises(DataError, match="no convolution to factorise"):
        plan.fitted({"a": 8})
    with pytest.raises(DataError, match="rank 3; it has 2"):
        plan.fitted({"b": 2})


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
