"""The operators of a block: their outputs are ONNX's, and their slopes are those of finite differences."""

from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from onnx_lowrank.factorise.blocks.block import Part
from onnx_lowrank.graph.blocks.read import ReadBlock, read_block
from onnx_lowrank.graph.find.blocks import Stretch
from onnx_lowrank.graph.network import Network

Array = NDArray[Any]
RNG = np.random.default_rng(3)


def numbers(*shape: int) -> Array:
    """Numbers that keep a distance of 0.05 from 0 and from one another, where functions bend."""
    values = (np.arange(int(np.prod(shape))) + 0.5) / np.prod(shape) * 6 - 3
    return RNG.permutation(values).reshape(shape).astype(np.float32)


def constant(name: str, values: Any) -> onnx.TensorProto:
    return numpy_helper.from_array(np.asarray(values), name)


def conv(d: int, c: int, *kernel: int, bias: bool = True, **attributes: Any) -> tuple[list[Any], list[Any]]:
    stored = [constant("w", numbers(d, c, *kernel))] + ([constant("b", numbers(d))] if bias else [])
    return [helper.make_node("Conv", ["x", *(tensor.name for tensor in stored)], ["y"], **attributes)], stored


def one(op: str, *stored: onnx.TensorProto, **attributes: Any) -> tuple[list[Any], list[Any]]:
    return [helper.make_node(op, ["x", *(tensor.name for tensor in stored)], ["y"], **attributes)], list(stored)


def several(*nodes: onnx.NodeProto, stored: tuple[onnx.TensorProto, ...] = ()) -> tuple[list[Any], list[Any]]:
    return list(nodes), list(stored)


def resize(times: list[int], mode: str) -> tuple[list[Any], list[Any]]:
    attributes = {"mode": "linear", "coordinate_transformation_mode": mode}
    return several(
        helper.make_node("Resize", ["x", "", "f"], ["y"], **attributes),
        stored=(constant("f", np.array(times, np.float32)),),
    )


node = helper.make_node
MAP, LINE, VOLUME, ROW = (3, 4, 6, 5), (3, 4, 9), (2, 3, 4, 5, 4), (3, 8)

