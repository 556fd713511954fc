"""Neighbouring layers refined together: how a network is divided, what a window tells, and what a refinement keeps."""

import functools
import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import pytest
from models_for_tests import build, classifier, conv, deep_residual, photo, relu, run_model, weights
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from test_residual import at_rank, blocks, pre_activated, rectified, smooth_photos

from onnx_lowrank import Result, compress
from onnx_lowrank.calibration.sampling import Sampling
from onnx_lowrank.errors import UsageError
from onnx_lowrank.factorise.blocks.block import Part
from onnx_lowrank.factorise.blocks.operator import Extent
from onnx_lowrank.factorise.blocks.refinement import Course, empty_columns, refine
from onnx_lowrank.factorise.blocks.windows import windows
from onnx_lowrank.factorise.workers import workers
from onnx_lowrank.graph.blocks.read import ReadBlock, read_block
from onnx_lowrank.graph.edit.normalise import normalise
from onnx_lowrank.graph.find.blocks import Stretch, passing_tensors, stretches
from onnx_lowrank.graph.network import Network
from onnx_lowrank.graph.segments import whole
from onnx_lowrank.options import Options
from onnx_lowrank.pipeline import plan_only
from onnx_lowrank.plan.plan import Plan
from onnx_lowrank.stages.request import Request

Array = NDArray[Any]
run = functools.partial(compress, threads=1, require="none", refine=24)


def shapes(network: Network, x: Array) -> dict[str, tuple[int, ...]]:
    values = run_model(whole(network, passing_tensors(network)), {"x": x})
    return {name: value.shape for name, value in (values | {"x": x}).items()}


def divided(model: onnx.ModelProto, most: int = 4, x: Array | None = None) -> tuple[Network, tuple[Stretch, ...]]:
    network = normalise(model)
    return network, stretches(network, shapes(network, photo() if x is None else x), most)


def inverted(count: int = 3, d: int = 4, hidden: int = 24) -> onnx.ModelProto:
    """Inverted residual blocks: a point-wise convolution widens, a depthwise one filters, another one narrows."""
    stored: dict[str, Array] = {"w_stem": weights(1, d, 3, 3, 3)}
    nodes = [conv("stem", "x", "w_stem", "s0")]
    for i in range(count):
        stored |= {
            f"wide{i}": weights(10 * i + 2, hidden, d, 1, 1),
            f"each{i}": weights(10 * i + 3, hidden, 1, 3, 3),
            f"narrow{i}": weights(10 * i + 4, d, hidden, 1, 1),
        }
        nodes += [
            conv(f"wide{i}", f"s{i}", f"wide{i}", f"a{i}", pads=[0] * 4),
            helper.make_node("HardSwish", [f"a{i}"], [f"b{i}"]),
            conv(f"each{i}", f"b{i}", f"each{i}", f"c{i}", group=hidden),
            relu(f"c{i}", f"e{i}"),
            conv(f"narrow{i}", f"e{i}", f"narrow{i}", f"n{i}", pads=[0] * 4),
            helper.make_node("Add", [f"n{i}", f"s{i}"], ["y" if i == count - 1 else f"s{i + 1}"]),
        ]
    return build(nodes, stored)


NETWORKS = {
    "residual": blocks(rectified),
    "pre-activated": pre_activated(),
    "inverted": inverted(),
    "classifier": classifier("MatMul and Add"),
    "deep": deep_residual(6),
}
networks = pytest.mark.parametrize("name", NETWORKS)


@networks
@pytest.mark.parametrize("most", [2, 3, 5, 100])
def test_stretches_follow_one_another_and_hold_a_bounded_number_of_layers(name: str, most: int) -> None:
    network, found = divided(NETWORKS[name], most)
    # All nodes belong to a stretch, but for the fully connected layers at the end and what follows them.
    rest = network.nodes[found[-1].stop(network) :]
    assert found[0].start(network) == 0 and (not rest or rest[0].op in ("Gemm", "MatMul"))
    for stretch, following in itertools.pairwise(found):
        assert stretch.stop(network) == following.start(network)
        assert set(following.inputs) <= {*stretch.outputs, *stretch.inputs, "x"} | {
            output for earlier in found for output in earlier.outputs
        }
    assert all(1 <= len(stretch.layers) <= most for stretch in found)


