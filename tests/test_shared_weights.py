"""Layers that share a weight share its factors, which are solved on the rows of all of them; no file grows."""

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from models_for_tests import build, conv, photo, relu, run_model, three_convs, weights
from networks_of_shared_weights import (
    head,
    in_parallel,
    loop,
    low_rank,
    normalised_levels,
    stored_bytes,
    weights_read,
)
from numpy.typing import NDArray
from onnx import TensorProto, helper

from onnx_lowrank import compress
from onnx_lowrank.factorise.activations.relu import RELU, Activation
from onnx_lowrank.factorise.forms.rank_multiple import EVERY_RANK
from onnx_lowrank.factorise.forms.table import FORMS
from onnx_lowrank.factorise.solve.own_bias import own_bias
from onnx_lowrank.graph.edit.normalise import normalise
from onnx_lowrank.graph.files.load import load
from onnx_lowrank.graph.find.families import families
from onnx_lowrank.graph.find.sites import find_sites
from onnx_lowrank.graph.gather import gathered
from onnx_lowrank.graph.layer_model import ConvGeometry
from onnx_lowrank.latency.deployment import model_key
from onnx_lowrank.latency.table import ORIGINAL, Setting, Table
from onnx_lowrank.options import Options
from onnx_lowrank.pipeline import Result, plan_only, prepare
from onnx_lowrank.pipeline import compress as compress_request
from onnx_lowrank.plan.plan import Plan, SitePlan
from onnx_lowrank.runtime.providers import runtime_version
from onnx_lowrank.stages.choices import layers_to_choose, site_energies
from onnx_lowrank.stages.families import Member, joined_inputs, joined_rows, repetitions
from onnx_lowrank.stages.prepared import Prepared
from onnx_lowrank.stages.request import Request
from onnx_lowrank.stages.run import Run
from onnx_lowrank.stages.steps import SolveStep, steps

Array = NDArray[Any]

EXACT = 1e-8
"""The relative squared error that float32 leaves at full rank."""


def small(model: onnx.ModelProto, **options: Any) -> Result:
    """Compress a small network with random weights, without its stem."""
    return compress(
        model,
        photo(1, (20, 3, 16, 12)),
        **{"exclude": "stem|lateral|projection", "require": "none", "threads": 1, "solver": "linear", **options},
    )


def named(model: onnx.ModelProto) -> list[tuple[str, ...]]:
    """The names in every family of the convolutions behind the stem."""
    network = normalise(model)
    return [family.names for family in families(network, find_sites(network, exclude="stem").sites)]


def relative_error(model: onnx.ModelProto, other: onnx.ModelProto) -> float:
    x = {"x": photo(7, (3, 3, 16, 12))}
    pairs = [(a, run_model(other, x)[name]) for name, a in run_model(model, x).items()]
    return float(sum(np.square(a - b).sum() for a, b in pairs) / sum(np.square(a).sum() for a, _ in pairs))


def at_full_rank(model: onnx.ModelProto, form: str) -> Plan:
    request = Request(
        model, photo(1, (20, 3, 16, 12)), Options(speedup=1.0, threads=1, exclude="stem|lateral|projection")
    )
    run, kind = Run.start(request), FORMS[form]
    with contextlib.ExitStack() as stack:
        shapes = prepare(run, stack).counted.shapes
    return Plan(tuple(SitePlan(name, form, kind.highest_ranks(shape)) for name, shape in shapes.items()))


@pytest.mark.parametrize("by_level", [False, True])
@pytest.mark.parametrize("speedup", [1.3, 2.0, 4.0])
def test_a_head_on_several_levels_stores_its_factors_once_and_the_file_shrinks(speedup: float, by_level: bool) -> None:
    model = head(by_level=by_level)
    result = small(model, speedup=speedup)
    assert stored_bytes(result.model) < stored_bytes(model)
    assert result.report.speedup.macs >= speedup
    for j in range(2):
        chains = [chain for level in range(3) for chain in weights_read(result.model, f"level{level}.head.{j}")]
        assert len(chains) == 3 and len(set(chains)) == 1
    names = [tensor.name for tensor in result.model.graph.initializer]
    assert len(names) == len(set(names))


