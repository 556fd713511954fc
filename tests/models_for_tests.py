"""Small ONNX models for the tests, with seeded weights: opset 17, IR 8, inputs [N, 3, 12, 10] unless said otherwise.

Each builder returns a checked ModelProto. ``ALL`` names those that ONNX Runtime can run with one input "x".
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

Array = NDArray[Any]
OPSET, IR = 17, 8


def weights(seed: int, *shape: int) -> Array:
    """Seeded float32 weights, scaled so that responses stay near 1."""
    scale = 1 / np.sqrt(max(int(np.prod(shape[1:])), 1))
    values: Array = np.random.default_rng(seed).normal(size=shape) * scale
    return values.astype(np.float32)


def photo(seed: int = 0, shape: Sequence[int] = (2, 3, 12, 10)) -> Array:
    """A seeded input."""
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def build(
    nodes: Sequence[Any],
    stored: dict[str, Array],
    outputs: Sequence[str] = ("y",),
    *,
    input_shape: Sequence[Any] = ("N", 3, "H", "W"),
    output_shape: Sequence[Any] | None = ("N", None, None, None),
    functions: Sequence[Any] = (),
    domains: Sequence[str] = (),
    opset: int = OPSET,
) -> onnx.ModelProto:
    """Put nodes and initializers together, with the input "x"."""
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, input_shape)],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, output_shape) for name in outputs],
        [numpy_helper.from_array(values, name) for name, values in stored.items()],
    )
    opsets = [helper.make_opsetid("", opset), *(helper.make_opsetid(domain, 1) for domain in domains)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=IR, functions=functions)
    onnx.checker.check_model(model)
    return model


def conv(name: str, x: str, w: str, y: str, b: str | None = None, **attributes: Any) -> Any:
    """A Conv node, with padding 1 unless said otherwise."""
    if "pads" not in attributes and "auto_pad" not in attributes:
        attributes["pads"] = [1, 1, 1, 1]
    return helper.make_node("Conv", [x, w, b] if b else [x, w], [y], name, **attributes)


def relu(x: str, y: str) -> Any:
    """A Relu node."""
    return helper.make_node("Relu", [x], [y], f"relu_{y}")


def one_conv(kernel: Array, bias: Array | None = None, **attributes: Any) -> onnx.ModelProto:
    """Only a convolution, "conv", of an input [N, c, H, W]."""
    stored = {"w": kernel} if bias is None else {"w": kernel, "b": bias}
    node = conv("conv", "x", "w", "y", None if bias is None else "b", **attributes)
    return build([node], stored, input_shape=("N", kernel.shape[1], "H", "W"))


def norm(x: str, y: str, prefix: str, d: int, seed: int) -> tuple[Any, dict[str, Array]]:
    """A BatchNormalization node and its four constants, named by the prefix."""
    rng = np.random.default_rng(seed)
    names = [f"{prefix}_{part}" for part in ("scale", "shift", "mean", "var")]
    values = [rng.uniform(0.5, 2, d), rng.normal(size=d), rng.normal(size=d), rng.uniform(0.2, 3, d)]
    stored = {name: value.astype(np.float32) for name, value in zip(names, values, strict=True)}
    return helper.make_node("BatchNormalization", [x, *names], [y], f"norm_{y}", epsilon=1e-3), stored


def plain() -> onnx.ModelProto:
    """Conv, BatchNormalization, Relu, three times, with a pooling: conv1, conv2, conv3; the last norm is the output."""
    stored = {
        "w1": weights(1, 8, 3, 3, 3),
        "b1": weights(2, 8),
        "w2": weights(3, 12, 8, 3, 3),
        "w3": weights(4, 6, 12, 1, 3),
    }
    norms = [norm(f"c{i}", f"n{i}" if i < 3 else "y", f"bn{i}", d, 10 + i) for i, d in ((1, 8), (2, 12), (3, 6))]
    for _, constants in norms:
        stored |= constants
    nodes = [
        conv("conv1", "x", "w1", "c1", "b1"), norms[0][0], relu("n1", "r1"),
        conv("conv2", "r1", "w2", "c2"), norms[1][0], relu("n2", "r2"),
        helper.make_node("MaxPool", ["r2"], ["p"], "pool", kernel_shape=[2, 2], strides=[2, 2]),
        conv("conv3", "p", "w3", "c3", pads=[0, 1, 0, 1]), norms[2][0],
    ]  # fmt: skip
    return build(nodes, stored)


def three_convs(channels: int = 16, size: Sequence[Any] = ("H", "W")) -> onnx.ModelProto:
    """conv1, conv2, conv3, each with a ReLU, and a mean: y [N, channels]; the last two are alike."""
    stored = {
        "w1": weights(1, channels, 3, 3, 3),
        "w2": weights(2, channels, channels, 3, 3),
        "w3": weights(3, channels, channels, 3, 3),
    }
    nodes = [
        conv("conv1", "x", "w1", "c1"), relu("c1", "r1"),
        conv("conv2", "r1", "w2", "c2"), relu("c2", "r2"),
        conv("conv3", "r2", "w3", "c3"), relu("c3", "r3"),
        helper.make_node("ReduceMean", ["r3"], ["y"], "mean", axes=[2, 3], keepdims=0),
    ]  # fmt: skip
    return build(nodes, stored, input_shape=("N", 3, *size), output_shape=("N", channels))


def residual() -> onnx.ModelProto:
    """Two blocks with shortcuts: conv1, conv2, conv3, shortcut, conv4."""
    stored = {
        "w1": weights(1, 8, 3, 3, 3), "w2": weights(2, 8, 8, 3, 3), "b2": weights(3, 8), "w3": weights(4, 10, 8, 3, 3),
        "ws": weights(5, 10, 8, 1, 1), "w4": weights(6, 10, 10, 3, 3),
    }  # fmt: skip
    nodes = [
        conv("conv1", "x", "w1", "c1"), relu("c1", "r1"),
        conv("conv2", "r1", "w2", "c2", "b2"), helper.make_node("Add", ["c2", "r1"], ["a2"]), relu("a2", "r2"),
        conv("conv3", "r2", "w3", "c3", strides=[2, 2]),
        conv("shortcut", "r2", "ws", "s3", pads=[0] * 4, strides=[2, 2]),
        helper.make_node("Add", ["c3", "s3"], ["a3"]), relu("a3", "r3"),
        conv("conv4", "r3", "w4", "c4"), helper.make_node("Add", ["c4", "r3"], ["y"]),
    ]  # fmt: skip
    return build(nodes, stored)


def deep_residual(blocks: int = 25, d: int = 8) -> onnx.ModelProto:
    """Many blocks of conv, relu, conv, add, relu behind a stem: stem, then a and b of every block by number."""
    stored = {"w": weights(1, d, 3, 3, 3)}
    nodes = [conv("stem", "x", "w", "c"), relu("c", "r0")]
    for i in range(blocks):
        # Small beside the shortcut, so that the sum does not grow with the depth.
        stored |= {f"w{i}a": weights(2 * i + 2, d, d, 3, 3), f"w{i}b": 0.3 * weights(2 * i + 3, d, d, 3, 3)}
        nodes += [
            conv(f"{i}a", f"r{i}", f"w{i}a", f"a{i}"), relu(f"a{i}", f"h{i}"),
            conv(f"{i}b", f"h{i}", f"w{i}b", f"b{i}"), helper.make_node("Add", [f"b{i}", f"r{i}"], [f"s{i}"]),
            relu(f"s{i}", "y" if i == blocks - 1 else f"r{i + 1}"),
        ]  # fmt: skip
    return build(nodes, stored)


def branches() -> onnx.ModelProto:
    """An inception-like block, its stem's response an output too: stem, left, middle, right, end."""
    stored = {
        "w0": weights(1, 8, 3, 3, 3), "wl": weights(2, 4, 8, 1, 1), "wm": weights(3, 6, 8, 3, 3),
        "wr": weights(4, 4, 8, 5, 5), "we": weights(5, 5, 14, 3, 3),
    }  # fmt: skip
    nodes = [
        conv("stem", "x", "w0", "stem_out"), relu("stem_out", "r0"),
        conv("left", "r0", "wl", "l", pads=[0] * 4), conv("middle", "r0", "wm", "m"),
        conv("right", "r0", "wr", "r", pads=[2] * 4),
        helper.make_node("Concat", ["l", "m", "r"], ["cat"], axis=1), relu("cat", "rc"),
        conv("end", "rc", "we", "y"),
    ]  # fmt: skip
    return build(nodes, stored, ("y", "stem_out"))


