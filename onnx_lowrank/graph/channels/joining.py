"""Nodes that put channels side by side: Concat, and SpaceToDepth, which stacks the pixels of a block."""

import onnx_graphsurgeon as gs

from onnx_lowrank.graph.channels.layout import Layout, Part
from onnx_lowrank.graph.channels.tracing import Tracing, label


def concat(tracing: Tracing, node: gs.Node) -> Layout | str | None:
    """Follow a Concat: along the channels, or along another axis where all operands have the same channels."""
    layouts = [tracing.layout(tensor) for tensor in node.inputs]
    lead = next((layout for layout in layouts if layout), None)
    if lead is None:
        return None
    axis = int(node.attrs.get("axis", 1)) % lead.rank
    if any(layout and (layout.rank, layout.axis) != (lead.rank, lead.axis) for layout in layouts):
        return f"{label(node)} is not followed"
    if axis != lead.axis:
        reason = f"{label(node)} joins the channels of several layers position by position"
        if not all(layout and tracing.meet(lead, layout, reason) for layout in layouts):
            return reason
        return lead
    parts: list[Part] = []
    for tensor, layout in zip(node.inputs, layouts, strict=True):
        if layout is None:
            size = _size(tracing, tensor, axis)
            if size is None:
                return f"{label(node)} joins them with an unknown number of channels"
            parts.append(Part(None, size))
        else:
            parts.extend(layout.parts)
    return Layout(lead.rank, axis, tuple(parts))


def space_to_depth(tracing: Tracing, node: gs.Node) -> Layout | str | None:
    """Follow a SpaceToDepth: all channels of the first pixel of a block, then those of the second, and so on."""
    layout = tracing.layout(node.inputs[0])
    if layout is None or layout.axis != 1:
        return layout and f"{label(node)} is not followed"
    return Layout(layout.rank, 1, layout.parts * int(node.attrs["blocksize"]) ** 2)


def _size(tracing: Tracing, tensor: gs.Tensor, axis: int) -> int | None:
    shape = tracing.constant_shape(tensor) or tracing.dimensions(tensor.name)
    size = shape[axis] if shape and axis < len(shape) else None
    return size if isinstance(size, int) else None