def test_a_report_and_a_plan_name_all_members() -> None:
    result = small(head(), speedup=2.0)
    sites = {site.name: site for site in result.report.sites}
    first, second = sites["level0.head.1"], sites["level2.head.1"]
    assert first.shares_weight_with == ("level1.head.1", "level2.head.1")
    assert second.shares_weight_with == ("level0.head.1", "level1.head.1")
    assert (first.form, first.ranks, first.error_linear) == (second.form, second.ranks, second.error_linear)
    assert first.reason.endswith("factors shared with 2 others")
    assert first.macs_before > second.macs_before
    request = Request(head(), photo(1, (20, 3, 16, 12)), Options(speedup=2.0, threads=1, exclude="stem|lateral"))
    planned = plan_only(request)
    assert [site.name for site in planned.plan.sites] == [site.name for site in planned.sites]
    assert planned.sites[0].shares_weight_with == ("level1.head.0", "level2.head.0")
    again = small(head(), plan=Plan.from_json(planned.plan.to_json()), solver="nonlinear")
    direct = small(head(), speedup=2.0, solver="nonlinear")
    assert again.model.SerializeToString(deterministic=True) == direct.model.SerializeToString(deterministic=True)


@pytest.mark.parametrize("form", ["channel", "spatial", "3d", "cp"])
@pytest.mark.parametrize("model", [head(), loop(two=True)], ids=["side by side", "one behind the other"])
def test_full_rank_is_exact_in_every_form(form: str, model: onnx.ModelProto) -> None:
    result = small(model, plan=at_full_rank(model, form), solver="nonlinear")
    assert all(site.form == form for site in result.report.sites)
    # The CP form has no rank that reproduces every kernel.
    assert relative_error(model, result.model) < (1e-2 if form == "cp" else EXACT)


@given(
    geometry=st.lists(st.tuples(st.integers(1, 2), st.integers(1, 2), st.integers(0, 2)), min_size=2, max_size=3),
    rest=st.sampled_from(["relu", "clip", "shortcut"]),
    solver=st.sampled_from(["linear", "nonlinear", "weights"]),
)
@settings(max_examples=12, deadline=None)
def test_members_may_differ_in_all_but_the_weight(geometry: list[tuple[int, int, int]], rest: str, solver: str) -> None:
    model = in_parallel(geometry, rest)
    exact = small(model, plan=at_full_rank(model, "channel"), solver=solver)
    assert relative_error(model, exact.model) < EXACT
    # A run refuses to write a result that does not cost what was planned.
    halved = small(model, speedup=1.4, include="^a", exclude=None, solver=solver)
    assert len(set(weights_read(halved.model, "a"))) == 1
    assert stored_bytes(halved.model) <= stored_bytes(model)


@contextlib.contextmanager
def prepared_run(model: onnx.ModelProto, **options: Any) -> Iterator[tuple[Run, Prepared]]:
    given_options = {"speedup": 1.5, "threads": 1, "exclude": "stem|lateral|projection", "solver": "linear", **options}
    run = Run.start(Request(model, photo(1, (30, 3, 16, 12)), Options(**given_options)))
    with contextlib.ExitStack() as stack:
        yield run, prepare(run, stack)


@pytest.mark.parametrize("levels", [2, 4])
@pytest.mark.parametrize("speedup", [1.5, 2.5])
def test_the_joint_solution_is_as_good_for_all_members_as_the_best_solution_of_one(levels: int, speedup: float) -> None:
    with prepared_run(head(levels, 1), speedup=speedup, symmetric=True, form="channel") as (run, prepared):
        (step,) = steps(run, prepared)
        assert isinstance(step, SolveStep) and len(step.members) == levels
        answers = prepared.shard.rows(step.questions, step.forms, 1 << 30)
        rows, X = joined_rows(step.members, answers, step.sampling), joined_inputs(answers)[0][:, 0]
        assert rows.shortcut is not None  # the biases differ

        def error(members: tuple[Member, ...]) -> float:
            """The squared error over all members of the factors that some of them give."""
            solution = replace(step, members=members).run(prepared.shard, 1 << 30).replacements[0]
            first, last = (link.kernel.reshape(len(link.kernel), -1) for link in solution.factorization.links)
            kernel = solution.site.kernel.reshape(len(last), -1)
            predicted = X @ (last @ first @ np.linalg.pinv(kernel)).T + solution.factorization.bias
            own, reference = solution.site.bias, step.sites[0].bias
            return float(np.square(predicted - (own - reference) + rows.shortcut - rows.targets).sum())

        joint = error(step.members)
        assert joint <= 1.01 * min(error((member,)) for member in step.members)


