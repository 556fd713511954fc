"""Nodes that work on every channel by itself and move no axis: arithmetic, activations, normalisations, dropout."""

import onnx_graphsurgeon as gs

from onnx_lowrank.graph.channels.layout import Layout
from onnx_lowrank.graph.channels.places import Role
from onnx_lowrank.graph.channels.tracing import Tracing, label
from onnx_lowrank.graph.kinds import is_inference_norm

UNARY = (
    *("Abs", "Acos", "Acosh", "Asin", "Asinh", "Atan", "Atanh", "Cast", "Ceil", "Celu", "Clip", "Cos", "Cosh", "Elu"),
    *("Erf", "Exp", "Floor", "Gelu", "HardSigmoid", "HardSwish", "Identity", "IsInf", "IsNaN", "LeakyRelu", "Log"),
    *("Mish", "Neg", "Not", "Reciprocal", "Relu", "Round", "Selu", "Shrink", "Sigmoid", "Sign", "Sin", "Sinh"),
    *("Softplus", "Softsign", "Sqrt", "Swish", "Tan", "Tanh", "ThresholdedRelu"),
)
"""Operators that work on every element by itself; further operands, as Clip has them, are single numbers."""

BROADCAST = (
    *("Add", "And", "Div", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Max", "Mean", "Min", "Mod"),
    *("Mul", "Or", "PRelu", "Pow", "Sub", "Sum", "Where", "Xor"),
)
"""Operators that combine the elements of tensors that are broadcast to one shape."""


def unary(tracing: Tracing, node: gs.Node) -> Layout | str | None:
    """Follow an operator of one tensor."""
    return tracing.layout(node.inputs[0])


def broadcast(tracing: Tracing, node: gs.Node) -> Layout | str | None:
    """Follow an operator of several tensors.

    The channels of two layers that are multiplied form one set; those that are combined in any other way stay unless
    they are in one set already.
    """
    layouts = {index: layout for index, tensor in enumerate(node.inputs) if (layout := tracing.layout(tensor))}
    if not layouts:
        return None
    lead = max(layouts.values(), key=lambda layout: (layout.rank, layout.size))
    if tracing.network.opset < 7 and len(node.inputs) > 1:
        return f"{label(node)} aligns its operands as opsets before 7 do"
    for index, tensor in enumerate(node.inputs):
        other = layouts.get(index)
        for size in tracing.sizes.get(tensor.name, ()):
            tracing.hold(tracing.counts_channels(size), f"{label(node)} computes with their number")
        if other is lead or not tensor.name:
            continue
        if other is not None:
            if not _meets(tracing, node, lead, other):
                return f"{label(node)} combines channels that do not correspond"
        elif not (tracing.cut_aligned(node, index, lead) or _is_broadcast(tracing, tensor, lead)):
            return f"{label(node)} combines them with channels that stay"
    return lead


def normalisation(tracing: Tracing, node: gs.Node) -> Layout | str | None:
    """Follow a batch normalisation by stored statistics, or an instance normalisation."""
    layout = tracing.layout(node.inputs[0])
    if layout is None:
        return None
    if layout.axis != 1 or (node.op == "BatchNormalization" and not is_inference_norm(node, tracing.network.opset)):
        return f"{label(node)} is not followed"
    if any(tracing.constant_shape(tensor) != (layout.size,) for tensor in node.inputs[1:]):
        return f"the parameters of {label(node)} are not constant"
    for index in range(1, len(node.inputs)):
        tracing.cut(node, index, 0, layout, Role.PARAMETER)
    return layout


def dropout(tracing: Tracing, node: gs.Node) -> Layout | str | None:
    """Follow a Dropout that drops nothing."""
    layout = tracing.layout(node.inputs[0])
    trains = tracing.network.opset < 7 and not node.attrs.get("is_test", 0)
    if len(node.inputs) > 2 and node.inputs[2].name:
        values = tracing.constant(node.inputs[2])
        trains = values is None or bool(values.any())
    if layout and trains:
        return f"{label(node)} draws random numbers"
    if layout and len(node.outputs) > 1 and node.outputs[1].name:
        tracing.layouts[node.outputs[1].name] = layout
    return layout


def _meets(tracing: Tracing, node: gs.Node, lead: Layout, other: Layout) -> bool:
    if lead.rank - lead.axis != other.rank - other.axis:
        return False
    if other.size == 1 and lead.size > 1:
        return True
    return tracing.meet(lead, other, f"{label(node)} adds up a residual stream", united=node.op == "Mul")


def _is_broadcast(tracing: Tracing, tensor: gs.Tensor, layout: Layout) -> bool:
    """Whether a tensor whose channels are not followed has the same values for all channels of a layout."""
    dimensions = tracing.dimensions(tensor.name)
    if dimensions is None or len(dimensions) > layout.rank:
        return False
    axis = len(dimensions) - (layout.rank - layout.axis)
    return axis < 0 or dimensions[axis] == 1
