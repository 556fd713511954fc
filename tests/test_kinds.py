"""Convolutions of every kind: one, two and three spatial axes, with and without groups."""

import itertools
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import pytest
from forms_for_tests import dense, every_kind, every_kind_of_conv, form_at, highest_ranks, shape_of
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from models_for_tests import build, conv, photo, relu, run_model, weights
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from onnx_lowrank import compress
from onnx_lowrank.factorise.activations.piecewise import prelu
from onnx_lowrank.factorise.activations.relu import RELU
from onnx_lowrank.factorise.factors import Factorization, side_by_side
from onnx_lowrank.factorise.forms.form import from_weights
from onnx_lowrank.factorise.forms.kind import FormKind
from onnx_lowrank.factorise.forms.spatial import SPATIAL, two_sizes
from onnx_lowrank.factorise.regression import LowRankMap
from onnx_lowrank.factorise.solve.fit import Fit
from onnx_lowrank.factorise.solve.groups import combine, restrict
from onnx_lowrank.graph.edit.normalise import normalise
from onnx_lowrank.graph.edit.rewrite import rewrite
from onnx_lowrank.graph.files.load import load
from onnx_lowrank.graph.files.save import export
from onnx_lowrank.graph.files.validate import validate
from onnx_lowrank.graph.find.site import ConvSite
from onnx_lowrank.graph.find.sites import find_sites
from onnx_lowrank.options import Options
from onnx_lowrank.pipeline import Result, plan_only
from onnx_lowrank.plan.plan import Plan
from onnx_lowrank.stages.request import Request

Array = NDArray[Any]

SIZES = {1: (40,), 2: (12, 10), 3: (7, 6, 5)}
"""The sizes of an input, by the number of spatial axes."""