def test_members_of_one_map_size_count_alike_and_small_maps_count_more_than_their_rows() -> None:
    assert repetitions([500, 500]) == [1, 1]
    assert repetitions([1000, 250, 10]) == [1, 2, 10]


@pytest.mark.parametrize("solver", ["linear", "weights"])
def test_several_shards_give_the_same_bytes_as_one(solver: str) -> None:
    request = Request(
        head(), photo(1, (20, 3, 16, 12)),
        Options(speedup=2.0, threads=1, exclude="stem", require="none", solver=solver),
    )  # fmt: skip
    one, two = (compress_request(request, shards=count).model for count in (1, 2))
    assert one.SerializeToString(deterministic=True) == two.SerializeToString(deterministic=True)


def test_the_order_in_the_file_changes_neither_the_factors_nor_the_passes() -> None:
    reports, factors = [], []
    for by_level in (False, True):
        result = small(head(by_level=by_level), speedup=2.0, exclude="stem", include=None)
        reports.append(result.report)
        stored = {tensor.name: tensor.SerializeToString() for tensor in result.model.graph.initializer}
        factors.append(stored)
    assert factors[0] == factors[1]
    assert reports[0].cost.forward_passes == pytest.approx(reports[1].cost.forward_passes, rel=0.05)


def test_layers_are_reached_together_where_they_do_not_wait_for_one_another() -> None:
    for model in (head(by_level=True), loop(), loop(two=True), in_parallel([(1, 1, 1), (2, 1, 1)], "shortcut")):
        network = normalise(model)
        found = families(network, find_sites(network, exclude="stem").sites)
        path = gathered(network, found)
        names = [node.name for node in path.nodes]
        assert sorted(names) == sorted(node.name for node in network.nodes)
        made = {tensor.name for tensor in path.inputs}
        for node in path.nodes:
            assert all(name in made for name in path.reads(node) if name not in path.constants())
            made |= {tensor.name for tensor in node.outputs}
    network = normalise(loop(two=True))
    assert gathered(network, families(network, find_sites(network).sites)) is network
    network = normalise(head(by_level=True))
    names = [node.name for node in gathered(network, families(network, find_sites(network).sites)).nodes]
    convs = [name for name in names if ".head." in name]
    assert convs == [f"level{level}.head.{j}" for j in range(2) for level in range(3)]


def test_equal_values_make_a_family_wherever_they_are_stored() -> None:
    kernel = low_rank(1, 8, 8, 3, 3)
    stored = {"w": weights(1, 8, 3, 3, 3), "a": kernel, "b": kernel, "c": kernel, "d": 2 * kernel}
    nodes = [
        conv("stem", "x", "w", "s"), helper.make_node("Identity", ["c"], ["c1"]),
        helper.make_node("Identity", ["c"], ["c2"]),
        conv("one", "s", "a", "y1"), conv("two", "y1", "b", "y2"), conv("three", "y2", "c1", "y3"),
        conv("four", "y3", "c2", "y4"), conv("five", "y4", "d", "y"),
    ]  # fmt: skip
    model = build(nodes, stored)
    assert named(model) == [("one", "two", "three", "four"), ("five",)]
    network = normalise(model)
    assert [family.depth for family in families(network, find_sites(network, exclude="stem").sites)] == [4, 1]
    assert stored_bytes(small(model, speedup=1.01).model) < stored_bytes(model)


def test_types_and_groups_tell_weights_apart() -> None:
    kernel = weights(1, 8, 4, 3, 3)
    stored = {"w": weights(2, 4, 3, 3, 3), "a": kernel, "v": weights(3, 8, 8, 1, 1)}
    nodes = [
        conv("stem", "x", "w", "s"), conv("one", "s", "a", "y1"), conv("two", "y1", "a", "y", group=2),
    ]  # fmt: skip
    del stored["v"]
    assert named(build(nodes, stored)) == [("one",), ("two",)]


