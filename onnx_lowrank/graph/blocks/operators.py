"""The operators of ONNX as operators of a block: one function for each, which adds its nodes to what has been read."""

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import TypeAlias

import numpy as np
import onnx_graphsurgeon as gs

from onnx_lowrank.factorise.activations import curves
from onnx_lowrank.factorise.activations.smooth import Smooth
from onnx_lowrank.factorise.blocks.convolution import Convolution
from onnx_lowrank.factorise.blocks.depthwise import Depthwise
from onnx_lowrank.factorise.blocks.elementwise import Clip, Curve, Product, Rectifier, Sum
from onnx_lowrank.factorise.blocks.pooling import LargestOf, MeanOf, MeanOfWindow
from onnx_lowrank.factorise.blocks.taps import Taps
from onnx_lowrank.graph.blocks import arrangements
from onnx_lowrank.graph.blocks.reader import AS_STORED, SPREAD, TURNED, BlockReader, CannotBeReadError
from onnx_lowrank.graph.find.elementwise import clip_bounds
from onnx_lowrank.graph.kinds import STANDARD, is_inference_norm

Reading: TypeAlias = Callable[[BlockReader, gs.Node], None]
"""A function that reads a node; it raises CannotBeReadError where the node does something that is not known here."""

POINTWISE = Taps((), (), (), (), ())
"""The taps of a layer without spatial axes."""


def read_node(reader: BlockReader, node: gs.Node, opset: int) -> None:
    """Add a node to what has been read.

    Raises
    ------
    CannotBeReadError
        If its operator, or the way in which it is used, is not known here.
    """
    if reader.compute(node):
        return
    if is_inference_norm(node, opset):
        _normalisation(reader, node)
    elif node.op in READINGS and node.domain in STANDARD:
        READINGS[node.op](reader, node)
    else:
        raise CannotBeReadError(f"{node.op} has no known slope")


