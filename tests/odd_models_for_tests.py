"""Small ONNX models for the tests that have what few models have.

Their weights are computed or shared, their convolutions stand in the bodies of an If or in functions or are of kinds
that nothing replaces, or they carry notes of all sorts.
"""

from collections.abc import Callable

import numpy as np
import onnx
from models_for_tests import OPSET, branches, build, conv, norm, plain, relu, residual, weights
from onnx import TensorProto, helper, numpy_helper


def scattered_weights() -> onnx.ModelProto:
    """Build constant, identity and cast: their weights are in Constant nodes, behind Identity and behind Cast."""
    stored = {"wi": weights(2, 8, 8, 3, 3), "wc": weights(3, 4, 8, 3, 3).astype(np.float16)}
    nodes = [
        helper.make_node("Constant", [], ["w1"], value=numpy_helper.from_array(weights(1, 8, 3, 3, 3))),
        helper.make_node("Constant", [], ["b1"], value_floats=[0.1 * i for i in range(8)]),
        helper.make_node("Identity", ["wi"], ["w2"]), helper.make_node("Identity", ["w2"], ["w22"]),
        helper.make_node("Cast", ["wc"], ["w3"], to=TensorProto.FLOAT),
        conv("constant", "x", "w1", "c1", "b1"), relu("c1", "r1"),
        conv("identity", "r1", "w22", "c2"), relu("c2", "r2"),
        conv("cast", "r2", "w3", "y"),
    ]  # fmt: skip
    return build(nodes, stored)


def shared_weights() -> onnx.ModelProto:
    """Build a, b and c with the same weight, which a Max also reads; different normalisations follow a and b."""
    stored = {"w": weights(1, 3, 3, 3, 3)}
    norms = [norm("ca", "na", "bna", 3, 5), norm("cb", "nb", "bnb", 3, 6)]
    for _, constants in norms:
        stored |= constants
    nodes = [
        conv("a", "x", "w", "ca"), norms[0][0], relu("na", "ra"),
        conv("b", "ra", "w", "cb"), norms[1][0], relu("nb", "rb"),
        conv("c", "rb", "w", "cc"),
        helper.make_node("ReduceSum", ["w"], ["total"], keepdims=0), helper.make_node("Max", ["cc", "total"], ["y"]),
    ]  # fmt: skip
    return build(nodes, stored)


def shape_crossing() -> onnx.ModelProto:
    """Build conv1 and conv2, between a computed shape and the node that reads it, and a constant that is computed."""
    stored = {
        "w1": weights(1, 6, 3, 3, 3), "w2": weights(2, 6, 6, 3, 3), "tail": np.array([-1], np.int64),
        "two": np.array([2.0], np.float32),
    }  # fmt: skip
    nodes = [
        helper.make_node("Sqrt", ["two"], ["root"]),
        helper.make_node("Shape", ["x"], ["batch"], start=0, end=1),
        helper.make_node("Concat", ["batch", "tail"], ["target"], axis=0),
        conv("conv1", "x", "w1", "c1"), relu("c1", "r1"),
        helper.make_node("Mul", ["r1", "root"], ["m1"]),
        conv("conv2", "m1", "w2", "c2"),
        helper.make_node("Sum", ["c2", "root"], ["m2"]),
        helper.make_node("Reshape", ["m2", "target"], ["y"]),
    ]  # fmt: skip
    return build(nodes, stored, output_shape=("N", "features"))


def with_if() -> onnx.ModelProto:
    """Build first, outer and last, and an If whose bodies have a convolution and read outer tensors and weights."""
    free = helper.make_tensor_value_info("t_out", TensorProto.FLOAT, None)
    then = helper.make_graph([conv("inner", "r1", "w_body", "t_out")], "then", [], [free])
    other = helper.make_tensor_value_info("e_out", TensorProto.FLOAT, None)
    local = numpy_helper.from_array(weights(4, 8, 8, 3, 3), "w_local")
    otherwise = helper.make_graph(
        [conv("inner_else", "r1", "w_local", "e1"), helper.make_node("Add", ["e1", "r0"], ["e_out"])],
        "else", [], [other], [local],
    )  # fmt: skip
    stored = {
        "w0": weights(1, 8, 3, 3, 3), "w1": weights(2, 8, 8, 3, 3), "w_body": weights(3, 8, 8, 3, 3),
        "w2": weights(5, 4, 8, 3, 3), "zero": np.array(0.0, np.float32),
    }  # fmt: skip
    nodes = [
        conv("first", "x", "w0", "c0"), relu("c0", "r0"), conv("outer", "r0", "w1", "c1"), relu("c1", "r1"),
        helper.make_node("ReduceSum", ["x"], ["sum"], keepdims=0),
        helper.make_node("Greater", ["sum", "zero"], ["positive"]),
        helper.make_node("If", ["positive"], ["chosen"], "choice", then_branch=then, else_branch=otherwise),
        conv("last", "chosen", "w2", "y"),
    ]  # fmt: skip
    return build(nodes, stored)