@pytest.mark.parametrize("same", [True, False])
def test_a_normalisation_of_one_level_does_not_make_the_file_grow(same: bool) -> None:
    model = normalised_levels(same)
    result = small(model, speedup=1.5)
    assert {site.activation for site in result.report.sites} == {"Relu" if same else None}
    assert len(set(weights_read(result.model, "level"))) == 1
    assert stored_bytes(result.model) < stored_bytes(model)
    assert relative_error(model, small(model, plan=at_full_rank(model, "channel")).model) < EXACT


def test_a_weight_that_another_layer_keeps_is_named_in_a_warning() -> None:
    result = small(head(), speedup=1.5, exclude="stem|lateral|level1.head.0")
    (line,) = result.report.warnings
    assert "level0.head.0, level2.head.0" in line and "level1.head.0 (excluded by --exclude) reads it as well" in line
    assert "the file grows by the factors" in line
    assert "head.0" in {tensor.name for tensor in result.model.graph.initializer}
    assert small(head(), speedup=1.5).report.warnings == ()


def test_a_plan_with_several_choices_for_one_weight_is_followed_and_said() -> None:
    plan = Plan((SitePlan("level0.head.0", "channel", (4,)), SitePlan("level1.head.0", "channel", (6,)),
                 SitePlan("level2.head.0", "channel", (4,))))  # fmt: skip
    result = small(head(), plan=plan)
    chains = [chain for level in range(3) for chain in weights_read(result.model, f"level{level}.head.0")]
    assert chains[0] == chains[2] != chains[1]
    (line,) = result.report.warnings
    assert "level0.head.0, level1.head.0, level2.head.0 share a weight, and the plan has 2 choices for them" in line


def test_a_weight_in_the_body_of_an_if_stays_for_it() -> None:
    body = [
        helper.make_graph(
            [conv("inside", "r", "wa", f"{name}_y")], name, [],
            [helper.make_tensor_value_info(f"{name}_y", TensorProto.FLOAT, None)],
        ) for name in ("then", "else")
    ]  # fmt: skip
    nodes = [
        conv("stem", "x", "w", "c"), relu("c", "r"),
        helper.make_node("If", ["yes"], ["i"], "if", then_branch=body[0], else_branch=body[1]),
        conv("outside", "i", "wa", "o"), relu("o", "y"),
    ]  # fmt: skip
    model = build(nodes, {"w": weights(1, 8, 3, 3, 3), "wa": low_rank(2, 8, 8, 3, 3), "yes": np.array(True)})
    result = small(model, speedup=1.1)
    (line,) = result.report.warnings
    assert "since If if reads it as well" in line
    assert relative_error(model, small(model, plan=at_full_rank(model, "channel")).model) < EXACT


@pytest.mark.parametrize("solver", ["linear", "nonlinear", "weights"])
def test_fully_connected_layers_share_factors_as_well(solver: str) -> None:
    stored = {
        "w": weights(1, 16, 3, 3, 3), "m": low_rank(2, 16, 16).T.copy(), "b": 0.1 * weights(3, 16),
        "b2": 0.2 * weights(4, 16),
    }  # fmt: skip
    nodes = [
        conv("stem", "x", "w", "c"), relu("c", "r"), helper.make_node("GlobalAveragePool", ["r"], ["g"]),
        helper.make_node("Flatten", ["g"], ["f"]),
        helper.make_node("MatMul", ["f", "m"], ["p"], "one"), helper.make_node("Add", ["p", "b"], ["q"]),
        relu("q", "h"),
        helper.make_node("MatMul", ["h", "m"], ["s"], "two"), helper.make_node("Add", ["s", "b2"], ["t"]),
        helper.make_node("MatMul", ["t", "m"], ["y"], "three"),
    ]  # fmt: skip
    model = build(nodes, stored, output_shape=("N", 16))
    plan = Plan(tuple(SitePlan(name, "channel", (4,)) for name in ("one", "two", "three")))
    result = small(model, plan=plan, include_gemm=True, solver=solver)
    assert len(set(weights_read(result.model, "one") + weights_read(result.model, "two"))) == 1
    assert stored_bytes(result.model) < stored_bytes(model)
    full = Plan(tuple(SitePlan(site.name, "channel", (16,)) for site in plan.sites))
    assert relative_error(model, small(model, plan=full, include_gemm=True, solver=solver).model) < 1e-6


