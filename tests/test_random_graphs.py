"""The promises that hold for every valid model, on models drawn at random.

The normal run draws a few of them, and this one two thousand:

    python -m pytest -m slow tests/test_random_graphs.py
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import pytest
from full_rank import differences, full_rank_plan
from hypothesis import assume, given
from hypothesis import strategies as st
from models_for_tests import run_model
from random_chance import still
from random_graphs import RandomModel, quick, random_models

from onnx_lowrank.errors import ModelError, TargetError
from onnx_lowrank.graph.edit.determine import random_nodes
from onnx_lowrank.graph.edit.inline import inline
from onnx_lowrank.options import ALLOCATION_CHOICES, DEFAULTS, FORM_CHOICES, SOLVERS, Options
from onnx_lowrank.pipeline import Result, compress
from onnx_lowrank.report.schema import Report
from onnx_lowrank.stages.request import Request

CONVOLUTIONS = ("Conv", "ConvTranspose")
"""Operators that are rewritten."""

FOLDED = ("BatchNormalization", "Add", "Sub", "Mul", "Div")
"""Operators that may become a part of the convolution before them."""

MOST_REACHABLE = re.compile(r"gets (\d+\.\d+)")

some_options = st.builds(
    Options,
    speedup=st.sampled_from((1.0, 1.2, 1.5, 2.0)),
    form=st.sampled_from((DEFAULTS.form, *FORM_CHOICES)),
    solver=st.sampled_from((DEFAULTS.solver, *SOLVERS)),
    symmetric=st.sampled_from((False, False, True)),
    ranks=st.sampled_from((DEFAULTS.ranks, *ALLOCATION_CHOICES)),
    include=st.sampled_from(("", "", None)),
    seed=st.integers(0, 3),
    threads=st.just(1),
)


# A model takes more characters than hypothesis likes to print, and its warning would hide the failure.
pytestmark = pytest.mark.filterwarnings("ignore:Generating overly large repr")


@quick(16)
@given(random_models(), some_options)
def test_a_valid_model_keeps_all_that_it_has(case: RandomModel, options: Options) -> None:
    check(case, options)


@pytest.mark.slow
@quick(2000)
@given(random_models(), some_options)
def test_two_thousand_valid_models_keep_all_that_they_have(case: RandomModel, options: Options) -> None:
    check(case, options)


def check(case: RandomModel, options: Options) -> None:
    """Check every promise on one model."""
    model, feeds = case.model, case.feeds(1)
    expected = outputs_of(case.still, feeds)
    mildest = replace(options, speedup=1.0)
    try:
        full_rank = full_rank_plan(Request(model, case.data, mildest))
    except ModelError as error:
        assert_every_convolution_has_its_reason(model, str(error))
        return
    exact = compress(Request(model, case.data, mildest, plan=full_rank))
    assert not any(site.kept for site in exact.report.sites)
    # A model that draws numbers is compared without them; its nodes that draw are checked among all other nodes.
    assert not differences(outputs_of(still(exact.model), feeds), expected)
    assert_promises(model, exact)

    cheaper = at_low_rank(case, options)
    assert_promises(model, cheaper)
    assert kinds_of(outputs_of(still(cheaper.model), feeds)) == kinds_of(expected)
    again = at_low_rank(case, options)
    assert again.model.SerializeToString(deterministic=True) == cheaper.model.SerializeToString(deterministic=True)
    assert timeless(again.report) == timeless(cheaper.report)


def assert_every_convolution_has_its_reason(model: onnx.ModelProto, message: str) -> None:
    """Check the refusal of a model in which nothing is left to do."""
    assert message.startswith("nothing to factorise: ")
    counts = [int(count) for count in re.findall(r"\((\d+)×\)", message)]
    assert sum(counts) == sum(1 for _ in convolutions(model)) or "has no convolution" in message


def at_low_rank(case: RandomModel, options: Options) -> Result:
    """Compress at the speedup of the options, or at the highest that can be reached, which ruins random weights."""
    options = replace(options, require="none")
    try:
        return compress(Request(case.model, case.data, options))
    except TargetError as error:
        reachable = MOST_REACHABLE.search(str(error))
        assert reachable, error
        return compress(Request(case.model, case.data, replace(options, speedup=float(reachable[1]))))


def outputs_of(model: onnx.ModelProto, feeds: dict[str, Any]) -> dict[str, Any]:
    """Run a model."""
    outputs = run_model(model, feeds)
    assume(all(np.isfinite(value).all() for value in outputs.values()))
    return outputs


def kinds_of(outputs: dict[str, Any]) -> dict[str, Any]:
    """Return the shape and the type of every output."""
    return {name: (value.shape, value.dtype) for name, value in outputs.items()}


def timeless(report: Report) -> Report:
    """Return a report without what depends on the clock and on the process."""
    cost = replace(report.cost, seconds={}, peak_rss_bytes=0)
    return replace(report, cost=cost, speedup=replace(report.speedup, latency=None))


# ---- everything that must survive


def assert_promises(model: onnx.ModelProto, result: Result) -> None:
    """Check that the new model is valid, has the same interface, and has lost nothing that was not rewritten."""
    # Functions that convolve, or draw numbers, are inlined on purpose: what they hold must survive.
    model, new = inline(model, (*CONVOLUTIONS, *random_nodes(model))), result.model
    onnx.checker.check_model(new, full_check=True)
    assert_unchanged(model, new, {"graph"})
    assert_unchanged(model.graph, new.graph, {"node", "initializer", "input", "value_info", "quantization_annotation"})
    listed = {tensor.name for tensor in model.graph.initializer}
    new_names = {tensor.name for tensor in new.graph.initializer}
    assert [value for value in new.graph.input if value.name not in new_names] == [
        value for value in model.graph.input if value.name not in listed
    ]
    existing = {value.name for value in new.graph.input} | new_names
    existing |= {name for node in new.graph.node for name in node.output}
    assert list(new.graph.value_info) == [value for value in model.graph.value_info if value.name in existing]
    assert list(new.graph.quantization_annotation) == [
        annotation for annotation in model.graph.quantization_annotation if annotation.tensor_name in existing
    ]
    assert_weights_are_the_same(model, new)
    assert_other_nodes_are_there(model, new, sum(not site.kept for site in result.report.sites))
    assert_every_convolution_is_reported(model, result.report)


def assert_unchanged(old: Any, new: Any, besides: set[str]) -> None:
    for field in old.DESCRIPTOR.fields:
        if field.name not in besides:
            assert getattr(new, field.name) == getattr(old, field.name), field.name


def assert_weights_are_the_same(model: onnx.ModelProto, new: onnx.ModelProto) -> None:
    """Check that stored constants with the same name are the same bit by bit, but for layers that may be refitted."""
    old = {tensor.name: tensor for tensor in model.graph.initializer}
    heads = {name for node in model.graph.node if node.op_type in ("Gemm", "MatMul", "Add") for name in node.input}
    for tensor in new.graph.initializer:
        if tensor.name in old and tensor.name not in heads:
            assert tensor == old[tensor.name]


def assert_other_nodes_are_there(model: onnx.ModelProto, new: onnx.ModelProto, rewritten: int) -> None:
    """Check that all nodes are there in their order and with all their notes, but for those rewritten or folded.

    Arithmetic that was folded disappears: the convolution before it now makes its tensor, or the Transpose behind that
    convolution.
    """
    makers = {name: node for node in new.graph.node for name in node.output}
    remaining, at, missing = [without_weights(node) for node in new.graph.node], 0, 0
    for node in model.graph.node:
        expected = without_weights(node)
        if expected in remaining[at:]:
            at = remaining.index(expected, at) + 1
        elif node.op_type in FOLDED:
            assert makers[node.output[0]].op_type in (*CONVOLUTIONS, "Transpose")
        elif node.op_type in ("Constant", "Identity", "Cast"):
            assert node.output[0] not in makers  # its output was a weight that is no longer there
        else:
            assert node.op_type in CONVOLUTIONS, node
            missing += 1
            if node.output[0] in makers:
                last = makers[node.output[0]]
                assert (last.doc_string, last.metadata_props) == (node.doc_string, node.metadata_props)
    assert missing == rewritten


def without_weights(node: onnx.NodeProto) -> onnx.NodeProto:
    """Return a convolution or a Transpose without everything that folding changes, and any other node as it is."""
    if node.op_type not in (*CONVOLUTIONS, "Transpose"):
        return node
    bare = onnx.NodeProto()
    bare.CopyFrom(node)
    del bare.input[1:], bare.output[:]
    return bare


def assert_every_convolution_is_reported(model: onnx.ModelProto, report: Report) -> None:
    """Check that each is either a site or skipped, with a reason and under a name of its own."""
    names = [site.name for site in report.sites] + [skip.name for skip in report.skipped]
    assert len(set(names)) == len(names) == sum(1 for _ in convolutions(model))
    assert all(site.reason for site in report.sites) and all(skip.reason for skip in report.skipped)


def convolutions(model: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    """Yield the convolutions of the graph, of the bodies in it, and of the functions."""

    def inside(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
        for node in nodes:
            if "Conv" in node.op_type:
                yield node
            for attribute in node.attribute:
                yield from inside(attribute.g.node)

    yield from inside(model.graph.node)
    for function in model.functions:
        yield from inside(function.node)
