"""Properties of plans that know the outputs: the weights of layers, and rehearsals of whole plans."""

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from models_for_tests import build, classifier, conv, photo, relu, weights
from networks_of_shared_weights import head
from onnx import helper

from onnx_lowrank import compress
from onnx_lowrank.calibration.sampling import split
from onnx_lowrank.data.arrays import ArraySource
from onnx_lowrank.options import Options
from onnx_lowrank.pipeline import prepare
from onnx_lowrank.plan.importance import EQUAL, SPREAD, Importance
from onnx_lowrank.stages.prepared import Prepared
from onnx_lowrank.stages.rehearsal import ALONE, FEWEST_SCORING, MOST_ALONE, Rehearsal, divide, some
from onnx_lowrank.stages.request import Request
from onnx_lowrank.stages.run import Run
from onnx_lowrank.stages.scoring import Score, Scoring
from onnx_lowrank.stages.trials import GAIN

SAMPLES = 60
DATA = photo(1, (SAMPLES, 3, 12, 10))

names = st.sampled_from("abcdef")
positive = st.floats(1e-8, 1e3)


def quiet_side() -> onnx.ModelProto:
    """Build layers whose errors vanish on the way to the output, quiet1 and quiet2, and layers that make it.

    A branch of two convolutions is added to the output at a hundredth of its size.
    """
    stored = {"w0": weights(0, 12, 3, 3, 3), "hundredth": np.array(0.01, np.float32)}
    stored |= {f"w{i}": weights(i, 12, 12, 3, 3) for i in range(1, 5)}
    nodes = [
        conv("stem", "x", "w0", "s"),
        relu("s", "r"),
        conv("quiet1", "r", "w1", "a"),
        relu("a", "ar"),
        conv("quiet2", "ar", "w2", "b"),
        helper.make_node("Mul", ["b", "hundredth"], ["faint"]),
        conv("loud1", "r", "w3", "c"),
        relu("c", "cr"),
        conv("loud2", "cr", "w4", "d"),
        helper.make_node("Add", ["faint", "d"], ["y"]),
    ]
    return build(nodes, stored)


def started(model: onnx.ModelProto | None = None, **options: Any) -> Run:
    settings = {"objective": "outputs", "speedup": 3.0, "images": SAMPLES, "exclude": "stem", **options}
    return Run.start(Request(model or quiet_side(), DATA, Options(threads=1, require="none", **settings)))


@contextlib.contextmanager
def prepared_run(**options: Any) -> Iterator[Prepared]:
    with contextlib.ExitStack() as stack:
        yield prepare(started(**options), stack)


@given(st.dictionaries(names, positive, min_size=1), st.floats(0.1, 100), st.floats(0, 1))
def test_weights_depend_on_ratios_alone(errors: dict[str, float], unit: float, exponent: float) -> None:
    losses = dict.fromkeys(errors, 0.25)
    one = Importance.measured(errors, losses)
    other = Importance.measured({name: unit * error for name, error in errors.items()}, losses)
    for name in errors:
        assert one.weights[name] == pytest.approx(other.weights[name])
        assert SPREAD**-0.5 <= one.weights[name] <= SPREAD**0.5
        assert replace(one, exponent=exponent).factor(name) == pytest.approx(one.weights[name] ** exponent)
    heaviest = max(errors, key=errors.__getitem__)
    assert one.weights[heaviest] == max(one.weights.values())


@given(st.dictionaries(names, positive, min_size=1))
def test_the_exponent_zero_and_equal_weights_change_nothing(errors: dict[str, float]) -> None:
    energies = np.linspace(-3, 0, 7)
    for importance in (EQUAL, replace(Importance.measured(errors, dict.fromkeys(errors, 0.5)), exponent=0.0)):
        for name in "abcdef":
            np.testing.assert_array_equal(importance.weighed(name, np.asarray)(energies), energies)


def test_layers_without_a_measured_error_weigh_as_much_as_the_middle() -> None:
    measured = Importance.measured({"a": 4.0, "b": 1.0, "c": float("inf"), "d": 0.0}, dict.fromkeys("abcd", 1.0))
    assert measured.factor("elsewhere") == 1.0
    assert measured.weights["a"] == pytest.approx(2.0) and measured.weights["b"] == pytest.approx(0.5)
    assert measured.weights["c"] == SPREAD**0.5 and measured.weights["d"] == SPREAD**-0.5


shares = st.lists(st.floats(1e-6, 1), min_size=3, max_size=12)


@given(shares, st.floats(0, 2))
def test_a_plan_is_clearly_better_where_it_is_on_every_sample(of_other: list[float], factor: float) -> None:
    other, score = Score(tuple(of_other)), Score(tuple(factor * share for share in of_other))
    assert not other.clearly_below(other, 0.0)
    if factor >= 1 - GAIN:
        assert not score.clearly_below(other, GAIN + 1e-6)
    even = Score((max(of_other),) * len(of_other)), Score((factor * max(of_other),) * len(of_other))
    assert even[1].clearly_below(even[0], GAIN) == (even[1].error <= (1 - GAIN) * even[0].error)