def test_a_network_of_inverted_bottlenecks_is_cut_where_it_is_narrow() -> None:
    _, found = divided(inverted())
    assert [stretch.outputs for stretch in found][-3:] == [("s1",), ("s2",), ("y",)] or found[-1].inputs == ("s2",)
    assert all(output in ("s0", "s1", "s2", "y") for stretch in found for output in stretch.outputs)


def test_a_cut_lies_behind_an_activation() -> None:
    _, found = divided(deep_residual(6))
    assert all(output[0] in "ry" for stretch in found for output in stretch.outputs)


@networks
def test_a_stretch_computes_what_the_runtime_does(name: str) -> None:
    network, found = divided(NETWORKS[name])
    x = photo()
    values = run_model(whole(network, passing_tensors(network)), {"x": x}) | {"x": x}
    values |= run_model(NETWORKS[name], {"x": x})
    for stretch in found:
        read = read_block(network, stretch, shapes(network, x))
        assert isinstance(read, ReadBlock)
        inputs = {each: np.ascontiguousarray(values[each].swapaxes(0, 1)) for each in stretch.inputs}
        for output, own in read.block.run(read.weights, inputs).items():
            np.testing.assert_allclose(own.swapaxes(0, 1), values[output], rtol=1e-4, atol=1e-5)
        assert len(read.trained) >= len(stretch.layers)


def a_block(model: onnx.ModelProto | None = None) -> tuple[ReadBlock, Stretch]:
    network, found = divided(model or inverted())
    stretch = found[-1]
    read = read_block(network, stretch, shapes(network, photo()))
    assert isinstance(read, ReadBlock)
    return read, stretch


STRIDED = {
    "w1": weights(1, 8, 3, 3, 3), "w2": weights(2, 8, 1, 5, 5), "w3": weights(3, 6, 8, 3, 3),
}  # fmt: skip


REPEATED = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
LINEAR = {"mode": "linear", "coordinate_transformation_mode": "half_pixel"}


def strided(**attributes: Any) -> onnx.ModelProto:
    """A strided convolution, a pooling, a dilated depthwise convolution and a Resize to twice the size."""
    nodes = [
        conv("first", "x", "w1", "a", strides=[2, 2]),
        relu("a", "b"),
        helper.make_node("MaxPool", ["b"], ["c"], kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]),
        conv("second", "c", "w2", "d", group=8, pads=[2] * 4),
        helper.make_node("Resize", ["d", "", "by"], ["e"], **attributes),
        helper.make_node("Add", ["e", "b"], ["f"]),
        conv("third", "f", "w3", "y", dilations=[2, 2], pads=[2] * 4),
    ]  # fmt: skip
    return build(nodes, STRIDED | {"by": np.array([1, 1, 2, 2], np.float32)})


@pytest.mark.parametrize("larger", [REPEATED, LINEAR], ids=["repeated", "linear"])
@pytest.mark.parametrize("size", [(200, 160), (148, 64), (132, 600)])
def test_what_a_window_knows_is_what_the_whole_map_says(size: tuple[int, int], larger: dict[str, Any]) -> None:
    x = photo(0, (1, 3, *size))
    network = normalise(strided(**larger))
    stretch = Stretch(None, "y", ("x",), ("y",), ())
    read = read_block(network, stretch, {"x": x.shape})
    assert isinstance(read, ReadBlock)
    seen = windows(read.block, {"x": size})
    assert seen is not None and seen.per_map > 1
    values = np.ascontiguousarray(x.swapaxes(0, 1))
    expected = read.block.run(read.weights, {"x": values})["y"]
    generator, told = np.random.default_rng(0), np.zeros(expected.shape[2:], np.bool_)
    for _ in range(200):
        window = seen.draw(generator)
        assert window is not None
        seen_of_x = np.ascontiguousarray(values[:, :, *window.slices["x"]])
        part = read.block.run(read.weights, {"x": seen_of_x})["y"]
        rows, columns = (np.flatnonzero(known) for known in window.known["y"])
        where = np.ix_(rows + window.slices["y"][0].start, columns + window.slices["y"][1].start)
        np.testing.assert_allclose(part[:, 0][:, rows][:, :, columns], expected[:, 0][:, where[0], where[1]], atol=1e-4)
        told[where] = True
    assert told[0].any() and told[-1].any() and told[:, 0].any() and told[:, -1].any()  # the borders of the map too