def scattered_weights() -> onnx.ModelProto:
    """Weights in Constant nodes, behind Identity and behind Cast from float16: constant, identity, cast."""
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
    """One weight in three convolutions, two of them followed by different norms: a, b, c; and in a Max."""
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
    """Shapes computed before a convolution and used after it, and a constant computed from constants: conv1, conv2."""
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
    """A convolution in each branch of an If, whose bodies read outer tensors and an outer weight: outer, last."""
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
    """A model-local function with a convolution inside: first, then the function, then last."""
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
    return build(nodes, stored, functions=[block], domains=["local"])


def odd_convolutions() -> onnx.ModelProto:
    """One convolution of every kind that is left alone, besides an eligible one, "fine"."""
    stored = {
        "w0": weights(1, 6, 3, 3, 3), "wg": weights(2, 6, 1, 3, 3), "wt": weights(3, 6, 6, 3, 3),
        "wq": np.ones((6, 6, 3, 3), np.int8), "scale": np.array(0.05, np.float32), "w1d": weights(4, 6, 6, 3),
        "flat": np.array([0, 6, -1], np.int64), "wf": weights(5, 6, 6, 3, 3), "wd": weights(6, 6, 6, 3, 3),
        "image": np.array([0, 6, 12, -1], np.int64), "noise": np.array(1.0, np.float32),
    }  # fmt: skip
    nodes = [
        conv("first", "x", "w0", "c0"), conv("depthwise", "c0", "wg", "c1", group=6),
        helper.make_node("ConvTranspose", ["c1", "wt"], ["c2"], "transposed", pads=[1] * 4),
        helper.make_node("DequantizeLinear", ["wq", "scale"], ["wdq"]), conv("quantised", "c2", "wdq", "c3"),
        helper.make_node("ReduceMean", ["x"], ["mean"], keepdims=0), helper.make_node("Mul", ["wd", "mean"], ["wdyn"]),
        conv("dynamic", "c3", "wdyn", "c4"),
        helper.make_node("Reshape", ["c4", "flat"], ["f"]),
        helper.make_node("ConvTranspose", ["f", "w1d"], ["c5"], "transposed_1d", pads=[1, 1]),
        helper.make_node("Reshape", ["c5", "image"], ["g"]),
        helper.make_node("FusedConv", ["g", "wf"], ["c6"], "fused", domain="com.microsoft", pads=[1] * 4),
        conv("fine", "c6", "wf", "y"),
    ]  # fmt: skip
    return build(nodes, stored, domains=["com.microsoft"])


