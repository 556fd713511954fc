"""Functions of a model's own are put in the place of their calls where they hold layers, and mean the same there."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import odd_models_for_tests
import onnx
import pytest
from models_for_tests import Array, build, conv, photo, relu, run_model, weights
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

from onnx_lowrank import compress
from onnx_lowrank.graph.edit.inline import inline
from onnx_lowrank.graph.edit.normalise import normalise
from onnx_lowrank.graph.files.load import load
from onnx_lowrank.graph.find.sites import find_sites

DOMAIN = "pkg.modules"


def function(
    name: str,
    inputs: Sequence[str],
    nodes: Sequence[Any],
    outputs: Sequence[str] = ("b",),
    *,
    opset: int = 17,
    domains: Sequence[str] = (DOMAIN,),
    **given: Any,
) -> Any:
    imports = [helper.make_opsetid("", opset), *(helper.make_opsetid(domain, 1) for domain in domains)]
    return helper.make_function(DOMAIN, name, inputs, outputs, nodes, imports, **given)


def call(name: str, inputs: Sequence[str], outputs: Sequence[str], label: str = "", **attributes: Any) -> Any:
    return helper.make_node(name, inputs, outputs, label, domain=DOMAIN, **attributes)


def reference(name: str, to: str, kind: int) -> onnx.AttributeProto:
    """An attribute of a node in a function that the call decides."""
    return onnx.AttributeProto(name=name, ref_attr_name=to, type=kind)


def with_functions(
    functions: Sequence[Any], nodes: Sequence[Any], stored: dict[str, Array], **shapes: Any
) -> onnx.ModelProto:
    """Put nodes, initializers and functions together, with the input "x"."""
    model = build(nodes, stored, **shapes)
    model.functions.extend(functions)
    onnx.checker.check_model(model)
    return model


CONV = function("Conv2d", ["a", "w", "bias"], [conv("conv", "a", "w", "b", "bias")])
STORED = {"w1": weights(1, 8, 3, 3, 3), "b1": weights(2, 8), "w2": weights(3, 8, 8, 3, 3), "w3": weights(4, 8, 8, 3, 3)}


def every_convolution() -> onnx.ModelProto:
    nodes = [
        call("Conv2d", ["x", "w1", "b1"], ["c1"], "layer1"), relu("c1", "r1"),
        call("Conv2d", ["r1", "w2", "b1"], ["c2"], "layer2"), relu("c2", "r2"),
        call("Conv2d", ["r2", "w3", "b1"], ["y"], "layer3"),
    ]  # fmt: skip
    return with_functions([CONV], nodes, STORED)


def inputs_left_out() -> onnx.ModelProto:
    nodes = [call("Conv2d", ["x", "w1", ""], ["c1"], "layer1"), call("Conv2d", ["c1", "w2"], ["y"], "layer2")]
    return with_functions([CONV], nodes, STORED)


def calls_without_names() -> onnx.ModelProto:
    nodes = [call("Conv2d", ["x", "w1", "b1"], ["c1"]), call("Conv2d", ["c1", "w2", "b1"], ["y"])]
    return with_functions([CONV], nodes, STORED)


def functions_in_functions() -> onnx.ModelProto:
    inner = [
        call("Conv2d", ["a", "w", "bias"], ["t"], "conv"),
        relu("t", "u"),
        call("Conv2d", ["u", "w", "bias"], ["b"]),
    ]
    block = function("Block", ["a", "w", "bias"], inner)
    nodes = [call("Conv2d", ["x", "w1", "b1"], ["c1"], "stem"), call("Block", ["c1", "w2", "b1"], ["y"], "block")]
    return with_functions([block, CONV], nodes, STORED)


def attributes_of_the_call() -> onnx.ModelProto:
    node = conv("conv", "a", "w", "b")
    node.attribute.append(reference("strides", "stride", onnx.AttributeProto.INTS))
    node.attribute.append(reference("dilations", "spread", onnx.AttributeProto.INTS))
    default = helper.make_attribute("spread", [1, 1])
    strided = function("Strided", ["a", "w"], [node], attributes=["stride"], attribute_protos=[default])
    nodes = [
        call("Strided", ["x", "w1"], ["c1"], "one", stride=[2, 2]), call("Strided", ["c1", "w2"], ["c2"], "two"),
        call("Strided", ["c2", "w3"], ["y"], "three", stride=[1, 2], spread=[1, 1]),
    ]  # fmt: skip
    return with_functions([strided], nodes, STORED)


def names_that_collide() -> onnx.ModelProto:
    nodes = [
        call("Conv2d", ["x", "w1", "b1"], ["b"], "layer"),
        helper.make_node("Relu", ["b"], ["layer/conv"], "layer/conv"),
        call("Conv2d", ["layer/conv", "w2", "b1"], ["a"], "layer2"), relu("a", "y"),
    ]  # fmt: skip
    return with_functions([CONV], nodes, STORED)


def results_handed_through() -> onnx.ModelProto:
    through = function("Through", ["a", "w"], [conv("conv", "a", "w", "t")], ["t", "a"])
    nodes = [
        call("Through", ["x", "w1"], ["c1", "same"], "through"), conv("last", "c1", "w2", "t2"),
        helper.make_node("ReduceMean", ["same"], ["m"], keepdims=1), helper.make_node("Add", ["t2", "m"], ["y"]),
    ]  # fmt: skip
    return with_functions([through], nodes, STORED)


def outputs_left_out() -> onnx.ModelProto:
    both = function("Both", ["a", "w"], [conv("conv", "a", "w", "t"), relu("t", "u")], ["t", "u"])
    nodes = [call("Both", ["x", "w1"], ["", "r1"], "one"), call("Both", ["r1", "w2"], ["y", ""], "two")]
    return with_functions([both], nodes, STORED)


def bodies_in_functions() -> onnx.ModelProto:
    free = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("then_out", "else_out")]
    then = helper.make_graph([relu("t", "inner"), relu("inner", "then_out")], "then", [], free[:1])
    otherwise = helper.make_graph([call("Conv2d", ["t", "v", "bias"], ["else_out"], "again")], "else", [], free[1:])
    inner = [
        conv("conv", "a", "w", "t"), helper.make_node("ReduceMean", ["t"], ["m"], keepdims=0),
        helper.make_node("Constant", [], ["zero"], value_float=0.0), helper.make_node("Less", ["m", "zero"], ["low"]),
        helper.make_node("If", ["low"], ["b"], "choice", then_branch=then, else_branch=otherwise),
    ]  # fmt: skip
    gated = function("Gated", ["a", "w", "v", "bias"], inner)
    nodes = [
        call("Gated", ["x", "w1", "w2", "b1"], ["c1"], "one"), call("Gated", ["c1", "w2", "w3", "b1"], ["y"], "two"),
    ]  # fmt: skip
    return with_functions([gated, CONV], nodes, STORED)


def calls_in_bodies() -> onnx.ModelProto:
    free = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("then_out", "else_out")]
    then = helper.make_graph([call("Conv2d", ["c1", "w2", "b1"], ["then_out"], "left")], "then", [], free[:1])
    otherwise = helper.make_graph([call("Conv2d", ["c1", "w3", "b1"], ["else_out"], "right")], "else", [], free[1:])
    nodes = [
        call("Conv2d", ["x", "w1", "b1"], ["c1"], "layer1"), helper.make_node("ReduceMean", ["c1"], ["m"], keepdims=0),
        helper.make_node("Constant", [], ["zero"], value_float=0.0), helper.make_node("Less", ["m", "zero"], ["low"]),
        helper.make_node("If", ["low"], ["y"], "choice", then_branch=then, else_branch=otherwise),
    ]  # fmt: skip
    return with_functions([CONV], nodes, STORED)


def a_domain_of_the_function_alone() -> onnx.ModelProto:
    inner = [conv("conv", "a", "w", "t"), helper.make_node("Gelu", ["t"], ["b"], "gelu", domain="com.microsoft")]
    block = function("Block", ["a", "w"], inner, domains=[DOMAIN, "com.microsoft"])
    nodes = [call("Block", ["x", "w1"], ["c1"], "one"), call("Block", ["c1", "w2"], ["y"], "two")]
    return with_functions([block], nodes, STORED)


def an_older_opset_that_means_the_same() -> onnx.ModelProto:
    old = function("Old", ["a", "w"], [conv("conv", "a", "w", "t"), relu("t", "b")], opset=14)
    nodes = [call("Old", ["x", "w1"], ["c1"], "one"), call("Old", ["c1", "w2"], ["y"], "two")]
    return with_functions([old], nodes, STORED)


def activations_in_functions() -> onnx.ModelProto:
    silu = function(
        "SiLU", ["a"], [helper.make_node("Sigmoid", ["a"], ["s"]), helper.make_node("Mul", ["a", "s"], ["b"])]
    )
    nodes = [
        call("Conv2d", ["x", "w1", "b1"], ["c1"], "layer1"), call("SiLU", ["c1"], ["r1"], "silu1"),
        call("Conv2d", ["r1", "w2", "b1"], ["c2"], "layer2"), call("SiLU", ["c2"], ["y"], "silu2"),
    ]  # fmt: skip
    return with_functions([CONV, silu], nodes, STORED)


INLINED = (
    every_convolution, inputs_left_out, calls_without_names, functions_in_functions, attributes_of_the_call,
    names_that_collide, outputs_left_out, bodies_in_functions, calls_in_bodies,
    a_domain_of_the_function_alone, an_older_opset_that_means_the_same, activations_in_functions,
    odd_models_for_tests.with_function,
)  # fmt: skip


@pytest.mark.parametrize("builder", INLINED, ids=lambda builder: builder.__name__)
def test_an_inlined_model_computes_the_same_and_keeps_its_interface(builder: Callable[[], onnx.ModelProto]) -> None:
    model = builder()
    inlined = inline(load(model).proto, ["Conv"])
    onnx.checker.check_model(inlined, full_check=True)
    assert model == builder()
    assert not inlined.functions
    assert list(inlined.graph.input) == list(model.graph.input)
    assert list(inlined.graph.output) == list(model.graph.output)
    assert list(inlined.graph.initializer) == list(model.graph.initializer)
    assert list(inlined.opset_import)[: len(model.opset_import)] == list(model.opset_import)
    assert inlined.ir_version == model.ir_version
    for seed in range(3):
        x = {"x": photo(seed)}
        np.testing.assert_allclose(run_model(inlined, x)["y"], run_model(model, x)["y"], rtol=1e-6, atol=1e-7)


def test_an_input_that_a_function_hands_through() -> None:
    # ONNX Runtime itself cannot load such a function, so ONNX's reference computes what is right.
    model = results_handed_through()
    inlined = inline(model, ["Conv"])
    onnx.checker.check_model(inlined, full_check=True)
    (expected,) = ReferenceEvaluator(model).run(None, {"x": photo()})
    np.testing.assert_allclose(run_model(inlined, {"x": photo()})["y"], expected, rtol=1e-4, atol=1e-5)


def site_names(model: onnx.ModelProto) -> list[str]:
    return [site.name for site in find_sites(normalise(model), ".").sites]


def test_convolutions_are_named_after_the_call() -> None:
    assert site_names(inline(every_convolution(), ["Conv"])) == ["layer1/conv", "layer2/conv", "layer3/conv"]
    assert site_names(inline(functions_in_functions(), ["Conv"]))[:2] == ["stem/conv", "block/conv/conv"]


def test_activations_in_functions_are_seen() -> None:
    found = find_sites(normalise(inline(activations_in_functions(), ["Conv"])), ".")
    assert all(site.activation is not None for site in found.sites)


def test_fully_connected_layers_are_inlined_only_where_they_are_asked_for() -> None:
    linear = function("Linear", ["a", "w"], [helper.make_node("MatMul", ["a", "w"], ["b"], "product")])
    nodes = [
        conv("conv", "x", "w1", "c"), helper.make_node("ReduceMean", ["c"], ["m"], axes=[2, 3], keepdims=0),
        call("Linear", ["m", "w"], ["y"], "head"),
    ]  # fmt: skip
    stored = {"w1": weights(1, 8, 3, 3, 3), "w": weights(2, 8, 6)}
    model = with_functions([linear], nodes, stored, output_shape=("N", 6))
    assert inline(model, ["Conv"]) is model
    found = find_sites(normalise(inline(model, ["Conv", "MatMul"]), gemm=True), ".", gemm=True)
    assert [site.name for site in found.sites] == ["conv", "head/product"]


def recursive() -> onnx.ModelProto:
    one = function("One", ["a", "w"], [conv("conv", "a", "w", "t"), call("Two", ["t", "w"], ["b"])])
    two = function("Two", ["a", "w"], [call("One", ["a", "w"], ["b"])])
    model = with_functions(
        [CONV], [conv("first", "x", "w1", "c1"), call("Conv2d", ["c1", "w2", "b1"], ["y"], "layer")], STORED
    )
    model.functions.extend([one, two])
    return model


def an_opset_that_means_something_else() -> onnx.ModelProto:
    # Until opset 12 the axis of a Softmax counted otherwise.
    old = function(
        "Old", ["a", "w"], [conv("conv", "a", "w", "t"), helper.make_node("Softmax", ["t"], ["b"])], opset=11
    )
    model = with_functions(
        [CONV], [conv("first", "x", "w1", "c1"), call("Conv2d", ["c1", "w2", "b1"], ["y"], "layer")], STORED
    )
    model.functions.append(old)
    return model


@pytest.mark.parametrize(
    ("builder", "left"), [(recursive, ["One", "Two"]), (an_opset_that_means_something_else, ["Old"])]
)
def test_what_cannot_be_inlined_stays_a_function(builder: Callable[[], onnx.ModelProto], left: list[str]) -> None:
    inlined = inline(builder(), ["Conv"])
    assert [kept.name for kept in inlined.functions] == left
    assert "layer/conv" in [node.name for node in inlined.graph.node]


def test_a_model_without_layers_in_functions_stays_as_it_is() -> None:
    double = function("Double", ["a"], [helper.make_node("Add", ["a", "a"], ["b"])])
    nodes = [conv("conv", "x", "w1", "c1"), call("Double", ["c1"], ["d"], "double"), conv("last", "d", "w2", "y")]
    model = with_functions([double], nodes, STORED)
    assert inline(model, ["Conv"]) is model


@pytest.mark.parametrize("builder", [every_convolution, functions_in_functions, activations_in_functions])
def test_convolutions_in_functions_are_factorised(builder: Callable[[], onnx.ModelProto]) -> None:
    model = builder()
    model.doc_string, model.producer_name = "about the model", "an exporter"
    helper.set_model_props(model, {"classes": "two"})
    data: Array = photo(shape=(20, 3, 12, 10))
    result = compress(model, data, speedup=1.3, images=20)
    assert result.report.speedup.macs >= 1.3
    assert not [skip for skip in result.report.skipped if "function" in skip.reason]
    for field in ("doc_string", "producer_name", "metadata_props", "opset_import", "ir_version"):
        assert getattr(result.model, field) == getattr(model, field)
    assert list(result.model.graph.output) == list(model.graph.output)
    x = {"x": photo(seed=1)}
    before, after = run_model(model, x)["y"], run_model(result.model, x)["y"]
    assert np.square(after - before).sum() < 0.2 * np.square(before).sum()