CASES = {
    "point": (conv(5, 4, 1, 1), MAP),
    "point with strides": (conv(5, 4, 1, 1, strides=[2, 2]), MAP),
    "square": (conv(5, 4, 3, 3, pads=[1, 1, 1, 1]), MAP),
    "uneven pads": (conv(3, 4, 3, 2, pads=[0, 1, 2, 0], strides=[2, 1]), MAP),
    "dilated": (conv(3, 4, 3, 3, pads=[2, 2, 2, 2], dilations=[2, 2], bias=False), MAP),
    "same": (conv(3, 4, 3, 3, auto_pad="SAME_UPPER", strides=[2, 2]), MAP),
    "same lower": (conv(3, 4, 4, 4, auto_pad="SAME_LOWER"), MAP),
    "grouped": (conv(6, 2, 3, 3, group=2, pads=[1, 1, 1, 1]), MAP),
    "depthwise": (conv(4, 1, 3, 3, group=4, pads=[1, 1, 1, 1]), MAP),
    "depthwise with strides": (conv(4, 1, 5, 5, group=4, pads=[2, 2, 2, 2], strides=[2, 2]), MAP),
    "depthwise dilated": (conv(4, 1, 3, 3, group=4, pads=[2, 0, 2, 1], dilations=[2, 2], bias=False), MAP),
    "depthwise column": (conv(4, 1, 3, 1, group=4, pads=[1, 0, 1, 0]), MAP),
    "depthwise row": (conv(4, 1, 1, 3, group=4, pads=[0, 1, 0, 1]), MAP),
    "depthwise with a multiplier": (conv(8, 1, 3, 3, group=4), MAP),
    "kernel beyond the map": (conv(2, 4, 3, 3, pads=[4, 4, 4, 4], strides=[3, 3]), MAP),
    "line": (conv(5, 4, 3, pads=[1, 1]), LINE),
    "depthwise line": (conv(4, 1, 3, group=4, strides=[2]), LINE),
    "volume": (conv(2, 3, 2, 3, 3, pads=[0, 1, 1, 1, 1, 1]), VOLUME),
    "depthwise volume": (conv(3, 1, 2, 3, 3, group=3, strides=[1, 2, 1]), VOLUME),
    "gemm": (one("Gemm", constant("w", numbers(8, 5)), constant("b", numbers(5))), ROW),
    "gemm transposed": (one("Gemm", constant("w", numbers(5, 8)), constant("b", numbers(5)), transB=1), ROW),
    "matmul and bias": (
        several(
            node("MatMul", ["x", "w"], ["h"]),
            node("Add", ["b", "h"], ["y"]),
            stored=(constant("w", numbers(8, 5)), constant("b", numbers(5))),
        ),
        ROW,
    ),
    "relu": (one("Relu"), MAP),
    "clip": (one("Clip", constant("l", np.float32(-1)), constant("h", np.float32(2))), MAP),
    "leaky": (one("LeakyRelu", alpha=0.2), MAP),
    "prelu": (one("PRelu", constant("s", numbers(4, 1, 1))), MAP),
    "sigmoid": (one("Sigmoid"), MAP),
    "tanh": (one("Tanh"), MAP),
    "elu": (one("Elu", alpha=0.7), MAP),
    "hard sigmoid": (one("HardSigmoid", alpha=0.21, beta=0.44), MAP),
    "hard swish": (one("HardSwish"), MAP),
    "gelu": (one("Gelu"), MAP),
    "mish": (one("Mish"), MAP),
    "batch normalisation": (
        one("BatchNormalization", *(constant(name, np.abs(numbers(4)) + 0.5) for name in "sbmv")),
        MAP,
    ),
    "sum with itself": (several(node("Relu", ["x"], ["h"]), node("Add", ["h", "h"], ["y"])), MAP),
    "difference": (several(node("Tanh", ["x"], ["h"]), node("Sub", ["x", "h"], ["y"])), MAP),
    "gate": (
        several(
            node("GlobalAveragePool", ["x"], ["g"]),
            node("Sigmoid", ["g"], ["s"]),
            node("Mul", ["x", "s"], ["y"]),
        ),
        MAP,
    ),
    "quotient": (one("Div", constant("c", np.float32(3))), MAP),
    "constant less": (several(node("Sub", ["c", "x"], ["y"]), stored=(constant("c", np.float32(3)),)), MAP),
    "max pool": (one("MaxPool", kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]), MAP),
    "average pool": (one("AveragePool", kernel_shape=[3, 2], strides=[2, 1], pads=[1, 0, 1, 1]), MAP),
    "average pool with padding": (
        one("AveragePool", kernel_shape=[3, 3], pads=[1, 1, 1, 1], count_include_pad=1),
        MAP,
    ),
    "global average pool": (one("GlobalAveragePool"), MAP),
    "mean": (one("ReduceMean", axes=[2, 3], keepdims=0), MAP),
    "concat": (several(node("Relu", ["x"], ["h"]), node("Concat", ["x", "h"], ["y"], axis=1)), MAP),
    "concat along lines": (several(node("Relu", ["x"], ["h"]), node("Concat", ["x", "h"], ["y"], axis=-1)), MAP),
    "nearest": (
        several(
            node(
                "Resize",
                ["x", "", "f"],
                ["y"],
                mode="nearest",
                nearest_mode="floor",
                coordinate_transformation_mode="asymmetric",
            ),
            stored=(constant("f", np.array([1, 1, 2, 3], np.float32)),),
        ),
        MAP,
    ),
    "linear": (resize([1, 1, 2, 3], "half_pixel"), MAP),
    "linear from the beginnings": (resize([1, 1, 1, 4], "asymmetric"), MAP),
    "linear in a volume": (resize([1, 1, 2, 1, 2], "pytorch_half_pixel"), VOLUME),
    "flatten": (one("Flatten"), MAP),
    "reshape": (one("Reshape", constant("t", np.array([0, -1]))), MAP),
    "reshape by its own shape": (
        several(
            node("Shape", ["x"], ["s"]),
            node("Gather", ["s", "i"], ["n"]),
            node("Concat", ["n", "m"], ["t"], axis=0),
            node("Reshape", ["x", "t"], ["y"]),
            stored=(constant("i", np.array([0])), constant("m", np.array([-1]))),
        ),
        MAP,
    ),
    "squeeze": (
        several(
            node("GlobalAveragePool", ["x"], ["h"]),
            node("Squeeze", ["h", "a"], ["y"]),
            stored=(constant("a", np.array([2, 3])),),
        ),
        MAP,
    ),
    "transpose": (one("Transpose", perm=[0, 2, 3, 1]), MAP),
    "split": (several(node("Split", ["x", "p"], ["h", "y"], axis=1), stored=(constant("p", np.array([1, 3])),)), MAP),
    "slice": (
        several(
            node("Slice", ["x", "b", "e", "a", "s"], ["y"]),
            stored=tuple(
                constant(name, np.array(values))
                for name, values in {"b": [0, -4], "e": [4, 99], "a": [2, 1], "s": [2, 1]}.items()
            ),
        ),
        MAP,
    ),
    "pad": (one("Pad", constant("p", np.array([0, 0, 1, 0, 0, 0, 2, 1]))), MAP),
    "cast": (several(node("Cast", ["x"], ["h"], to=onnx.TensorProto.FLOAT), node("Relu", ["h"], ["y"])), MAP),
    "same tensor": (several(node("Identity", ["x"], ["h"]), node("Relu", ["h"], ["y"])), MAP),
}