@dataclass(frozen=True)
class Convolution:
    """What is drawn of one convolution."""

    axes: int
    group: int
    kernel: tuple[int, ...]
    attributes: dict[str, Any]
    biased: bool

    @property
    def kernel_array(self) -> Array:
        return weights(3, 12, 12 // self.group, *self.kernel)

    def model(self) -> onnx.ModelProto:
        stored = {"w": self.kernel_array} | ({"b": weights(4, 12)} if self.biased else {})
        node = conv("conv", "x", "w", "y", "b" if self.biased else None, group=self.group, **self.attributes)
        free = [None] * self.axes
        return build([node], stored, input_shape=("N", 12, *free), output_shape=("N", None, *free))


@st.composite
def convolutions(draw: st.DrawFn) -> Convolution:
    axes = draw(st.sampled_from([1, 2, 3]))

    def numbers(low: int, high: int, count: int = axes) -> list[int]:
        return draw(st.lists(st.integers(low, high), min_size=count, max_size=count))

    attributes: dict[str, Any] = {"strides": numbers(1, 3)}
    padding = draw(st.sampled_from(["pads", "SAME_UPPER", "SAME_LOWER", "VALID"]))
    if padding == "pads":
        attributes["pads"] = numbers(0, 3, 2 * axes)
    else:
        attributes["auto_pad"] = padding
    if not padding.startswith("SAME"):  # ONNX Runtime refuses the two together.
        attributes["dilations"] = numbers(1, 2)
    group = draw(st.sampled_from([1, 2, 3]))
    return Convolution(axes, group, tuple(numbers(1, 3)), attributes, draw(st.booleans()))


def at_full_rank(site: ConvSite, kind: FormKind) -> Factorization:
    """What the solver makes of the weights of every group at full rank."""
    parts = []
    for kernel, bias in zip(site.kernels, np.split(site.bias, site.group), strict=True):
        form = form_at(kind, kernel, highest_ranks(kind, kernel))
        parts.append(from_weights(form, kernel, bias))
    return side_by_side(parts)


@every_kind_of_conv
@settings(deadline=None, max_examples=40)
@given(convolution=convolutions())
def test_at_full_rank_every_form_computes_the_dense_convolution(kind: FormKind, convolution: Convolution) -> None:
    model = convolution.model()
    loaded = load(model)
    graph = normalise(loaded.proto)
    site = find_sites(graph, include="").sites[0]
    assume(kind.takes(shape_of(site.kernels[0])))
    chain = at_full_rank(site, kind)
    np.testing.assert_allclose(dense(chain), site.kernel, atol=1e-9)
    rewrite(graph, site, chain)
    result = export(graph, loaded)
    validate(result, model)
    depthwise = [link.kernel.shape[0] if link.depthwise else convolution.group for link in chain.links]
    groups = [helper.get_node_attr_value(node, "group") for node in result.graph.node if convolution.group > 1]
    assert groups == (depthwise if convolution.group > 1 else [])
    x = {"x": photo(1, (2, 12, *SIZES[convolution.axes]))}
    expected = run_model(model, x)["y"]
    assert site.output_size(SIZES[convolution.axes]) == expected.shape[2:]
    np.testing.assert_allclose(run_model(result, x)["y"], expected, atol=2e-5)


# ---- whole networks


def network(axes: int, group: int, seed: int = 0, channels: int = 12, stride: int = 1) -> onnx.ModelProto:
    """Stem; conv, PRelu; conv, added to a shortcut, Relu; conv. The three in the middle are sites with asymmetric pads
    or auto_pad, a stride, and no bias.
    """
    d, ones, sizes = channels, [1] * axes, (3,) * axes
    stored = {
        "w0": weights(seed + 1, d, 3, *sizes),
        "w1": weights(seed + 2, 2 * d, d // group, *sizes),
        "b1": weights(seed + 3, 2 * d),
        "s1": np.linspace(0, 0.5, 2 * d).reshape(-1, *ones).astype(np.float32),
        "w2": weights(seed + 4, 2 * d, 2 * d // group, *sizes),
        "w3": weights(seed + 5, d, 2 * d // group, *sizes),
    }
    nodes = [
        conv("stem", "x", "w0", "c0", pads=ones * 2), relu("c0", "r0"),
        conv("one", "r0", "w1", "c1", "b1", group=group, pads=[2] * axes + [0] * axes, strides=[stride] * axes),
        helper.make_node("PRelu", ["c1", "s1"], ["r1"]),
        conv("two", "r1", "w2", "c2", group=group, auto_pad="SAME_UPPER"),
        helper.make_node("Add", ["c2", "r1"], ["a2"]), relu("a2", "r2"),
        conv("three", "r2", "w3", "y", group=group, pads=ones * 2),
    ]  # fmt: skip
    free = [None] * axes
    return build(nodes, stored, input_shape=("N", 3, *free), output_shape=("N", d, *free))


def samples(axes: int, count: int = 40, seed: int = 7) -> Array:
    return photo(seed, (count, 3, *SIZES[axes]))


def relative_error(model: onnx.ModelProto, result: Result, axes: int) -> float:
    fresh = {"x": samples(axes, 60, 99)}
    expected, outputs = (run_model(one, fresh)["y"].astype(np.float64) for one in (model, result.model))
    assert outputs.shape == expected.shape
    return float(np.square(outputs - expected).sum() / np.square(expected).sum())


def conv_macs(model: onnx.ModelProto, axes: int) -> int:
    """Counted in the file itself, with the shapes of one run."""
    nodes = [node for node in model.graph.node if node.op_type == "Conv"]
    tapped = onnx.ModelProto()
    tapped.CopyFrom(model)
    del tapped.graph.output[:]
    tapped.graph.output.extend(onnx.ValueInfoProto(name=node.output[0]) for node in nodes)
    outputs = run_model(tapped, {"x": samples(axes, 1)})
    stored = {tensor.name: math.prod(tensor.dims) for tensor in model.graph.initializer}
    return sum(stored[node.input[1]] * math.prod(outputs[node.output[0]].shape[2:]) for node in nodes)


CASES = [(axes, group) for axes, group in itertools.product((1, 2, 3), (1, 3)) if (axes, group) != (2, 1)]


@pytest.mark.parametrize(("axes", "group"), CASES)
def test_a_network_of_every_kind_is_halved_as_planned(axes: int, group: int) -> None:
    model = network(axes, group, stride=2)
    # Random weights hold nothing that a low rank would keep.
    toy: dict[str, Any] = {"threads": 1, "require": "none", "exclude": "stem"}
    result = compress(model, samples(axes), 2.0, **toy)
    report = result.report
    assert {site.name for site in report.sites} == {"one", "two", "three"}
    assert {site.group for site in report.sites} == {group}
    assert all(len(site.kernel) == axes for site in report.sites)
    before, after = conv_macs(model, axes), conv_macs(result.model, axes)
    assert (report.macs.conv_before, report.macs.conv_after) == (before, after)
    assert 2.0 <= before / after <= 2.03
    names = {node.name: node for node in result.model.graph.node}
    assert {site.name for site in report.sites if not site.kept} == {
        name.split("/")[0] for name in names if "/" in name
    }
    assert result.model.graph.input == model.graph.input and result.model.graph.output == model.graph.output
    assert next(site for site in report.sites if site.name == "one").activation == "PRelu"
    assert next(site for site in report.sites if site.name == "two").shortcut == "r1"
    data_free = compress(model, samples(axes), 2.0, solver="weights", **toy)
    assert relative_error(model, result, axes) < relative_error(model, data_free, axes)


@pytest.mark.parametrize(("axes", "group"), CASES)
def test_nonlinear_and_asymmetric_are_no_worse_for_any_kind(axes: int, group: int) -> None:
    model = network(axes, group)
    ways: dict[str, dict[str, Any]] = {"full": {}, "linear": {"solver": "linear"}, "symmetric": {"symmetric": True}}
    errors = {}
    for name, options in ways.items():
        # With fewer samples the judges of a small group choose by chance.
        result = compress(model, samples(axes, 120), 3.0, threads=1, **options)
        errors[name] = relative_error(model, result, axes)
        if name == "full":
            solved = [site for site in result.report.sites if not site.kept]
            assert all(site.error_nonlinear is not None for site in solved if site.activation)
            assert all(s.error_nonlinear <= s.error_linear for s in solved if s.error_nonlinear and s.error_linear)
    assert errors["full"] < errors["linear"]
    assert errors["full"] < errors["symmetric"]


@pytest.mark.parametrize(("axes", "group"), [(1, 3), (3, 1)])
@every_kind
def test_a_plan_is_saved_and_replayed_for_every_kind(axes: int, group: int, kind: FormKind) -> None:
    model = network(axes, group)
    if not kind.takes(shape_of(np.zeros((12, 12 // group, *(3,) * axes)))):
        sites = plan_only(Request(model, samples(axes), options=Options(1.0, kind.name, threads=1))).sites
        assert {s.reason for s in sites} == {f"left alone: the form {kind.name} needs {kind.needs}"}
        return
    planned = plan_only(Request(model, samples(axes), options=Options(2.0, kind.name, threads=1)))
    plan = Plan.from_json(planned.plan.to_json())
    result = compress(model, samples(axes), threads=1, plan=plan)
    assert [(s.name, s.form, s.ranks, s.macs_after) for s in result.report.sites] == [
        (s.name, s.form, s.ranks, s.macs_after) for s in planned.sites
    ]
    assert kind.name in {site.form for site in result.report.sites}


def test_full_ranks_solved_on_data_reproduce_a_grouped_network() -> None:
    model = network(1, 3)
    sites = [{"name": name, "form": "channel", "ranks": [d]} for name, d in (("one", 8), ("two", 8), ("three", 4))]
    plan = Plan.from_json(f'{{"schema": 1, "sites": {str(sites).replace(chr(39), chr(34))}}}')
    result = compress(model, samples(1), threads=1, plan=plan)
    assert relative_error(model, result, 1) < 1e-8
    # Twice the kernel's cost and more: the planner would never choose it.
    assert result.report.macs.conv_after > result.report.macs.conv_before


# ---- groups


def test_groups_are_solved_as_the_convolutions_that_they_are() -> None:
    """One grouped convolution, and the same as three small ones between a Split and a Concat."""
    d, sizes = 12, (3, 3)
    w0, w1 = weights(1, d, 3, *sizes), weights(2, d, d // 3, *sizes)
    stem = [conv("stem", "x", "w0", "c0"), relu("c0", "r0")]
    grouped = build([*stem, conv("g", "r0", "w1", "y", group=3)], {"w0": w0, "w1": w1})
    parts = [f"p{i}" for i in range(3)]
    apart = build(
        [*stem, helper.make_node("Split", ["r0", "sizes"], parts, axis=1)]
        + [conv(f"g{i}", f"p{i}", f"w1_{i}", f"y{i}") for i in range(3)]
        + [helper.make_node("Concat", ["y0", "y1", "y2"], ["y"], axis=1)],
        {"w0": w0, "sizes": np.array([4, 4, 4], np.int64)}
        | {f"w1_{i}": part for i, part in enumerate(np.split(w1, 3))},
    )
    data = photo(3, (30, 3, 12, 10))
    both = []
    for model, names in ((grouped, ["g"]), (apart, ["g0", "g1", "g2"])):
        sites = [{"name": name, "form": "channel", "ranks": [2]} for name in names]
        plan = Plan.from_json(f'{{"schema": 1, "sites": {str(sites).replace(chr(39), chr(34))}}}')
        result = compress(model, data, threads=1, plan=plan, solver="linear")
        both.append((run_model(result.model, {"x": photo(4)})["y"], result.report.macs.conv_after))
    # The two sample their positions independently, so they agree as far as 30,000 rows determine the solution.
    np.testing.assert_allclose(both[0][0], both[1][0], atol=0.03 * np.abs(both[1][0]).max())
    assert both[0][1] == both[1][1]


def test_what_follows_a_group_is_that_of_its_channels() -> None:
    slopes = tuple(float(x) for x in np.linspace(0, 0.5, 6))
    y = np.random.default_rng(0).standard_normal((5, 6)).astype(np.float32)
    whole = prelu(slopes).apply(y)
    for own in (slice(0, 3), slice(3, 6)):
        part = restrict(prelu(slopes), own)
        assert part is not None
        np.testing.assert_array_equal(part.apply(y[:, own]), whole[:, own])
    assert restrict(RELU, slice(0, 3)) is RELU and restrict(None, slice(0, 3)) is None
    assert restrict(prelu((0.1,)), slice(3, 6)) == prelu((0.1,))


def test_groups_are_judged_together() -> None:
    nothing = LowRankMap(np.zeros((1, 1)), np.zeros((1, 1)), np.zeros(1))
    fits = [Fit(nothing, nothing, 0.1, 0.05, 0.1, 3), Fit(nothing, nothing, 0.3, None, 0.1, 0)]
    outcome = combine(fits, [3.0, 1.0])
    assert outcome.error_linear == pytest.approx(0.15)
    assert outcome.error_nonlinear == pytest.approx((3 * 0.05 + 0.3) / 4)
    assert outcome.description == "1 of 2 groups: nonlinear, 3 iterations, ridge 0.1"
    assert combine(fits[:1], [0.0]).description == "nonlinear, 3 iterations, ridge 0.1"


def test_small_groups_that_cannot_gain_have_a_reason() -> None:
    # Two channels to one filter by 1×1: rank 1 takes 3 multiply-accumulates in place of 2.
    stored = {"w0": weights(1, 12, 3, 3, 3), "w1": weights(2, 12, 12, 3, 3), "w2": weights(3, 6, 2, 1, 1)}
    nodes = [
        conv("stem", "x", "w0", "a"), conv("wide", "a", "w1", "b"), conv("thin", "b", "w2", "y", group=6, pads=[0] * 4)
    ]  # fmt: skip
    sites = plan_only(Request(build(nodes, stored), photo(1, (6, 3, 12, 10)), options=Options(1.1, threads=1))).sites
    assert [site.reason for site in sites] == ["planned", "left alone: no rank saves MACs here"]


# ---- the spatial cut in three dimensions


def test_a_kernel_is_cut_behind_the_first_axis_along_which_it_extends() -> None:
    cuts = {(3,): (3, 1), (3, 5): (3, 5), (1, 3): (1, 3), (3, 5, 2): (3, 10), (1, 3, 5): (3, 5), (3, 1, 1): (3, 1)}
    assert {sizes: two_sizes(sizes) for sizes in cuts} == cuts
    assert two_sizes(()) == (1, 1)
    W = weights(1, 4, 2, 1, 3, 2).astype(np.float64)
    chain = from_weights(form_at(SPATIAL, W, highest_ranks(SPATIAL, W)), W, np.zeros(4))
    assert [link.carries for link in chain.links] == [(True, True, False), (False, False, True)]
    assert [link.kernel.shape[2:] for link in chain.links] == [(1, 3, 1), (1, 1, 2)]


@pytest.mark.parametrize("form", ["spatial", "3d"])
@pytest.mark.parametrize("sizes", [(1, 3, 3), (3, 1, 3), (2, 3, 2)])
def test_what_is_cut_in_three_dimensions_costs_what_was_planned(sizes: tuple[int, ...], form: str) -> None:
    stored = {"w0": weights(1, 12, 3, 3, 3, 3), "w1": weights(2, 12, 12, *sizes)}
    nodes = [
        conv("stem", "x", "w0", "c0", pads=[1] * 6),
        conv("cut", "c0", "w1", "y", strides=[1, 2, 2], pads=[0, 1, 2, 1, 0, 1]),
    ]
    free = [None] * 3
    model = build(nodes, stored, input_shape=("N", 3, *free), output_shape=("N", 12, *free))
    result = compress(model, samples(3, 6), 1.1, threads=1, form=form, solver="weights", exclude="stem", require="none")
    assert [site.form for site in result.report.sites] == [form]
    assert result.report.macs.conv_after == conv_macs(result.model, 3)


# ---- where they cannot be reached


@pytest.mark.parametrize(("axes", "group"), [(1, 1), (3, 1), (1, 3)])
def test_other_kinds_in_bodies_and_functions_are_named(axes: int, group: int) -> None:
    ones = [1] * axes
    free = helper.make_tensor_value_info("inner_out", onnx.TensorProto.FLOAT, None)
    inner = numpy_helper.from_array(weights(1, 12, 12 // group, *(3,) * axes), "w_inner")
    bodies = {}
    for branch in ("then_branch", "else_branch"):
        node = conv(f"in_{branch}", "c0", "w_inner", "inner_out", group=group, pads=ones * 2)
        bodies[branch] = helper.make_graph([node], branch, [], [free], [inner])
    nodes = [
        conv("stem", "x", "w0", "c0", pads=[0] * 2 * axes),
        helper.make_node("ReduceSum", ["x"], ["sum"], keepdims=0),
        helper.make_node("Cast", ["sum"], ["positive"], to=onnx.TensorProto.BOOL),
        helper.make_node("If", ["positive"], ["chosen"], "choice", **bodies),
        conv("after", "chosen", "w1", "y", group=group, pads=ones * 2),
    ]
    stored = {"w0": weights(2, 12, 3, *(1,) * axes), "w1": weights(3, 12, 12 // group, *(3,) * axes)}
    sizes = [None] * axes
    model = build(nodes, stored, input_shape=("N", 3, *sizes), output_shape=("N", None, *sizes))
    result = compress(model, samples(axes, 10), 1.3, threads=1)
    reasons = {skip.name: skip.reason for skip in result.report.skipped}
    assert reasons.pop("stem").startswith("the first convolution")
    assert reasons == dict.fromkeys(("in_then_branch", "in_else_branch"), "inside the body of If 'choice'")
    assert [site.name for site in result.report.sites] == ["after"]


@pytest.mark.parametrize(("axes", "group"), [(1, 1), (1, 3), (2, 3), (3, 1), (3, 3)])
def test_other_operators_of_every_kind_have_their_reasons(axes: int, group: int) -> None:
    sizes, free = (3,) * axes, [None] * axes
    stored = {
        "w": weights(1, 12, 12 // group, *sizes),
        "wd": weights(2, 12, 1, *sizes),
        "wt": weights(3, 12, 1, *sizes),
        "wq": np.ones((12, 12 // group, *sizes), np.int8),
        "scale": np.array(0.1, np.float32),
    }
    nodes = [
        helper.make_node("ConvTranspose", ["x", "wt"], ["a"], "transposed", group=12),
        helper.make_node("FusedConv", ["a", "w"], ["b"], "fused", domain="com.microsoft", group=group),
        conv("depthwise", "b", "wd", "c", group=12, pads=[1] * (2 * axes)),
        helper.make_node("DequantizeLinear", ["wq", "scale"], ["wf"]),
        conv("quantised", "c", "wf", "y", group=group, pads=[1] * (2 * axes)),
    ]
    shapes: dict[str, Any] = {"input_shape": ("N", 12, *free), "output_shape": ("N", None, *free)}
    model = build(nodes, stored, **shapes)
    found = find_sites(normalise(model), include="")
    sites, skips = found.sites, found.skipped
    assert not sites
    assert {skip.name: skip.reason for skip in skips} == {
        "transposed": "depthwise convolution (group=12)",
        "fused": "FusedConv of the domain 'com.microsoft' is not supported",
        "depthwise": "depthwise convolution (group=12)",
        "quantised": "weights are quantised: compress before quantising",
    }
