"""What is promised for every valid model, on models drawn at random.

    python -m pytest -m slow tests/test_random_graphs.py

draws two thousand of them, the normal run a few.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from models_for_tests import run_model
from random_graphs import RandomModel, random_models

from onnx_lowrank.errors import ModelError, TargetError
from onnx_lowrank.factorise.forms.conv_shape import ConvShape
from onnx_lowrank.factorise.forms.table import FORMS
from onnx_lowrank.options import Options
from onnx_lowrank.pipeline import Result, compress
from onnx_lowrank.plan.plan import Plan, SitePlan
from onnx_lowrank.report.schema import Report
from onnx_lowrank.stages.count import count
from onnx_lowrank.stages.read import read
from onnx_lowrank.stages.request import Request
from onnx_lowrank.stages.run import Run
from onnx_lowrank.stages.sample import sample

ROUND_OFF = {np.dtype(np.float32): 2e-5, np.dtype(np.float16): 2e-2}
"""Of the largest value: some dozen roundings through a dozen layers."""

FOLDED = ("BatchNormalization", "Add", "Sub", "Mul", "Div")
"""What may become a part of the convolution before it."""

MOST_REACHABLE = re.compile(r"gets (\d+\.\d+)")

any_options = st.builds(
    Options,
    speedup=st.sampled_from((1.0, 1.2, 1.5, 2.0)),
    form=st.sampled_from(("auto", "auto", "channel", "spatial", "3d", "cp")),
    solver=st.sampled_from(("nonlinear", "nonlinear", "linear", "weights")),
    symmetric=st.sampled_from((False, False, True)),
    ranks=st.sampled_from(("exact", "exact", "greedy", "uniform")),
    include=st.sampled_from(("", "", None)),
    seed=st.integers(0, 3),
    threads=st.just(1),
)


def quick(examples: int) -> settings:
    """Settings: the same examples in every run."""
    return settings(
        max_examples=examples,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
        print_blob=True,
    )


# A model takes more characters than hypothesis likes to print, and its warning would stand in for the failure.
pytestmark = pytest.mark.filterwarnings("ignore:Generating overly large repr")


@quick(16)
@given(random_models(), any_options)
def test_a_valid_model_keeps_all_that_it_has(case: RandomModel, options: Options) -> None:
    check(case, options)


@pytest.mark.slow
@quick(2000)
@given(random_models(), any_options)
def test_two_thousand_valid_models_keep_all_that_they_have(case: RandomModel, options: Options) -> None:
    check(case, options)


def check(case: RandomModel, options: Options) -> None:
    """Everything that is promised, of one model."""
    model, feeds = case.model, case.feeds(1)
    expected = answers(model, feeds)
    try:
        shapes = shapes_of(Request(model, case.data, options_for_full_rank(options)))
    except ModelError as error:
        # Of each convolution it was said why it stays; nothing is left to do.
        assert str(error).startswith("nothing to factorise: ")
        counts = [int(count) for count in re.findall(r"\((\d+)×\)", str(error))]
        assert sum(counts) == sum(1 for _ in convolutions(model)) or "has no convolution" in str(error)
        return
    full = Plan(tuple(full_rank(name, shape, options.form) for name, shape in shapes.items()))

    exact = compress(Request(model, case.data, options_for_full_rank(options), plan=full))
    assert not any(site.kept for site in exact.report.sites)
    same_answers(answers(exact.model, feeds), expected)
    promises(model, exact)

    cheaper = at_low_rank(case, options)
    promises(model, cheaper)
    found = answers(cheaper.model, feeds)
    assert {name: (value.shape, value.dtype) for name, value in found.items()} == {
        name: (value.shape, value.dtype) for name, value in expected.items()
    }
    again = at_low_rank(case, options)
    assert again.model.SerializeToString(deterministic=True) == cheaper.model.SerializeToString(deterministic=True)
    assert timeless(again.report) == timeless(cheaper.report)


def shapes_of(request: Request) -> Mapping[str, ConvShape]:
    """The geometry of all sites."""
    run = Run.start(request)
    network = read(run)
    return count(run, network, sample(run, network)).shapes


def options_for_full_rank(options: Options) -> Options:
    return replace(options, speedup=1.0)


def full_rank(name: str, shape: ConvShape, form: str) -> SitePlan:
    """The choice for a site that loses nothing."""
    kind = FORMS["3d" if form == "auto" else form]
    kind = kind if kind.takes(shape) else FORMS["channel"]
    return SitePlan(name, kind.name, kind.highest_ranks(shape))


def at_low_rank(case: RandomModel, options: Options) -> Result:
    """At the speedup asked for, or at the highest that can be reached."""
    try:
        return compress(Request(case.model, case.data, options))
    except TargetError as error:
        reachable = MOST_REACHABLE.search(str(error))
        assert reachable, error
        return compress(Request(case.model, case.data, replace(options, speedup=float(reachable[1]))))


def answers(model: onnx.ModelProto, feeds: dict[str, Any]) -> dict[str, Any]:
    """The outputs; a model whose batch is fixed sees so many samples."""
    batch = model.graph.input[0].type.tensor_type.shape.dim[0]
    rows = batch.dim_value if batch.HasField("dim_value") else 2
    found = run_model(model, {name: value[:rows] for name, value in feeds.items()})
    assume(all(np.isfinite(value).all() for value in found.values()))
    return found


def same_answers(found: dict[str, Any], expected: dict[str, Any]) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        scale = max(1.0, float(np.abs(value).max(initial=0)))
        assert found[name].dtype == value.dtype
        np.testing.assert_allclose(found[name], value, rtol=0, atol=ROUND_OFF[value.dtype] * scale, err_msg=name)


def timeless(report: Report) -> Report:
    """What does not depend on the clock and on the process."""
    cost = replace(report.cost, seconds={}, peak_rss_bytes=0)
    return replace(report, cost=cost, speedup=replace(report.speedup, latency=None))


# ---- what has to survive


def promises(model: onnx.ModelProto, result: Result) -> None:
    """The rewritten model is valid, has the same interface, and has lost nothing of what was not rewritten."""
    new = result.model
    onnx.checker.check_model(new, full_check=True)
    unchanged(model, new, {"graph"})
    unchanged(model.graph, new.graph, {"node", "initializer", "input", "value_info", "quantization_annotation"})
    listed = {tensor.name for tensor in model.graph.initializer}
    new_names = {tensor.name for tensor in new.graph.initializer}
    assert [value for value in new.graph.input if value.name not in new_names] == [
        value for value in model.graph.input if value.name not in listed
    ]
    exist = {value.name for value in new.graph.input} | new_names
    exist |= {name for node in new.graph.node for name in node.output}
    assert list(new.graph.value_info) == [value for value in model.graph.value_info if value.name in exist]
    assert list(new.graph.quantization_annotation) == [
        annotation for annotation in model.graph.quantization_annotation if annotation.tensor_name in exist
    ]
    kept_weights_are_the_same(model, new)
    nodes_that_were_not_touched_are_there(model, new, sum(not site.kept for site in result.report.sites))
    every_convolution_is_accounted_for(model, result.report)


def unchanged(old: Any, new: Any, besides: set[str]) -> None:
    for field in old.DESCRIPTOR.fields:
        if field.name not in besides:
            assert getattr(new, field.name) == getattr(old, field.name), field.name


def kept_weights_are_the_same(model: onnx.ModelProto, new: onnx.ModelProto) -> None:
    """A stored constant that is still there is bit by bit what it was, but for refitted layers, and none is unread."""
    old = {tensor.name: tensor for tensor in model.graph.initializer}
    heads = {name for node in model.graph.node if node.op_type in ("Gemm", "MatMul", "Add") for name in node.input}
    for tensor in new.graph.initializer:
        if tensor.name in old and tensor.name not in heads:
            assert tensor == old[tensor.name]


def nodes_that_were_not_touched_are_there(model: onnx.ModelProto, new: onnx.ModelProto, rewritten: int) -> None:
    """In their order and with all that they carry, but for what was folded into the convolution before it.

    Behind a Transpose, that one now makes the tensor of the arithmetic that was folded.
    """
    makers = {name: node for node in new.graph.node for name in node.output}
    remaining, at, missing = [without_weights(node) for node in new.graph.node], 0, 0
    for node in model.graph.node:
        wanted = without_weights(node)
        if wanted in remaining[at:]:
            at = remaining.index(wanted, at) + 1
        elif node.op_type in FOLDED:
            assert makers[node.output[0]].op_type in ("Conv", "Transpose")
        elif node.op_type in ("Constant", "Identity", "Cast"):
            assert node.output[0] not in makers  # it made weights that are no more
        else:
            assert node.op_type == "Conv", node
            missing += 1
            if node.output[0] in makers:
                last = makers[node.output[0]]
                assert (last.doc_string, last.metadata_props) == (node.doc_string, node.metadata_props)
    assert missing == rewritten


def without_weights(node: onnx.NodeProto) -> onnx.NodeProto:
    """A Conv or a Transpose without what folding changes; any other node as it is."""
    if node.op_type not in ("Conv", "Transpose"):
        return node
    bare = onnx.NodeProto()
    bare.CopyFrom(node)
    del bare.input[1:], bare.output[:]
    return bare


def every_convolution_is_accounted_for(model: onnx.ModelProto, report: Report) -> None:
    """Each is either a site or skipped with a reason, under a name of its own."""
    names = [site.name for site in report.sites] + [skip.name for skip in report.skipped]
    assert len(set(names)) == len(names) == sum(1 for _ in convolutions(model))
    assert all(site.reason for site in report.sites) and all(skip.reason for skip in report.skipped)


def convolutions(model: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    """Those of the graph, of the bodies in it, and of the functions."""

    def inside(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
        for node in nodes:
            if "Conv" in node.op_type:
                yield node
            for attribute in node.attribute:
                yield from inside(attribute.g.node)

    yield from inside(model.graph.node)
    for function in model.functions:
        yield from inside(function.node)