def test_a_shared_first_convolution_is_taken_where_its_weight_goes_anyway() -> None:
    stored = {"w": low_rank(1, 3, 3, 3, 3), "v": low_rank(2, 8, 3, 3, 3)}
    nodes = [
        conv("first", "x", "w", "a"), relu("a", "b"), conv("second", "b", "w", "c"), relu("c", "d"),
        conv("third", "d", "v", "y"),
    ]  # fmt: skip
    result = small(build(nodes, stored), speedup=1.1, exclude=None)
    assert {site.name for site in result.report.sites} == {"first", "second", "third"}


def test_choices_of_one_weight_add_up_their_costs() -> None:
    with prepared_run(head()) as (run, prepared):
        layers = layers_to_choose(
            site_energies(prepared.counted, prepared.profiled, run.kinds), prepared.counted, EVERY_RANK
        )
        shapes = prepared.counted.shapes
        for layer in layers:
            assert layer.untouched == sum(shapes[name].macs for name in layer.names)
            form, ranks = layer.choice(0)
            assert layer.costs[0] == sum(FORMS[str(form)].cost(shapes[name], ranks) for name in layer.names)
            assert [plan.name for plan in layer.site_plans(0)] == list(layer.names)
        assert sum(layer.untouched for layer in layers) == sum(shape.macs for shape in shapes.values())


def test_a_plan_by_the_clock_has_one_choice_for_a_weight(tmp_path: Path) -> None:
    model = tmp_path / "net.onnx"
    onnx.save(shared_twins(), model)
    table = Table()
    at = table.at(Setting("elsewhere", "CPUExecutionProvider", runtime_version(), 1, 1))
    at.models[model_key(load(model), {"x": photo(0, (1, 3, 12, 10))})] = 10.0
    at.steps["float32"] = 4
    geometry = ConvGeometry("float32", (1, 16, 12, 10), 16, (3, 3), (1, 1), (1, 1), (1, 1, 1, 1), 1, True)
    at.layers[geometry] = {ORIGINAL: 4.0, ("channel", (4,)): 1.0, ("channel", (12,)): 3.0}
    (tmp_path / "t.json").write_text(table.to_json(), encoding="utf-8")
    options = Options(
        speedup=1.5, target="latency", threads=1, latency_table=str(tmp_path / "t.json"), latency_device="elsewhere"
    )
    planned = plan_only(Request(model, photo(1, (12, 3, 12, 10)), options))
    one, two = planned.sites
    assert one.form == two.form == "channel" and one.ranks == two.ranks
    assert one.ms_before == two.ms_before == 4.0
    assert planned.latency_plan and planned.latency_plan.predicted_ratio >= 1.5


def shared_twins() -> onnx.ModelProto:
    """conv1, and conv2 and conv3, which share a weight."""
    model = three_convs()
    for node in model.graph.node:
        if node.name == "conv3":
            node.input[1] = "w2"
    del model.graph.initializer[2]
    return model


@pytest.mark.parametrize("activation", [None, RELU])
def test_a_member_moves_its_own_bias_where_held_out_rows_gain(activation: Activation | None) -> None:
    rng = np.random.default_rng(1)
    targets = rng.normal(size=(400, 5)).astype(np.float32)
    judges = np.arange(400) % 5 == 4
    wanted = np.array([0.5, -0.3, 0.1, 0.0, 1.0])
    predictions = (targets - wanted + 0.1 * rng.normal(size=targets.shape)).astype(np.float32)
    np.testing.assert_allclose(own_bias(predictions, targets, judges, activation), wanted, atol=0.05)
    assert not own_bias(targets, targets, judges, activation).any()
    noisy = (targets + rng.normal(size=targets.shape)).astype(np.float32)
    assert not own_bias(noisy, targets, judges, None).any()


def test_the_smallest_map_keeps_its_mean_responses() -> None:
    """A map of one pixel, whose few rows say little to the factors of all."""
    model = head(levels=4, convs=1)
    result = small(model, speedup=3.0, solver="nonlinear")
    x = {"x": photo(7, (30, 3, 16, 12))}
    means = [run_model(one, x)["y3"].mean(axis=0) for one in (model, result.model)]
    assert np.abs(means[1] - means[0]).max() < 0.25 * np.abs(means[0]).max()
