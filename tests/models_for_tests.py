"""Small ONNX models for the tests, and the parts of which they are built, with seeded weights.

The models have opset 17 and IR version 8, and take an input "x" of any batch, three channels and any size, unless their
docstrings state otherwise. Each builder returns a ModelProto that ONNX's checker accepts. The names of the convolutions
stand in the docstrings.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

Array = NDArray[Any]
OPSET, IR = 17, 8


def weights(seed: int, *shape: int) -> Array:
    """Return seeded float32 weights, scaled so that responses stay near 1."""
    scale = 1 / np.sqrt(max(int(np.prod(shape[1:])), 1))
    values: Array = np.random.default_rng(seed).normal(size=shape) * scale
    return values.astype(np.float32)


def photo(seed: int = 0, shape: Sequence[int] = (2, 3, 12, 10)) -> Array:
    """Return a seeded input."""
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def build(
    nodes: Sequence[Any],
    stored: dict[str, Array],
    outputs: Sequence[str] = ("y",),
    *,
    input_shape: Sequence[Any] = ("N", 3, "H", "W"),
    output_shape: Sequence[Any] | None = ("N", None, None, None),
    opset: int = OPSET,
) -> onnx.ModelProto:
    """Put nodes and initializers together, with the input "x"; the domains of the nodes are imported at version 1."""
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, input_shape)],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, output_shape) for name in outputs],
        [numpy_helper.from_array(values, name) for name, values in stored.items()],
    )
    domains = sorted({node.domain for node in nodes if node.domain})
    opsets = [helper.make_opsetid("", opset), *(helper.make_opsetid(domain, 1) for domain in domains)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=IR)
    onnx.checker.check_model(model)
    return model


def conv(name: str, x: str, w: str, y: str, b: str | None = None, **attributes: Any) -> Any:
    """Return a Conv node, with padding 1 unless the attributes state another."""
    if "pads" not in attributes and "auto_pad" not in attributes:
        attributes["pads"] = [1, 1, 1, 1]
    return helper.make_node("Conv", [x, w, b] if b else [x, w], [y], name, **attributes)


def relu(x: str, y: str) -> Any:
    """Return a Relu node."""
    return helper.make_node("Relu", [x], [y], f"relu_{y}")


def one_conv(kernel: Array, bias: Array | None = None, **attributes: Any) -> onnx.ModelProto:
    """Build a network of one convolution, "conv", with an input [N, c, H, W]."""
    stored = {"w": kernel} if bias is None else {"w": kernel, "b": bias}
    node = conv("conv", "x", "w", "y", None if bias is None else "b", **attributes)
    return build([node], stored, input_shape=("N", kernel.shape[1], "H", "W"))


def norm(x: str, y: str, prefix: str, d: int, seed: int) -> tuple[Any, dict[str, Array]]:
    """Return a BatchNormalization node, and its four constants, whose names begin with the prefix."""
    rng = np.random.default_rng(seed)
    names = [f"{prefix}_{part}" for part in ("scale", "shift", "mean", "var")]
    values = [rng.uniform(0.5, 2, d), rng.normal(size=d), rng.normal(size=d), rng.uniform(0.2, 3, d)]
    stored = {name: value.astype(np.float32) for name, value in zip(names, values, strict=True)}
    return helper.make_node("BatchNormalization", [x, *names], [y], f"norm_{y}", epsilon=1e-3), stored


def plain() -> onnx.ModelProto:
    """Build conv1, conv2 and conv3, each with a normalisation and all but the last with a ReLU, and a pooling."""
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
    """Build conv1, conv2 and conv3, each with a ReLU, and a mean y [N, channels]; the last two have the same shape."""
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
    """Build two blocks with shortcuts, in the order conv1, conv2, conv3, shortcut, conv4."""
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
    """Build a stem and many blocks of conv, relu, conv, add, relu; block 0 has the convolutions 0a and 0b."""
    stored = {"w": weights(1, d, 3, 3, 3)}
    nodes = [conv("stem", "x", "w", "c"), relu("c", "r0")]
    for i in range(blocks):
        # The response is small beside the shortcut, so that the sum does not grow with the depth.
        stored |= {f"w{i}a": weights(2 * i + 2, d, d, 3, 3), f"w{i}b": 0.3 * weights(2 * i + 3, d, d, 3, 3)}
        nodes += [
            conv(f"{i}a", f"r{i}", f"w{i}a", f"a{i}"), relu(f"a{i}", f"h{i}"),
            conv(f"{i}b", f"h{i}", f"w{i}b", f"b{i}"), helper.make_node("Add", [f"b{i}", f"r{i}"], [f"s{i}"]),
            relu(f"s{i}", "y" if i == blocks - 1 else f"r{i + 1}"),
        ]  # fmt: skip
    return build(nodes, stored)


def branches() -> onnx.ModelProto:
    """Build stem, the branches left, middle and right, and end; the response of the stem is the second output."""
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


HEADS = ("transB 1", "transB 0", "MatMul and Add", "MatMul")
"""The ways in which fully connected layers are written."""


def classifier(head: str) -> onnx.ModelProto:
    """Build conv1 to conv3, a pooling, and the fully connected layers fc and head in one of the ways in ``HEADS``."""
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


def run_model(model: onnx.ModelProto, feeds: dict[str, Array], *, optimise: bool = False) -> dict[str, Array]:
    """Run a model on the CPU, and return its outputs by name."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    level = onnxruntime.GraphOptimizationLevel
    options.graph_optimization_level = level.ORT_ENABLE_ALL if optimise else level.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, feeds), strict=True))
