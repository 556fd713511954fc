"""Layers' times: measured in small models, interpolated between ranks, and kept in a table."""

import itertools
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import cast

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnx_lowrank.bench.turns import Rounds
from onnx_lowrank.errors import DataError, UsageError
from onnx_lowrank.factorise.forms.channel import CHANNEL
from onnx_lowrank.factorise.forms.conv_shape import ConvShape
from onnx_lowrank.factorise.forms.kind import placeholder
from onnx_lowrank.factorise.forms.rank_multiple import RankMultiple
from onnx_lowrank.factorise.forms.table import FORMS
from onnx_lowrank.graph.layer_model import ConvGeometry, layer_input, layer_model, surrounding_model
from onnx_lowrank.interface import Feeds
from onnx_lowrank.latency.interpolation import between, monotone
from onnx_lowrank.latency.layer_times import LayerTimes, measure_layer
from onnx_lowrank.latency.rank_grid import LEAST, ranks_to_measure
from onnx_lowrank.latency.rank_step import RANK_STEPS, TO, ranks_to_look_at, widest_free_step
from onnx_lowrank.latency.stopwatch import Stopwatch, joined
from onnx_lowrank.latency.table import ORIGINAL, Choice, Setting, Table
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
        st.sampled_from([(10, 10), (20, 10), (20, 20)]),
        st.just((10, 10)),
    ),
    st.sampled_from([1, 8, 16]),
)
@settings(max_examples=30, deadline=None)
def test_the_grid_holds_multiples_of_the_step_that_may_save_something(shape: ConvShape, step: int) -> None:
    wanted = ranks_to_measure(shape, FORMS, RankMultiple(step))
    assert len(wanted) == len(set(wanted)) <= 60
    for form, ranks in wanted:
        assert all(rank % step == 0 for rank in ranks)
        kind = FORMS[form]
        assert all(1 <= rank <= high for rank, high in zip(ranks, kind.highest_ranks(shape), strict=True))
        assert kind.cost(shape, ranks) <= 1.3 * shape.macs
        assert kind.takes(shape)
    cheapest = min((FORMS[form].cost(shape, ranks) for form, ranks in wanted), default=shape.macs)
    if CHANNEL.cost(shape, (step,)) < LEAST * shape.macs:
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
        factors = placeholder(FORMS[form], geometry.weights, geometry.group, ranks) if form else None
        model = onnx.load_from_string(layer_model(geometry, factors))
        onnx.checker.check_model(model, full_check=True)
        names = {tensor.name: tensor for tensor in model.graph.initializer}
        kernels = [names[n.input[1]].dims for n in model.graph.node if n.op_type == "Conv"][1:]
        assert [kernel[0] for kernel in kernels] == [*(rank * geometry.group for rank in ranks), geometry.filters]
        y = Session(model.SerializeToString(), ["CPUExecutionProvider"], 1, "a layer")(feeds)["y"]
        assert np.isfinite(y).all() and np.abs(y).max() > 1e-3
        shapes.add(y.shape)
        if factors:
            # Each direction's stride and dilation belong to one link, as in the rewritten model.
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

    choices: list[Choice] = [("channel", (rank,)) for rank in range(1, 13)]

    def times_at(disturbance: list[float]) -> dict[Choice, float]:
        def turns(runs: Sequence[Callable[[], object]]) -> Rounds:
            return Rounds(disturbance.pop() * np.array([[run() for run in runs]], np.float64), 1, True)

        measure = partial(measure_layer, turns=turns)
        stopwatch = Stopwatch(Table(), HERE, cast(Opener, open_session), measure_layer=measure)
        stopwatch.layer(GEOMETRY, choices[:first])
        return stopwatch.layer(GEOMETRY, choices)

    disturbed, undisturbed = times_at(slower.copy()), times_at([1.0] * 9)
    assert disturbed.keys() == {ORIGINAL, *choices}
    scale = disturbed[ORIGINAL] / undisturbed[ORIGINAL]
    assert 1 - 1e-9 <= scale <= max(slower) + 1e-9
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
