"""Layers' times: interpolated, kept in a table, searched for a plan by the clock; and the small models to measure."""

import itertools
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import cast

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnx_lowrank.bench.turns import Budget, Rounds
from onnx_lowrank.errors import DataError, TargetError, UsageError
from onnx_lowrank.factorise.forms.conv_shape import ConvShape
from onnx_lowrank.factorise.forms.placeholder import placeholder
from onnx_lowrank.graph.layer_model import ConvGeometry, layer_input, layer_model, surrounding_model
from onnx_lowrank.interface import Feeds
from onnx_lowrank.latency import layer_times
from onnx_lowrank.latency.interpolation import between, monotone
from onnx_lowrank.latency.layer_times import LayerTimes
from onnx_lowrank.latency.rank_grid import LEAST, ranks_to_measure
from onnx_lowrank.latency.rank_step import RANK_STEPS, TO, ranks_to_look_at, widest_free_step
from onnx_lowrank.latency.search import Found, WholeTime, budget_for, search
from onnx_lowrank.latency.stopwatch import Stopwatch, joined
from onnx_lowrank.latency.table import ORIGINAL, Choice, Setting, Table
from onnx_lowrank.latency.time_costs import LatencyCosts
from onnx_lowrank.plan.allocate import GRID, Chosen, total_cost, total_energy
from onnx_lowrank.plan.energy import log_energies
from onnx_lowrank.plan.pareto import FORMS, LayerChoices, pareto_front
from onnx_lowrank.runtime.session import Opener, Session

GEOMETRY = ConvGeometry("float32", (1, 12, 9, 10), 16, (3, 3), (1, 1), (1, 1), (1, 1, 1, 1), 1, True)
HERE = Setting("a processor (2 cores)", "CPUExecutionProvider", "1.0", 2, 1)


# ---- interpolation

one_rank = st.dictionaries(st.integers(1, 300).map(lambda r: (r,)), st.floats(0.01, 100), min_size=1, max_size=8)
two_ranks = st.builds(
    lambda s, r, times: {(a, b): times[i] for i, (a, b) in enumerate(itertools.product(sorted(s), sorted(r)))},
    st.sets(st.integers(1, 20), min_size=1, max_size=4),
    st.sets(st.integers(1, 20), min_size=1, max_size=4),
    st.lists(st.floats(0.01, 100), min_size=16, max_size=16),
)


@given(st.one_of(one_rank, two_ranks))
@settings(max_examples=30, deadline=None)
def test_smoothed_times_rise_with_the_ranks_and_rising_ones_stay_what_they_are(
    measured: dict[tuple[int, ...], float],
) -> None:
    smooth = monotone(measured)
    assert smooth.keys() == measured.keys()
    for low, high in itertools.permutations(smooth, 2):
        if all(a <= b for a, b in zip(low, high, strict=True)) and sum(map(int.__ne__, low, high)) == 1:
            assert smooth[low] <= smooth[high] + 1e-2 * max(measured.values())
    # Squares change least: no further from the measured ones than the best constant, to the sweeps' precision.
    mean = np.mean(list(measured.values()))
    far = sum((smooth[r] - measured[r]) ** 2 for r in measured)
    assert far <= sum((mean - t) ** 2 for t in measured.values()) + 1e-2 * max(measured.values()) ** 2
    rising = dict(zip(sorted(measured), sorted(measured.values()), strict=True))
    if len(next(iter(measured))) == 1:
        assert monotone(rising) == pytest.approx(rising)


@given(st.one_of(one_rank, two_ranks))
@settings(max_examples=30, deadline=None)
def test_times_are_interpolated_only_where_measured_ranks_bracket(measured: dict[tuple[int, ...], float]) -> None:
    known = monotone(measured)
    highest = max(max(ranks) for ranks in measured) + 2
    sides = [range(1, highest)] * len(next(iter(measured)))
    grid = np.array(list(itertools.product(*sides)))
    times = between(measured, grid)
    bounds = [(min(r[i] for r in known), max(r[i] for r in known)) for i in range(grid.shape[1])]
    lines = [len({r[i] for r in known}) for i in range(grid.shape[1])]
    for ranks, time in zip(map(tuple, grid.tolist()), times, strict=True):
        inside = all(low <= r <= high for r, (low, high) in zip(ranks, bounds, strict=True))
        if ranks in known:
            assert time == pytest.approx(known[ranks])
        elif inside and min(lines) > 1:
            below = [t for r, t in known.items() if all(a <= b for a, b in zip(r, ranks, strict=True))]
            above = [t for r, t in known.items() if all(a >= b for a, b in zip(r, ranks, strict=True))]
            slack = 1e-2 * max(measured.values())
            assert max(below) - slack <= time <= min(above) + slack
        else:
            assert time == np.inf