def with_function() -> onnx.ModelProto:
    """Build first and last, and between them a call of a model-local function that has a convolution."""
    block = helper.make_function(
        "local", "Block", ["a", "w"], ["b"],
        [conv("in_function", "a", "w", "t"), helper.make_node("Relu", ["t"], ["b"])],
        [helper.make_opsetid("", OPSET)],
    )  # fmt: skip
    stored = {"w0": weights(1, 8, 3, 3, 3), "w1": weights(2, 8, 8, 3, 3), "w2": weights(3, 4, 8, 3, 3)}
    nodes = [
        conv("first", "x", "w0", "c0"), helper.make_node("Block", ["c0", "w1"], ["b1"], "block", domain="local"),
        conv("last", "b1", "w2", "y"),
    ]  # fmt: skip
    model = build(nodes, stored)
    model.functions.append(block)
    onnx.checker.check_model(model)
    return model


def odd_convolutions() -> onnx.ModelProto:
    """Build a convolution of every kind that is left alone, and an eligible one, "fine"."""
    stored = {
        "w0": weights(1, 6, 3, 3, 3), "wg": weights(2, 6, 1, 3, 3), "wt": weights(3, 6, 1, 3, 3),
        "wq": np.ones((6, 6, 3, 3), np.int8), "scale": np.array(0.05, np.float32), "w1d": weights(4, 6, 1, 3),
        "flat": np.array([0, 6, -1], np.int64), "wf": weights(5, 6, 6, 3, 3), "wd": weights(6, 6, 6, 3, 3),
        "image": np.array([0, 6, 12, -1], np.int64), "noise": np.array(1.0, np.float32),
    }  # fmt: skip
    nodes = [
        conv("first", "x", "w0", "c0"), conv("depthwise", "c0", "wg", "c1", group=6),
        helper.make_node("ConvTranspose", ["c1", "wt"], ["c2"], "transposed", group=6, pads=[1] * 4),
        helper.make_node("DequantizeLinear", ["wq", "scale"], ["wdq"]), conv("quantised", "c2", "wdq", "c3"),
        helper.make_node("ReduceMean", ["x"], ["mean"], keepdims=0), helper.make_node("Mul", ["wd", "mean"], ["wdyn"]),
        conv("dynamic", "c3", "wdyn", "c4"),
        helper.make_node("Reshape", ["c4", "flat"], ["f"]),
        helper.make_node("ConvTranspose", ["f", "w1d"], ["c5"], "transposed_1d", group=6, pads=[1, 1]),
        helper.make_node("Reshape", ["c5", "image"], ["g"]),
        helper.make_node("FusedConv", ["g", "wf"], ["c6"], "fused", domain="com.microsoft", pads=[1] * 4),
        conv("fine", "c6", "wf", "y"),
    ]  # fmt: skip
    return build(nodes, stored)


def note(key: str) -> onnx.StringStringEntryProto:
    """Return an entry of metadata."""
    return onnx.StringStringEntryProto(key=key, value="kept")


def decorated() -> onnx.ModelProto:
    """Build the residual model with everything that graphsurgeon drops."""
    model = residual()
    model.ir_version = 10
    model.producer_name, model.producer_version, model.domain = "maker", "1.2", "org.example"
    model.model_version, model.doc_string = 7, "model doc"
    model.metadata_props.append(note("labels"))
    model.opset_import.append(helper.make_opsetid("unused.domain", 3))
    model.functions.extend(with_function().functions)
    model.opset_import.append(helper.make_opsetid("local", 1))
    graph = model.graph
    graph.name, graph.doc_string = "the graph", "graph doc"
    graph.metadata_props.append(note("graph"))
    for node in graph.node:
        node.doc_string = f"doc of {node.output[0]}"
        node.metadata_props.append(note("node"))
    # graphsurgeon cannot export an empty list.
    graph.node.insert(0, helper.make_node("Constant", [], ["unread"], value_ints=[1]))
    graph.node[0].attribute[0].ints.pop()
    graph.value_info.extend(
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 8, "H", "W"], f"about {name}")
        for name in ("c2", "r1")
    )
    graph.input[0].doc_string, graph.output[0].doc_string = "pictures", "answers"
    graph.initializer.append(numpy_helper.from_array(np.ones(1, np.float32), "nobody_reads_me"))
    graph.initializer.append(numpy_helper.from_array(np.array(0.1, np.float32), "the_scale"))
    for tensor in graph.initializer:
        tensor.doc_string = f"stored {tensor.name}"
        if tensor.name in ("w1", "w2", "ws"):
            graph.input.append(helper.make_tensor_value_info(tensor.name, TensorProto.FLOAT, list(tensor.dims)))
    for name in ("c2", "w2"):
        annotation = graph.quantization_annotation.add(tensor_name=name)
        annotation.quant_parameter_tensor_names.append(
            onnx.StringStringEntryProto(key="SCALE_TENSOR", value="the_scale")
        )
    onnx.checker.check_model(model)
    return model


BUILDERS: tuple[Callable[[], onnx.ModelProto], ...] = (
    plain, residual, branches, scattered_weights, shared_weights, shape_crossing, with_if, with_function,
    odd_convolutions,
)  # fmt: skip

ALL = {builder.__name__: builder for builder in BUILDERS}
"""The builders, by name, of models of many kinds that ONNX Runtime can run with one input "x"."""