def taps_of(node: gs.Node, kernel: tuple[int, ...], size: tuple[int, ...]) -> Taps:
    """Return the taps of a convolution or a pooling over a map of this size."""
    axes = len(kernel)
    strides, dilations = (tuple(node.attrs.get(key, (1,) * axes)) for key in ("strides", "dilations"))
    mode = node.attrs.get("auto_pad", "NOTSET")
    if mode.startswith("SAME"):
        before, after = [], []
        for length, stride, step, sides in zip(size, strides, dilations, kernel, strict=True):
            total = max((-(-length // stride) - 1) * stride + (sides - 1) * step + 1 - length, 0)
            less, more = total // 2, total - total // 2
            before.append(less if mode == "SAME_UPPER" else more)
            after.append(more if mode == "SAME_UPPER" else less)
        return Taps(kernel, strides, dilations, tuple(before), tuple(after))
    pads = tuple(node.attrs.get("pads", (0,) * (2 * axes))) if mode == "NOTSET" else (0,) * (2 * axes)
    if min(pads, default=0) < 0:
        raise CannotBeReadError(f"{node.op} has negative pads")
    return Taps(kernel, strides, dilations, pads[:axes], pads[axes:])


def _convolution(reader: BlockReader, node: gs.Node) -> None:
    x = node.inputs[0]
    weight = reader.stored(node.inputs[1], AS_STORED)
    shape, size, groups = reader.weights[weight].shape, reader.shape(x), int(node.attrs.get("group", 1))
    taps = taps_of(node, shape[2:], size[2:])
    depthwise = groups > 1 and groups == size[0] == shape[0] and len(shape) > 2
    operator = Depthwise(taps, groups) if depthwise else Convolution(taps, groups)
    names = [reader.name(x), weight]
    if len(node.inputs) > 2 and node.inputs[2].name:
        names.append(reader.stored(node.inputs[2], AS_STORED))
    reader.add(operator, names, node.outputs[0])


def _gemm(reader: BlockReader, node: gs.Node) -> None:
    plain = {"alpha": 1.0, "beta": 1.0, "transA": 0}
    if any(node.attrs.get(key, default) != default for key, default in plain.items()):
        raise CannotBeReadError("Gemm scales or transposes what it reads")
    names = [
        reader.name(node.inputs[0]),
        reader.stored(node.inputs[1], AS_STORED if node.attrs.get("transB") else TURNED),
    ]
    if len(node.inputs) > 2 and node.inputs[2].name:
        bias = reader.fixed(node.inputs[2])
        if bias is None or bias.shape != (len(reader.weights[names[1]]),):
            raise CannotBeReadError("Gemm has a bias that is no vector")
        names.append(reader.stored(node.inputs[2], AS_STORED))
    reader.add(Convolution(POINTWISE), names, node.outputs[0])


def _matmul(reader: BlockReader, node: gs.Node) -> None:
    weight = reader.fixed(node.inputs[1])
    if weight is None or weight.ndim != 2 or len(reader.shape(node.inputs[0])) != 2:
        raise CannotBeReadError("MatMul is no layer that reads one row of every sample")
    names = [reader.name(node.inputs[0]), reader.stored(node.inputs[1], TURNED)]
    reader.add(Convolution(POINTWISE), names, node.outputs[0])


def _normalisation(reader: BlockReader, node: gs.Node) -> None:
    values = [reader.fixed(tensor) for tensor in node.inputs[1:]]
    scale, shift, mean, variance = (np.zeros(0) if own is None else own.astype(np.float64) for own in values)
    if any(own is None for own in values):
        raise CannotBeReadError("a BatchNormalization has no constants")
    factor = scale / np.sqrt(variance + node.attrs.get("epsilon", 1e-5))
    axes = len(reader.shape(node.inputs[0]))
    parts = [reader.made(own.reshape(-1, *(1,) * (axes - 1))) for own in (factor, shift - mean * factor)]
    between = f"{node.outputs[0].name} scaled"
    reader.add(Product(), [reader.name(node.inputs[0]), parts[0]], between)
    reader.add(Sum((1.0, 1.0)), [between, parts[1]], node.outputs[0])


def _clip(reader: BlockReader, node: gs.Node) -> None:
    bounds = (0.0, math.inf) if node.op == "Relu" else clip_bounds(node)
    if bounds is None or bounds[0] > bounds[1]:
        raise CannotBeReadError("Clip has bounds that are no constants")
    reader.add(Clip(*bounds), [reader.name(node.inputs[0])], node.outputs[0])


def _rectifier(reader: BlockReader, node: gs.Node) -> None:
    x = node.inputs[0]
    axes = len(reader.shape(x))
    if node.op == "PRelu":
        below = reader.stored(node.inputs[1], SPREAD, axes)
    else:
        below = reader.made(np.full((1,) * axes, node.attrs.get("alpha", 0.01)))
    reader.add(Rectifier(), [reader.name(x), below], node.outputs[0])


def _curve(smooth: Smooth, reader: BlockReader, node: gs.Node) -> None:
    reader.add(Curve(smooth.at), [reader.name(node.inputs[0])], node.outputs[0])


def _elu(reader: BlockReader, node: gs.Node) -> None:
    _curve(curves.elu(float(node.attrs.get("alpha", 1.0))), reader, node)


def _swish(reader: BlockReader, node: gs.Node) -> None:
    if node.attrs.get("alpha", 1.0) != 1:
        raise CannotBeReadError("Swish has an alpha")
    _curve(curves.SILU, reader, node)


def _gelu(reader: BlockReader, node: gs.Node) -> None:
    _curve(curves.GELU_TANH if node.attrs.get("approximate", "none") == "tanh" else curves.GELU, reader, node)


def _hard_sigmoid(reader: BlockReader, node: gs.Node) -> None:
    alpha, beta = float(node.attrs.get("alpha", 0.2)), float(node.attrs.get("beta", 0.5))
    axes = len(reader.shape(node.inputs[0]))
    numbers = [reader.made(np.full((1,) * axes, value)) for value in (alpha, beta)]
    names = [f"{node.outputs[0].name} {part}" for part in ("scaled", "shifted")]
    reader.add(Product(), [reader.name(node.inputs[0]), numbers[0]], names[0])
    reader.add(Sum((1.0, 1.0)), [names[0], numbers[1]], names[1])
    reader.add(Clip(0.0, 1.0), [names[1]], node.outputs[0])


def _operands(reader: BlockReader, node: gs.Node) -> list[str]:
    """Return the names of the operands of a sum or product, which all have as many axes as the widest."""
    axes = max(len(reader.shape(tensor)) for tensor in node.inputs if reader.varies(tensor))
    names = []
    for tensor in node.inputs:
        if reader.varies(tensor):
            if len(reader.shape(tensor)) != axes:
                raise CannotBeReadError(f"{node.op} combines tensors of several ranks")
            names.append(reader.name(tensor))
        else:
            names.append(reader.stored(tensor, SPREAD, axes))
    return names


def _sum(reader: BlockReader, node: gs.Node) -> None:
    second = -1.0 if node.op == "Sub" else 1.0
    names = _operands(reader, node)
    reader.add(Sum((1.0, *(second,) * (len(names) - 1))), names, node.outputs[0])


def _product(reader: BlockReader, node: gs.Node) -> None:
    names = _operands(reader, node)
    if node.op == "Div":
        if names[1] not in reader.weights:
            raise CannotBeReadError("Div divides by what is no constant")
        names[1] = reader.made(1 / reader.weights[names[1]])
    reader.add(Product(), names, node.outputs[0])


def _pool(reader: BlockReader, node: gs.Node) -> None:
    if node.attrs.get("ceil_mode", 0) or node.attrs.get("storage_order", 0) or len(node.outputs) > 1:
        raise CannotBeReadError(f"{node.op} rounds sizes up, or tells more than values")
    taps = taps_of(node, tuple(node.attrs["kernel_shape"]), reader.shape(node.inputs[0])[2:])
    mean = MeanOfWindow(taps, bool(node.attrs.get("count_include_pad", 0)))
    reader.add(mean if node.op == "AveragePool" else LargestOf(taps), [reader.name(node.inputs[0])], node.outputs[0])


def _mean(reader: BlockReader, node: gs.Node) -> None:
    rank = len(reader.shape(node.inputs[0]))
    if node.op == "GlobalAveragePool":
        axes, keep = list(range(2, rank)), True
    else:
        given = reader.fixed(node.inputs[1]) if len(node.inputs) > 1 and node.inputs[1].name else node.attrs.get("axes")
        if given is None:
            raise CannotBeReadError("ReduceMean takes the mean over samples")
        axes, keep = [int(axis) for axis in given], bool(node.attrs.get("keepdims", 1))
    own = tuple(sorted(reader.axis(axis, rank) for axis in axes))
    if 0 in own and not keep:
        raise CannotBeReadError("ReduceMean takes away the channels")
    reader.add(MeanOf(own, keep), [reader.name(node.inputs[0])], node.outputs[0])


READINGS: Mapping[str, Reading] = {
    "Conv": _convolution,
    "Gemm": _gemm,
    "MatMul": _matmul,
    **dict.fromkeys(("Relu", "Clip"), _clip),
    **dict.fromkeys(("LeakyRelu", "PRelu"), _rectifier),
    "Sigmoid": partial(_curve, curves.SIGMOID),
    "Tanh": partial(_curve, curves.TANH),
    "HardSwish": partial(_curve, curves.HARD_SWISH),
    "Mish": partial(_curve, curves.MISH),
    "Elu": _elu,
    "Swish": _swish,
    "Gelu": _gelu,
    "HardSigmoid": _hard_sigmoid,
    **dict.fromkeys(("Add", "Sum", "Sub"), _sum),
    **dict.fromkeys(("Mul", "Div"), _product),
    **dict.fromkeys(("MaxPool", "AveragePool"), _pool),
    **dict.fromkeys(("GlobalAveragePool", "ReduceMean"), _mean),
    "Concat": arrangements.read_concat,
    **dict.fromkeys(("Resize", "Upsample"), arrangements.read_resize),
    **dict.fromkeys(("Flatten", "Reshape", "Squeeze", "Unsqueeze"), arrangements.read_reshape),
    "Transpose": arrangements.read_transpose,
    "Split": arrangements.read_split,
    "Slice": arrangements.read_slice,
    "Pad": arrangements.read_pad,
    **dict.fromkeys(("Identity", "Dropout"), arrangements.read_same),
    "Cast": arrangements.read_cast,
}
"""How each operator is read."""