def test_small_maps_and_means_over_the_map_are_looked_at_as_a_whole() -> None:
    read, stretch = a_block()
    assert windows(read.block, dict.fromkeys(stretch.inputs, (20, 20))) is None
    head = read_block(
        normalise(classifier("transB 1")), Stretch(None, "y", ("x",), ("y",), ()), {"x": (1, 3, 200, 200)}
    )
    assert isinstance(head, ReadBlock) and windows(head.block, {"x": (200, 200)}) is None


def problem(seed: int = 0, samples: int = 48) -> tuple[ReadBlock, dict[str, Array], tuple[list[Part], list[Part]]]:
    """A block with an error in all its weights, whose targets are what it made before."""
    read, stretch = a_block()
    rng = np.random.default_rng(seed)
    parts: tuple[list[Part], list[Part]] = ([], [])
    for number in range(samples // 4):
        inputs = {name: rng.normal(size=(4, 4, 7, 6)).astype(np.float32) for name in stretch.inputs}
        part = Part(inputs, dict(read.block.run(read.weights, inputs)))
        parts[number % 4 == 2].append(part)
    wrong = {
        name: values + (0.3 * np.abs(values).mean() * rng.normal(size=values.shape)).astype(np.float32)
        if name in read.trained
        else values
        for name, values in read.weights.items()
    }
    return read, wrong, parts


def test_a_refinement_lowers_the_error_and_depends_on_its_seed_alone() -> None:
    read, wrong, parts = problem()
    first, again = (refine(read.block, wrong, read.trained, parts, Course(40, 5)) for _ in range(2))
    with workers(3):
        divided_up = refine(read.block, wrong, read.trained, parts, Course(40, 5))
    assert first.error_after < 0.7 * first.error_before
    other = refine(read.block, wrong, read.trained, parts, Course(40, 6))
    for name in read.trained:
        np.testing.assert_array_equal(first.weights[name], again.weights[name])
        np.testing.assert_array_equal(first.weights[name], divided_up.weights[name])
    assert any((first.weights[name] != other.weights[name]).any() for name in read.trained)


def test_where_nothing_is_to_be_gained_the_weights_stay() -> None:
    read, _, parts = problem()
    found = refine(read.block, read.weights, read.trained, parts, Course(16))
    assert found.weights == {} and found.error_after == found.error_before < 1e-9


def test_columns_of_zeros_stay_zero_while_the_error_falls() -> None:
    read, wrong, parts = problem()
    narrow = next(name for name in read.trained if wrong[name].shape[:2] == (4, 24))
    each = next(name for name in read.trained if wrong[name].shape[:2] == (24, 1))
    wrong[narrow][:, [3, 7, 11]] = 0
    wrong[each][[5, 6]] = 0
    found = refine(read.block, wrong, read.trained, parts, Course(40))
    assert found.error_after < found.error_before
    assert not found.weights[narrow][:, [3, 7, 11]].any() and not found.weights[each][[5, 6]].any()
    assert found.weights[narrow].any(axis=(0, 2, 3)).sum() == 21


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_a_column_belongs_to_one_group(groups: int) -> None:
    weight = np.ones((8, 3, 2, 2))
    weight[: 8 // groups, 1] = 0
    weight[0, 2] = 0
    empty = np.broadcast_to(empty_columns(weight, groups), weight.shape)
    expected = np.zeros(weight.shape, np.bool_)
    expected[: 8 // groups, 1] = True
    np.testing.assert_array_equal(empty, expected)


def refined(model: onnx.ModelProto, share: float = 0.4, **options: Any) -> Result:
    return run(model, smooth_photos(80), plan=at_rank(model, share), **options)


def judging(model: onnx.ModelProto, result: Result, sampling: Sampling) -> float:
    """The error of the outputs on the samples that choose, as the last stretch has it."""
    chosen = [batch for batch, judges in zip(sampling.batches, sampling.judges, strict=True) if judges]
    feeds = [sampling.source.feeds(batch) for batch in chosen]
    expected = np.concatenate([run_model(model, dict(own))["y"] for own in feeds])
    found = np.concatenate([run_model(result.model, dict(own))["y"] for own in feeds])
    axes = (0, *range(2, expected.ndim))
    return float(np.square(found - expected).mean() / np.square(expected - expected.mean(axes, keepdims=True)).mean())


@pytest.mark.parametrize("name", sorted(NETWORKS.keys() - {"classifier"}))
def test_the_last_stretch_has_the_error_of_the_model_that_is_written(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # It stands on all refinements before it, so it shows that the samples have passed through the new weights.
    from onnx_lowrank.stages import refining

    seen: list[Sampling] = []
    original = refining.with_refinement

    def noting(run: Any, prepared: Any, steps: Any, stack: Any) -> Any:
        seen.append(prepared.sampled.sampling)
        return original(run, prepared, steps, stack)

    monkeypatch.setattr("onnx_lowrank.pipeline.with_refinement", noting)
    monkeypatch.setattr(refining, "stretches", functools.partial(stretches, most=3))
    result = refined(NETWORKS[name])
    assert any(not stretch.kept for stretch in result.report.refined[:-1])
    last = result.report.refined[-1]
    assert last.error_after == pytest.approx(judging(NETWORKS[name], result, seen[0]), rel=2e-3)
    for stretch in result.report.refined:
        assert stretch.error_before is not None and stretch.error_after is not None
        assert stretch.error_after <= stretch.error_before and stretch.kept == (stretch.steps == 0)


def test_a_refinement_helps_on_samples_that_took_no_part() -> None:
    model = inverted()
    before, after = (refined(model, refine=steps).report.outputs["y"].centred_error for steps in (0, 60))
    assert before is not None and after is not None and after < 0.9 * before


def test_left_to_the_tool_a_plan_that_loses_much_is_refined_and_replayed_alike() -> None:
    auto = functools.partial(run, inverted(), smooth_photos(80), refine="auto", rank_multiple=1)
    much, little = auto(speedup=2.5), auto(speedup=1.02)
    assert [error > 0.05 for error in (rehearsed(much), rehearsed(little))] == [True, False]
    assert much.report.refined and not little.report.refined
    plan = plan_only(Request(inverted(), smooth_photos(80), Options(speedup=2.5, threads=1, rank_multiple=1))).plan
    again = auto(plan=Plan.from_json(plan.to_json()))
    assert again.model.SerializeToString() == much.model.SerializeToString()
    assert not auto(speedup=2.5, objective="energies").report.refined  # nothing was rehearsed


def rehearsed(result: Result) -> float:
    """The error of the rehearsal of the plan that was carried out."""
    importance = result.report.importance
    assert importance is not None
    error = importance.rehearsals[f"{importance.exponent:g}"]
    assert error is not None
    return error


def plain_chain(layers: int = 12, channels: int = 32) -> onnx.ModelProto:
    """Build a chain long enough to be cut into stretches between layers that all may lose channels."""
    nodes, stored = [], {}
    for i in range(layers):
        inputs, filters = (3 if i == 0 else channels), (4 if i == layers - 1 else channels)
        stored[f"w{i}"] = weights(i, filters, inputs, 3, 3)
        nodes.append(conv(f"c{i}", f"t{i}", f"w{i}", "y" if i == layers - 1 else f"a{i}"))
        if i < layers - 1:
            nodes.append(relu(f"a{i}", f"t{i + 1}"))
    nodes[0].input[0] = "x"
    return build(nodes, stored)


def test_stretches_that_deliver_fewer_channels_are_refined_for_those_that_stay() -> None:
    narrowed = functools.partial(run, plain_chain(), smooth_photos(80), speedup=1.5, width="only")
    result, without = narrowed(), narrowed(refine=0)
    assert result.report.widths and len(result.report.refined) > 1
    assert all(stretch.reason == "refined" for stretch in result.report.refined)
    before, after = (each.report.outputs["y"].centred_error for each in (without, result))
    assert before is not None and after is not None and after < before


def test_without_steps_nothing_is_refined_and_nothing_changes() -> None:
    model = pre_activated()
    result = refined(model, refine=0)
    assert result.report.refined == ()
    assert all(not refined(model, **options).report.refined for options in ({"symmetric": True}, {"solver": "weights"}))


def test_a_node_without_a_known_slope_leaves_its_stretch_alone() -> None:
    model = deep_residual(4)
    unknown = helper.make_node("Softsign", ["r2"], ["odd"])
    nodes = list(model.graph.node)
    index = next(i for i, node in enumerate(nodes) if "r2" in node.input)
    del model.graph.node[:]
    for node in nodes[index:]:
        node.input[:] = ["odd" if name == "r2" else name for name in node.input]
    model.graph.node.extend([*nodes[:index], unknown, *nodes[index:]])
    reasons = [stretch.reason for stretch in refined(model).report.refined]
    assert "left alone: Softsign has no known slope" in reasons and "refined" in reasons


def test_a_shape_that_passes_through_all_stretches_is_known_in_each(monkeypatch: pytest.MonkeyPatch) -> None:
    model = classifier("transB 1")
    flatten = next(node for node in model.graph.node if node.op_type == "Flatten")
    flatten.op_type, flatten.name = "Reshape", "flat"
    flatten.input.append("target")
    nodes = [
        helper.make_node("Shape", ["x"], ["size"]),
        helper.make_node("Gather", ["size", "first"], ["count"], axis=0),
        *model.graph.node,
    ]
    index = next(number for number, node in enumerate(nodes) if node.name == "flat")
    nodes.insert(index, helper.make_node("Concat", ["count_row", "rest"], ["target"], axis=0))
    nodes.insert(index, helper.make_node("Unsqueeze", ["count", "zero"], ["count_row"]))
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    for name, value in {"first": np.int64(0), "rest": np.array([-1]), "zero": np.array([0])}.items():
        model.graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
    monkeypatch.setattr("onnx_lowrank.stages.refining.stretches", functools.partial(stretches, most=2))
    found = refined(model).report.refined
    assert [stretch.layers for stretch in found] == [("c2", "c3")] and all(
        stretch.error_before is not None for stretch in found
    )


def test_weights_that_others_read_stay() -> None:
    model = pre_activated()
    model.graph.output.append(helper.make_tensor_value_info("twin", 1, None))
    twin = conv("twin", "s3", "w0b", "twin")
    model.graph.node.insert(len(model.graph.node), twin)
    network, found = divided(model)
    own = next(stretch for stretch in found if "d0" in stretch.layers and "twin" not in stretch.layers)
    read = read_block(network, own, shapes(network, photo()))
    assert isinstance(read, ReadBlock) and "w0b" in read.weights and "w0b" not in read.trained


@pytest.mark.parametrize("steps", [-1, 2.5, "many", None])
def test_a_number_of_steps_that_is_none_is_refused(steps: Any) -> None:
    with pytest.raises(UsageError, match=r"^refine is .*: give a"):
        compress(pre_activated(), smooth_photos(4), refine=steps)


def test_extents_of_a_map_are_known_to_its_ends() -> None:
    read, stretch = a_block()
    ends = [Extent(np.ones(9, np.bool_), True, True)] * 2
    known = read.block.known(dict.fromkeys(stretch.inputs, ends))
    assert known is not None and all(own.all() for positions in known.values() for own in positions)
    cut = [replace(each, first=False) for each in ends]
    partly = read.block.known(dict.fromkeys(stretch.inputs, cut))
    assert partly is not None and all(not own[0] and own[1:].all() for own in partly["y"])
