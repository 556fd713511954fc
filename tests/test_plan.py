"""Properties of costs, energies, the choices of a layer, and saved plans."""

import numpy as np
import pytest
from choices_for_tests import ALONE, Decays, Kinds, layer, shares_of, some_layers, square
from forms_for_tests import every_kind_of_conv
from hypothesis import given, settings
from hypothesis import strategies as st

from onnx_lowrank.errors import DataError
from onnx_lowrank.factorise.energy import log_shares, spectrum
from onnx_lowrank.factorise.forms.channel import CHANNEL
from onnx_lowrank.factorise.forms.conv_shape import ConvShape
from onnx_lowrank.factorise.forms.cp import CP
from onnx_lowrank.factorise.forms.kind import FormKind
from onnx_lowrank.factorise.forms.rank_multiple import RankMultiple
from onnx_lowrank.factorise.forms.spatial import SPATIAL
from onnx_lowrank.factorise.forms.table import FORMS
from onnx_lowrank.factorise.forms.three_d import THREE_D
from onnx_lowrank.plan.cost import lowest_macs
from onnx_lowrank.plan.pareto import LayerChoices
from onnx_lowrank.plan.plan import Plan, SitePlan

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


@pytest.mark.parametrize(
    "shape",
    [
        ConvShape(7, 5, (3, 2), (10, 12), (5, 8)),
        ConvShape(8, 9, (1, 3), (3, 3), (3, 3)),
        ConvShape(4, 4, (1, 1), (3, 3), (3, 3)),
    ],
)
@pytest.mark.parametrize("kinds", [FORMS.kinds, *ALONE], ids=["auto", *(kind.name for (kind,) in ALONE)])
@pytest.mark.parametrize("multiple", [1, 2, 3, 4, 8, 100])
def test_the_lowest_cost_is_that_of_the_cheapest_choice(shape: ConvShape, kinds: Kinds, multiple: int) -> None:
    assert lowest_macs([shape], kinds, RankMultiple(multiple)) == layer(shape, 0.7, kinds, multiple).costs[0]


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


@every_kind_of_conv
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