def test_bilinear_costs_are_reproduced_in_a_cell() -> None:
    def time(s: int, r: int) -> float:
        return 0.3 * s + 0.02 * s * r + 0.1 * r

    measured: dict[tuple[int, ...], float] = {(s, r): time(s, r) for s in (8, 24, 64) for r in (16, 40)}
    ranks = np.array([(8, 16), (16, 24), (60, 33), (24, 17)])
    assert between(measured, ranks) == pytest.approx([time(s, r) for s, r in ranks.tolist()])


# ---- what is measured


@given(
    st.builds(
        ConvShape,
        st.integers(8, 600),
        st.integers(8, 600),
        st.sampled_from([(3, 3), (5, 5), (1, 7), (1, 1)]),
        st.just(100),
        st.sampled_from([100, 200]),
        st.sampled_from([100, 400]),
    ),
    st.sampled_from([1, 8, 16]),
)
@settings(max_examples=30, deadline=None)
def test_the_grid_holds_multiples_of_the_step_that_may_save_something(shape: ConvShape, step: int) -> None:
    wanted = ranks_to_measure(shape, FORMS, step)
    assert len(wanted) == len(set(wanted)) <= 60
    for form, ranks in wanted:
        assert all(rank % step == 0 for rank in ranks)
        assert all(1 <= rank <= high for rank, high in zip(ranks, shape.highest_ranks(form), strict=True))
        assert shape.cost(form, ranks) <= 1.3 * shape.macs
        assert shape.takes(form)
    cheapest = min((shape.cost(form, ranks) for form, ranks in wanted), default=shape.macs)
    if shape.cost("channel", (step,)) < LEAST * shape.macs:
        assert cheapest <= 2 * LEAST * shape.macs