def model(nodes: list[Any], stored: list[Any]) -> onnx.ModelProto:
    value = helper.make_tensor_value_info
    graph = helper.make_graph(nodes, "g", [value("x", 1, None)], [value("y", 1, None)], stored)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)])


def read(proto: onnx.ModelProto, shape: tuple[int, ...]) -> ReadBlock:
    network = Network.from_proto(proto)
    found = read_block(network, Stretch(None, "y", ("x",), ("y",), ()), {"x": shape})
    assert isinstance(found, ReadBlock), found
    return found


def opset_13(nodes: list[Any]) -> bool:
    return any(each.op_type == "ReduceMean" and each.attribute for each in nodes)


@pytest.mark.parametrize("case", CASES)
def test_outputs_are_those_of_onnx_and_slopes_those_of_differences(case: str) -> None:
    (nodes, stored), shape = CASES[case]
    proto = model(nodes, stored)
    if opset_13(nodes):
        proto.opset_import[0].version = 13
    x = numbers(*shape)
    found = read(proto, shape)
    block = found.block
    expected = ReferenceEvaluator(proto).run(None, {"x": x})[0]
    inputs = {"x": x.swapaxes(0, 1).copy()}
    y = block.run(found.weights, inputs)["y"]
    np.testing.assert_allclose(y.swapaxes(0, 1), expected, rtol=1e-5, atol=2e-5)

    # The input takes part as a weight, so that its slope is looked at as well; in double precision.
    weights = {name: values.astype(np.float64) for name, values in {**found.weights, **inputs}.items()}
    names = ["x", *found.trained]
    part = Part({}, {"y": np.zeros_like(y, np.float64)})
    slopes = block.slopes(weights, names, part, {"y": 1.0})
    for name in names:
        direction = RNG.normal(size=weights[name].shape)
        step, losses = 1e-6, []
        for sign in (-1, 1):
            moved = weights | {name: weights[name] + sign * step * direction}
            losses.append(0.5 * float(np.square(block.run(moved, {})["y"]).sum()))
        slope = (losses[1] - losses[0]) / (2 * step)
        assert float((slopes[name] * direction).sum()) == pytest.approx(slope, rel=1e-5, abs=1e-6), name