HEADS = ("transB 1", "transB 0", "MatMul and Add", "MatMul")


def classifier(head: str) -> onnx.ModelProto:
    """Three convolutions, a pooling and two fully connected layers, "fc" and "head", written in one of several ways."""
    stored = {
        "w1": weights(1, 8, 3, 3, 3), "w2": weights(2, 12, 8, 3, 3), "w3": weights(3, 16, 12, 3, 3),
        "b3": 0.3 * weights(4, 16), "wf": weights(5, 12, 16), "bf": 0.1 * weights(6, 12), "wg": weights(7, 5, 12),
        "bg": 0.1 * weights(8, 5),
    }  # fmt: skip
    if head in ("transB 0", "MatMul and Add", "MatMul"):
        stored["wf"], stored["wg"] = stored["wf"].T.copy(), stored["wg"].T.copy()
    if head == "MatMul":
        del stored["bf"], stored["bg"]
    nodes = [
        conv("conv1", "x", "w1", "c1"), relu("c1", "r1"), conv("conv2", "r1", "w2", "c2"), relu("c2", "r2"),
        conv("conv3", "r2", "w3", "c3", "b3"), relu("c3", "r3"),
        helper.make_node("GlobalAveragePool", ["r3"], ["g"]), helper.make_node("Flatten", ["g"], ["f"]),
    ]  # fmt: skip
    for name, x, w, b, y in (("fc", "f", "wf", "bf", "h"), ("head", "hr", "wg", "bg", "y")):
        if head == "MatMul":
            nodes.append(helper.make_node("MatMul", [x, w], [y], name))
        elif head == "MatMul and Add":
            nodes.append(helper.make_node("MatMul", [x, w], [f"{y}_product"], name))
            nodes.append(helper.make_node("Add", [b, f"{y}_product"], [y]))
        else:
            nodes.append(helper.make_node("Gemm", [x, w, b], [y], name, transB=int(head == "transB 1")))
        if y == "h":
            nodes.append(relu("h", "hr"))
    return build(nodes, stored, output_shape=("N", 5))


def _kept(key: str) -> onnx.StringStringEntryProto:
    return onnx.StringStringEntryProto(key=key, value="kept")


def decorated() -> onnx.ModelProto:
    """A model with everything that graphsurgeon drops."""
    model = residual()
    model.ir_version = 10
    model.producer_name, model.producer_version, model.domain = "maker", "1.2", "org.example"
    model.model_version, model.doc_string = 7, "model doc"
    model.metadata_props.append(_kept("labels"))
    model.opset_import.append(helper.make_opsetid("unused.domain", 3))
    model.functions.extend(with_function().functions)
    model.opset_import.append(helper.make_opsetid("local", 1))
    graph = model.graph
    graph.name, graph.doc_string = "the graph", "graph doc"
    graph.metadata_props.append(_kept("graph"))
    for node in graph.node:
        node.doc_string = f"doc of {node.output[0]}"
        node.metadata_props.append(_kept("node"))
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


_BUILDERS: tuple[Callable[[], onnx.ModelProto], ...] = (
    plain, residual, branches, scattered_weights, shared_weights, shape_crossing, with_if, with_function,
    odd_convolutions,
)  # fmt: skip

ALL: dict[str, Callable[[], onnx.ModelProto]] = {builder.__name__: builder for builder in _BUILDERS}


def run_model(model: onnx.ModelProto, feeds: dict[str, Array], *, optimise: bool = False) -> dict[str, Array]:
    """Run a model on the CPU and return its outputs by name."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    level = onnxruntime.GraphOptimizationLevel
    options.graph_optimization_level = level.ORT_ENABLE_ALL if optimise else level.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, feeds), strict=True))