def test_what_a_few_samples_decide_alone_is_no_gain() -> None:
    usual = Score((1.0,) * 12)
    assert not Score((0.1, *(1.01,) * 11)).clearly_below(usual, GAIN)  # lower by 6 %, all of it from one sample
    assert Score((0.9,) * 11 + (1.0,)).clearly_below(usual, GAIN)
    ruined = Score((float("inf"),) * 12)
    assert usual.clearly_below(ruined, GAIN) and not ruined.clearly_below(usual, GAIN)


@pytest.mark.parametrize("model", [quiet_side(), head(2)], ids=["branches", "shared weights, two outputs"])
def test_what_is_behind_a_layer_that_is_replaced_alone_does_as_the_whole_network(model: onnx.ModelProto) -> None:
    run = started(model, objective="energies", speedup=2.0)
    with contextlib.ExitStack() as stack:
        prepared = prepare(run, stack)
        plan, rehearsal = prepared.planned.plan, Rehearsal(run, prepared)
        alone = rehearsal.alone(plan)
        assert alone and set(alone) <= {choice.name for choice in plan.sites if choice.form}
        batches, solving = prepared.sampled.sampling.batches, len(rehearsal._solving)
        scoring = Scoring(run, prepared, some(batches[solving:], MOST_ALONE), ALONE)
        seen = batches[: solving + len(scoring.batches)]
        for solution, _ in rehearsal._walk(rehearsal._prepared(plan, seen, solving), symmetric=True):
            network = prepared.read.network.copy()
            solution.apply(network)
            assert alone[solution.name] == pytest.approx(scoring.of_network(network).error, rel=1e-3) != 0


def test_layers_that_hardly_reach_the_output_weigh_little_and_are_cut_most() -> None:
    with prepared_run() as prepared, prepared_run(objective="energies") as equal:
        importance = prepared.planned.importance
        assert importance.exponent > 0 and set(importance.trials) == {0.0, 0.5, 1.0}
        quiet = max(importance.weights["quiet1"], importance.weights["quiet2"])
        assert 100 * quiet < min(importance.weights["loud1"], importance.weights["loud2"])
        assert equal.planned.importance == EQUAL
        for name in ("quiet1", "quiet2"):
            assert prepared.planned.macs[name] <= equal.planned.macs[name]
        for name in ("loud1", "loud2"):
            assert prepared.planned.macs[name] >= equal.planned.macs[name]


def test_the_outputs_gain_and_the_report_says_why() -> None:
    def result(objective: str) -> Any:
        return compress(
            quiet_side(), DATA, 3.0, objective=objective, threads=1, images=SAMPLES, exclude="stem", require="none"
        ).report

    aware, equal = result("outputs"), result("energies")
    assert aware.speedup.macs == pytest.approx(equal.speedup.macs, rel=0.02)
    assert aware.outputs["y"].centred_error < 0.5 * equal.outputs["y"].centred_error
    assert equal.importance is None
    rehearsals = aware.importance.rehearsals
    assert rehearsals[f"{aware.importance.exponent:g}"] == min(rehearsals.values()) < rehearsals["0"]


def test_a_rehearsal_is_the_same_every_time() -> None:
    with prepared_run() as one, prepared_run() as other:
        assert one.planned.importance == other.planned.importance and one.planned.plan == other.planned.plan


@pytest.mark.parametrize("options", [{"solver": "weights"}, {"images": 12}], ids=["weights alone", "few samples"])
def test_without_evidence_all_layers_weigh_the_same(options: dict[str, Any]) -> None:
    settings = {"objective": "outputs", "threads": 1, "exclude": "stem", "require": "none", **options}
    assert compress(quiet_side(), DATA, 2.0, **settings).report.importance is None


@given(st.integers(1, 400))
def test_rehearsals_never_look_at_samples_that_judge_and_never_solve_on_those_that_score(samples: int) -> None:
    sampling = split(ArraySource({"x": np.zeros((samples, 1))}), (), 0)
    solving, scoring = divide(sampling)
    assert solving == sampling.batches[: len(solving)]
    assert not set(solving) & set(scoring) and set(scoring) <= set(sampling.batches)
    if samples >= SAMPLES:
        assert sum(map(len, scoring)) >= FEWEST_SCORING


def test_layers_that_share_a_weight_are_weighed_together() -> None:
    run = started(head(2), speedup=2.0)
    with contextlib.ExitStack() as stack:
        prepared = prepare(run, stack)
        importance = prepared.planned.importance
        assert set(importance.trials) >= {0.0, 0.5} and importance.exponent in importance.trials
        assert set(importance.weights) <= {family.name for family in prepared.counted.families}
        chosen = {choice.name: (choice.form, choice.ranks) for choice in prepared.planned.plan.sites}
        for family in prepared.counted.families:
            assert len({chosen[name] for name in family.names}) == 1


def test_fully_connected_layers_are_weighed() -> None:
    run = started(classifier("transB 1"), speedup=1.5, include_gemm=True, exclude=None)
    with contextlib.ExitStack() as stack:
        prepared = prepare(run, stack)
        assert prepared.planned.importance.trials and prepared.counted.dense