@pytest.mark.parametrize("step", [1, 4, 8, 16])
def test_the_widest_free_step_is_found(step: int) -> None:
    stairs = {rank: 0.2 + -(-rank // step) * step / 100 for rank in ranks_to_look_at()}
    assert widest_free_step(stairs) == step if step in RANK_STEPS else widest_free_step(stairs) == 1
    assert widest_free_step(dict.fromkeys(stairs, 1.0)) == 1
    assert TO in stairs


@pytest.mark.parametrize(
    "geometry",
    [
        GEOMETRY,
        ConvGeometry("float32", (2, 5, 11, 8), 7, (3, 5), (2, 1), (1, 2), (1, 4, 1, 4), 1, False),
        ConvGeometry("float16", (1, 8, 6, 6), 8, (3, 3), (1, 1), (1, 1), (0, 0, 0, 0), 1, True),
        ConvGeometry("float32", (1, 12, 9, 8), 16, (3, 3), (1, 1), (1, 1), (1, 1, 1, 1), 2, True),
        ConvGeometry("float32", (1, 8, 31), 6, (5,), (2,), (1,), (2, 2), 1, True),
        ConvGeometry("float32", (1, 8, 4, 6, 5), 6, (3, 3, 3), (1, 1, 1), (1, 1, 1), (1,) * 6, 1, True),
        ConvGeometry("float32", (1, 8, 6, 6), 24, (1, 1), (1, 1), (1, 1), (0, 0, 0, 0), 1, True),
    ],
)
def test_small_models_have_the_layer_s_geometry_and_run(geometry: ConvGeometry) -> None:
    forms: list[Choice] = [ORIGINAL, ("channel", (3,))]
    if len(geometry.kernel) > 1 and min(geometry.kernel) > 1:
        forms += [("spatial", (4,)), ("3d", (5, 3))]
    feeds = layer_input(geometry)
    shapes = set()
    for form, ranks in forms:
        factors = placeholder(form, geometry.weights, geometry.group, ranks) if form else None
        model = onnx.load_from_string(layer_model(geometry, factors))
        onnx.checker.check_model(model, full_check=True)
        names = {tensor.name: tensor for tensor in model.graph.initializer}
        kernels = [names[n.input[1]].dims for n in model.graph.node if n.op_type == "Conv"][1:]
        assert [kernel[0] for kernel in kernels] == [*(rank * geometry.group for rank in ranks), geometry.filters]
        made = Session(model.SerializeToString(), ["CPUExecutionProvider"], 1, "a layer")(feeds)["y"]
        assert np.isfinite(made).all() and np.abs(made).max() > 1e-3
        shapes.add(made.shape)
        if factors:
            # Each direction's stride and dilation belong to one stage, as in the rewritten model.
            convs = [n for n in model.graph.node if n.op_type == "Conv"][1:]
            attributes = [{a.name: list(a.ints) for a in n.attribute} for n in convs]
            for axis, stride in enumerate(geometry.strides):
                assert sorted(a["strides"][axis] for a in attributes)[-1] == stride
                assert np.prod([a["kernel_shape"][axis] for a in attributes]) == geometry.kernel[axis]
    ones = (1,) * len(geometry.kernel)
    assert shapes == {(geometry.input[0], geometry.filters, *ones)}
    around = Session(surrounding_model(geometry), ["CPUExecutionProvider"], 1, "surroundings")(feeds)["y"]
    assert around.shape == (*geometry.input[:2], *ones)


@given(st.lists(st.floats(1.0, 4.0), min_size=9, max_size=9), st.integers(1, 12))
@settings(max_examples=20, deadline=None)
def test_times_compare_whatever_else_the_machine_did_meanwhile(slower: list[float], first: int) -> None:
    """The machine is slower from turns to turns; the layer as it is takes part in all of them."""

    def open_session(model: bytes, what: str) -> Callable[[Feeds], float]:
        weights = onnx.load_from_string(model).graph.initializer
        return lambda feeds: 1e-3 + 1e-6 * sum(math.prod(tensor.dims) for tensor in weights)

    pareto_front: list[Choice] = [("channel", (rank,)) for rank in range(1, 13)]

    def times_at(disturbance: list[float]) -> dict[Choice, float]:
        def turns(runs: Sequence[Callable[[], float]], budget: Budget) -> Rounds:
            return Rounds(disturbance.pop() * np.array([[run() for run in runs]]), 1, True)

        stopwatch = Stopwatch(Table(), HERE, cast(Opener, open_session), None)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(layer_times, "take_turns", turns)
            stopwatch.layer(GEOMETRY, pareto_front[:first])
            return stopwatch.layer(GEOMETRY, pareto_front)

    disturbed, undisturbed = times_at(slower.copy()), times_at([1.0] * 9)
    assert disturbed.keys() == {ORIGINAL, *pareto_front}
    scale = disturbed[ORIGINAL] / undisturbed[ORIGINAL]
    assert 1 <= scale <= max(slower) + 1e-9
    for choice, time in undisturbed.items():
        assert disturbed[choice] == pytest.approx(scale * time)


def test_what_is_too_short_to_tell_how_slow_the_machine_was_is_taken_as_it_is() -> None:
    known: dict[Choice, float] = {ORIGINAL: 0.001, ("channel", (4,)): 0.003}
    short = LayerTimes({ORIGINAL: 0.0001, ("channel", (8,)): 0.002}, mostly_layer=False)
    assert joined(known, short) == known | {("channel", (8,)): 0.002}


# ---- the table


def filled() -> Table:
    table = Table()
    times = table.at(HERE)
    times.steps["float32"] = 8
    times.models["abc x:1x3x8x8"] = 12.5
    times.layers[GEOMETRY] = {ORIGINAL: 2.0, ("channel", (8,)): 1.25, ("3d", (8, 16)): 0.5}
    return table


def test_a_table_survives_being_saved() -> None:
    again = Table.from_json(filled().to_json(), "t.json")
    assert again.to_json() == filled().to_json()
    assert again.at(HERE) == filled().at(HERE)


@pytest.mark.parametrize(
    "change",
    [
        lambda text: "",
        lambda text: "[]",
        lambda text: text.replace('"schema": 1', '"schema": 2'),
        lambda text: text.replace('"settings"', '"setting"'),
        lambda text: text.replace('"ms": 2.0', '"ms": -2.0'),
        lambda text: text.replace('"ms": 2.0', '"ms": NaN'),
        lambda text: text.replace('"ms": 2.0', '"ms": "2"'),
        lambda text: text.replace('"threads": 2', '"threads": "2"'),
        lambda text: text.replace('"filters"', '"filter"'),
        lambda text: text.replace('"float32": 8', '"float32": null'),
        lambda text: text.replace('"form": "channel"', '"form": 3'),
    ],
)
def test_a_damaged_table_is_named(change: object) -> None:
    assert callable(change)
    text = filled().to_json()
    with pytest.raises(DataError, match=r"t\.json") as caught:
        Table.from_json(change(text), "t.json")
    assert "\n" not in str(caught.value)


def test_a_device_of_the_table_is_found_by_its_name_and_its_setting() -> None:
    table, other = filled(), Setting("another processor", "CPUExecutionProvider", "2.0", 2, 1)
    assert table.of_device(HERE.device, other) == HERE
    with pytest.raises(UsageError, match="no times of 'a third processor'"):
        table.of_device("a third processor", HERE)
    with pytest.raises(UsageError, match="it has: a processor"):
        table.of_device(HERE.device, Setting("x", "CPUExecutionProvider", "1.0", 1, 1))
    table.at(Setting(HERE.device, "CPUExecutionProvider", "2.0", 2, 1))
    with pytest.raises(UsageError, match=r"ONNX Runtime 1\.0, 2\.0"):
        table.of_device(HERE.device, HERE)


# ---- the search


def fake_layers(count: int, seed: int) -> list[LayerChoices]:
    """Layers with times that have little to do with MACs: a staircase of 4 with a constant that depends on the form."""
    rng = np.random.default_rng(seed)
    layers = []
    for i in range(count):
        shape = ConvShape(12, 10, (3, 3), 100, 100, 100)
        alone = float(rng.uniform(1, 3))
        times: dict[Choice, float] = {ORIGINAL: alone}
        start, slope = rng.uniform(0.05, 0.6), rng.uniform(0.5, 1.2)
        for rank in (4, 8, 12):
            times["channel", (rank,)] = float(alone * (start + slope * rank / 16))
        for column in (4, 8, 16, 20):
            times["spatial", (column,)] = float(alone * (start / 2 + slope * column / 24))
        channel = log_energies(rng.uniform(0.5, 0.9) ** np.arange(12))
        columns = log_energies(rng.uniform(0.7, 0.9) ** np.arange(shape.most_columns))
        layers.append(pareto_front(str(i), shape, channel, columns, FORMS, 4, costs=LatencyCosts(times)))
    return layers


def whole_model(
    original: float, gain: float = 1.0, truth: float = 1.0, doubt: float = 0.0
) -> Callable[[Sequence[LayerChoices], Chosen], WholeTime]:
    """Measures a model that folding makes ``gain`` times as fast and that shows the share ``truth`` of all savings.

    The lower bound of a measured ratio is below it by the share ``doubt``.
    """

    def whole(now: Sequence[LayerChoices], chosen: Chosen) -> WholeTime:
        saved = (sum(layer.untouched for layer in now) - total_cost(now, chosen)) / 1e6
        after = original / gain - truth * saved
        return WholeTime(original, after, original / after, (1 - doubt) * original / after)

    return whole


def run_search(
    layers: Sequence[LayerChoices], original: float, speedup: float, truth: float, doubt: float = 0.0
) -> tuple[Found, int]:
    """Search, and count the trials."""
    trials, measure = 0, whole_model(original, 1.0, truth, doubt)

    def whole(now: Sequence[LayerChoices], chosen: Chosen) -> WholeTime:
        nonlocal trials
        trials += 1
        return measure(now, chosen)

    found = search(lambda: layers, lambda *_: False, whole, original, speedup, "exact")
    return found, trials


def within_reach(count: int, seed: int, share: float) -> tuple[list[LayerChoices], float, float]:
    """Layers, the milliseconds of the model around them, and the speedup of saving a share of all that can be saved."""
    layers = fake_layers(count, seed)
    alone, lowest = (sum(int(x.costs[i]) for x in layers) for i in (-1, 0))
    original = 1.5 + alone / 1e6
    return layers, original, original / (original - share * (alone - lowest) / 1e6)


@given(
    count=st.integers(1, 4),
    seed=st.integers(0, 1000),
    share=st.floats(0.1, 0.9),
    truth=st.sampled_from([0.7, 1.0, 1.2]),
)
@settings(max_examples=25, deadline=None)
def test_a_plan_by_the_clock_meets_its_target_and_keeps_the_most_energy(
    count: int, seed: int, share: float, truth: float
) -> None:
    layers, original, speedup = within_reach(count, seed, truth * share)
    lowest = sum(int(x.costs[0]) for x in layers)
    found, trials = run_search(layers, original, speedup, truth)
    assert found.measured is not None and found.measured.ratio >= speedup
    assert trials <= 8
    # Nothing that is as fast keeps more energy than what is fast enough by the margin of the search may.
    every = list(itertools.product(*(range(len(x.costs)) for x in layers)))
    cost = total_cost(layers, found.chosen)
    best = max(total_energy(layers, c) for c in every if total_cost(layers, c) <= cost)
    grid = cost - (cost - lowest) * len(layers) / GRID - 1
    least = max((total_energy(layers, c) for c in every if total_cost(layers, c) <= grid), default=-np.inf)
    assert least - 1e-9 <= total_energy(layers, found.chosen) <= best + 1e-9


@given(count=st.integers(1, 4), seed=st.integers(0, 1000), share=st.floats(0.1, 0.8), doubt=st.floats(0, 0.08))
@settings(max_examples=25, deadline=None)
def test_a_ratio_in_doubt_is_met_by_its_lower_bound_where_that_can_be(
    count: int, seed: int, share: float, doubt: float
) -> None:
    layers, original, speedup = within_reach(count, seed, share)
    lowest = sum(int(x.costs[0]) for x in layers)
    found, trials = run_search(layers, original, speedup, 1.0, doubt)
    assert found.measured is not None and found.measured.ratio >= speedup and trials <= 8
    reach = original / (original - (sum(layer.untouched for layer in layers) - lowest) / 1e6)
    if doubt < 0.04 and (1 - doubt) * reach > 1.1 * speedup:
        assert found.measured.low >= speedup


@given(count=st.integers(1, 3), seed=st.integers(0, 1000), truth=st.sampled_from([0.5, 1.0]))
@settings(max_examples=20, deadline=None)
def test_what_is_out_of_reach_is_refused_with_the_largest_ratio(count: int, seed: int, truth: float) -> None:
    layers = fake_layers(count, seed)
    alone, lowest = (sum(int(x.costs[i]) for x in layers) for i in (-1, 0))
    original = 1.0 + alone / 1e6
    reach = original / (original - truth * (alone - lowest) / 1e6)
    with pytest.raises(TargetError) as caught:
        run_search(layers, original, 1.01 * reach + 0.01, truth)
    said = re.search(r"this model (\d+\.\d\d) times as fast", str(caught.value))
    assert said and float(said[1]) == pytest.approx(reach, abs=0.011)


def test_nothing_faster_is_a_reason_of_its_own_and_speedup_one_changes_nothing() -> None:
    shape = ConvShape(8, 8, (3, 3), 10, 10, 10)
    costs = LatencyCosts({ORIGINAL: 1.0, ("channel", (4,)): 1.5})
    assert not costs.gains
    slow = pareto_front("a", shape, log_energies(0.5 ** np.arange(8)), None, FORMS, costs=costs)
    assert slow.choice(0) == ORIGINAL
    with pytest.raises(TargetError, match="nothing was measured to make this model faster"):
        run_search([slow], 3.0, 1.1, 1.0)
    found, trials = run_search(fake_layers(2, 0), 10.0, 1.0, 1.0)
    assert trials == 0 and [x.choice(i) for x, i in zip(found.layers, found.chosen, strict=True)] == [ORIGINAL] * 2


@given(count=st.integers(1, 4), seed=st.integers(0, 1000), share=st.floats(0.1, 0.5), gain=st.floats(0.85, 1.2))
@settings(max_examples=30, deadline=None)
def test_what_folding_gains_need_not_be_gained_by_the_layers(count: int, seed: int, share: float, gain: float) -> None:
    layers, original, _ = within_reach(count, seed, share)
    alone, lowest = (sum(int(x.costs[i]) for x in layers) for i in (-1, 0))
    folded = WholeTime(original, original / gain, gain, gain)

    def after_folding(asked: float) -> Found:
        return search(lambda: layers, lambda *_: False, whole_model(original, gain), original, asked, "exact", folded)

    asked = original / (original / gain - share * (alone - lowest) / 1e6)
    if asked > 1:
        found = after_folding(asked)
        assert found.measured and found.measured.ratio >= asked
        # The layers show what they promise: nothing that folding gained or lost is taken for theirs.
        assert found.correction == pytest.approx(1) or found.rounds == 0
        assert found.predicted_ms == pytest.approx(found.measured.after_ms)
    if gain > 1:
        found = after_folding(gain)
        assert (
            found.rounds == 0 and [x.choice(i) for x, i in zip(layers, found.chosen, strict=True)] == [ORIGINAL] * count
        )


def test_an_untouched_model_that_only_seems_to_be_fast_enough_is_one_of_the_trials() -> None:
    layers, original, _ = within_reach(3, 0, 0.5)
    whole, doubtful = whole_model(original, 1.2), WholeTime(original, original / 1.2, 1.2, 1.1)
    found = search(lambda: layers, lambda *_: False, whole, original, 1.15, "exact", doubtful)
    assert found.measured and found.measured.low >= 1.15 and found.rounds > 0
    # Nothing else to choose: then it is what there is.
    costs = LatencyCosts({ORIGINAL: 1.0, ("channel", (4,)): 1.5})
    slow = pareto_front(
        "a", ConvShape(8, 8, (3, 3), 10, 10, 10), log_energies(0.5 ** np.arange(8)), None, FORMS, costs=costs
    )
    found = search(lambda: [slow], lambda *_: False, whole, original, 1.15, "exact", doubtful)
    assert found.measured == doubtful
    with pytest.raises(TargetError, match=r"this model 1\.20 times as fast"):
        search(lambda: [slow], lambda *_: False, whole, original, 1.3, "exact", doubtful)


@given(count=st.integers(1, 4), seed=st.integers(0, 1000), share=st.floats(0.02, 0.8), slower=st.floats(1.0, 1.3))
@settings(max_examples=30, deadline=None)
def test_layers_that_turn_out_to_have_been_measured_on_a_busy_machine_do_no_harm(
    count: int, seed: int, share: float, slower: float
) -> None:
    layers, original, speedup = within_reach(count, seed, share)
    busy = [replace(x, costs=np.ceil(slower * x.costs).astype(np.int64)) for x in layers]
    known = [busy]

    def refine(*_: object) -> bool:
        known.append(layers)
        return len(known) == 2

    found = search(lambda: known[-1], refine, whole_model(original), original, speedup, "exact")
    assert found.measured and found.measured.ratio >= speedup


def test_interpolated_choices_are_measured_before_they_are_taken() -> None:
    shape = ConvShape(16, 16, (3, 3), 10, 10, 10)
    times: dict[Choice, float] = {ORIGINAL: 4.0, ("channel", (2,)): 0.5, ("channel", (14,)): 3.5}
    asked = []

    def layers() -> list[LayerChoices]:
        energy = log_energies(0.8 ** np.arange(16))
        return [pareto_front("a", shape, energy, None, ("channel",), 2, costs=LatencyCosts(times))]

    def refine(now: Sequence[LayerChoices], chosen: Chosen) -> bool:
        new = [x.choice(i) for x, i in zip(now, chosen, strict=True) if x.choice(i) not in times]
        asked.extend(new)
        times.update(dict.fromkeys(new, 3.0))  # all slower than the straight line says
        return bool(new)

    def whole(now: Sequence[LayerChoices], chosen: Chosen) -> WholeTime:
        (choice,) = (x.choice(i) for x, i in zip(now, chosen, strict=True))
        assert choice in times
        ratio = 5.0 / (1.0 + times[choice])
        return WholeTime(5.0, 1.0 + times[choice], ratio, ratio)

    found = search(layers, refine, whole, 5.0, 2.0, "exact")
    assert asked and found.measured and found.measured.ratio >= 2
    assert found.layers[0].choice(found.chosen[0]) == ("channel", (2,))


def test_the_budget_is_what_the_target_leaves() -> None:
    assert budget_for(10_000, 6_000, 2.0, 1.0) == 1_000
    assert budget_for(10_000, 6_000, 2.0, 0.5) == -4_000
    assert budget_for(10_000, 6_000, 2.0, 1.0, folded=8_000) == 3_000
