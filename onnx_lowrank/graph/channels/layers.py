"""Convolutions and fully connected layers: they read all channels of one tensor, and make those of another."""

import onnx_graphsurgeon as gs

from onnx_lowrank.graph.channels.layout import Layout, Part
from onnx_lowrank.graph.channels.places import Carrier, Role
from onnx_lowrank.graph.channels.tracing import Tracing, label
from onnx_lowrank.graph.tensors import FLOATS, dtype, is_sparse


def convolution(tracing: Tracing, node: gs.Node) -> Layout | str | None:
    """Follow a Conv or a ConvTranspose."""
    weight = _weight_shape(tracing, node)
    if len(weight) < 3:
        return f"the weights of {label(node)} are not constant"
    x, group, rank = tracing.layout(node.inputs[0]), int(node.attrs.get("group", 1)), len(weight)
    transposed = node.op == "ConvTranspose"
    columns = weight[0] if transposed else weight[1] * group
    filters = weight[1] * group if transposed else weight[0]
    if x is not None and (x.axis, x.rank, x.size) != (1, rank, columns):
        return f"{label(node)} reads another number of channels"
    if group > 1 and group == columns:
        return _depthwise(tracing, node, x or Layout(rank, 1, (Part(None, columns),)), filters)
    made = tracing.make(node.outputs[0].name, rank, 1, filters)
    if group > 1:
        tracing.hold(x, f"{label(node)} has {group} groups")
        tracing.hold(made, f"{label(node)} has {group} groups")
        return made
    if x is not None:
        tracing.cut(node, 1, 0 if transposed else 1, x, Role.COLUMN)
    tracing.cut(node, 1, 1 if transposed else 0, made, Role.FILTER)
    _cut_bias(tracing, node, made, Role.FILTER)
    return made


def fully_connected(tracing: Tracing, node: gs.Node) -> Layout | str | None:
    """Follow a Gemm or a MatMul by a stored matrix."""
    weight = _weight_shape(tracing, node)
    if len(weight) != 2:
        return f"the weights of {label(node)} are not a constant matrix"
    if any(node.attrs.get(key, default) != default for key, default in (("alpha", 1), ("beta", 1), ("transA", 0))):
        return f"{label(node)} does more than multiply and add"
    x, rank = tracing.layout(node.inputs[0]), 2 if node.op == "Gemm" else tracing.rank(node.inputs[0])
    column_axis = 1 if node.op == "Gemm" and node.attrs.get("transB", 0) else 0
    if x is not None and (x.axis, x.size) != (x.rank - 1, weight[column_axis]):
        return f"{label(node)} reads another number of channels"
    if rank is None or rank < 2:
        return None
    if x is not None:
        tracing.cut(node, 1, column_axis, x, Role.COLUMN)
    made = tracing.make(node.outputs[0].name, rank, rank - 1, weight[1 - column_axis])
    tracing.cut(node, 1, 1 - column_axis, made, Role.FILTER)
    _cut_bias(tracing, node, made, Role.FILTER)
    return made


def _depthwise(tracing: Tracing, node: gs.Node, x: Layout, filters: int) -> Layout:
    """Follow a convolution of one channel a group, which has one response or several for each."""
    y = x.repeated(filters // x.size)
    tracing.carriers.append(Carrier(node.outputs[0].name, x, filters // x.size))
    if node.op == "Conv":
        tracing.cut(node, 1, 0, y, Role.PARAMETER)
    else:
        tracing.cut(node, 1, 0, x, Role.PARAMETER)
    _cut_bias(tracing, node, y, Role.PARAMETER)
    return y


def _cut_bias(tracing: Tracing, node: gs.Node, layout: Layout, role: Role) -> None:
    if len(node.inputs) < 3 or not node.inputs[2].name:
        return
    # A bias is broadcast along the responses alone, as a vector would be to [N, d].
    if not tracing.cut_aligned(node, 2, Layout(2, 1, layout.parts), role):
        tracing.hold(layout, f"the bias of {label(node)} is not constant")


def _weight_shape(tracing: Tracing, node: gs.Node) -> tuple[int, ...]:
    """Return the shape of a layer's weight if it is a dense constant of floating type, or else no axes."""
    weight = node.inputs[1]
    if isinstance(weight, gs.Constant):
        return tuple(weight.shape) if not is_sparse(weight) and dtype(weight) in FLOATS else ()
    values = tracing.constant(weight)
    return values.shape if values is not None and values.dtype in FLOATS else ()
