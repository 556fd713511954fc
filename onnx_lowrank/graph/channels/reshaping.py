"""Flatten and Reshape, where they leave the entries of every channel together.

In row-major order a tensor with L entries in front of the channels' axis, C channels and T entries behind it is the
matrix L × C × T. It stays this matrix if an axis of the new shape has C entries and those behind it have T together, or
those in front of it are the old ones. If the last axis has C·T entries, every channel has T consecutive ones in it.
"""

import math
from collections.abc import Sequence

import onnx_graphsurgeon as gs

from onnx_lowrank.graph.channels.layout import Layout
from onnx_lowrank.graph.channels.pointwise import BROADCAST, UNARY
from onnx_lowrank.graph.channels.spatial import hold_counts, keeps_count
from onnx_lowrank.graph.channels.tracing import Size, Tracing, label, numbers
from onnx_lowrank.graph.kinds import is_product


def flatten(tracing: Tracing, node: gs.Node) -> Layout | str | None:
    """Follow a Flatten in front of the channels' axis."""
    layout = tracing.layout(node.inputs[0])
    if layout is None:
        return None
    positions = _positions(tracing, node, layout)
    axis = int(node.attrs.get("axis", 1))
    if axis + (layout.rank if axis < 0 else 0) != layout.axis or positions is None:
        return f"{label(node)} is not followed"
    return Layout(2, 1, layout.repeated(positions).parts)


def reshape(tracing: Tracing, node: gs.Node) -> Layout | str | None:
    """Follow a Reshape that leaves the entries of every channel together."""
    layout = tracing.layout(node.inputs[0])
    if layout is None:
        return None
    if "shape" in node.attrs:
        return f"{label(node)} is not followed"
    shape = tracing.shape_of(node, 1)
    if shape is None or node.attrs.get("allowzero", 0):
        return f"{label(node)} has a shape that is not known"
    name = node.inputs[0].name
    target = [Size(counts=(name, index)) if size.value == 0 else size for index, size in enumerate(shape)]
    new = _in_front_unchanged(tracing, node, layout, target) or _behind_unchanged(tracing, node, layout, target)
    hold_counts(tracing, node, target, new.axis if new else None)
    return new or f"{label(node)} may mix channels"


def _in_front_unchanged(tracing: Tracing, node: gs.Node, layout: Layout, target: Sequence[Size]) -> Layout | None:
    """Return the new layout where the axes in front of the channels' are the old ones."""
    axis, name = layout.axis, node.inputs[0].name
    dimensions = tracing.dimensions(name) or ()
    if len(target) <= axis or not all(_is(tracing, target[i], name, dimensions, i) for i in range(axis)):
        return None
    size, last = target[axis], axis == len(target) - 1
    if keeps_count(tracing, node, size, layout):
        return Layout(len(target), axis, layout.parts)
    positions = _positions(tracing, node, layout) if last else tracing.positions(name)
    if positions is None or size.counts is not None or size.value is None:
        return None
    if size.value == -1 and not last:
        behind = numbers(target[axis + 1 :])
        same = None not in behind and math.prod(number or 0 for number in behind) == positions
        return Layout(len(target), axis, layout.parts) if same else None
    merged = layout.repeated(positions)
    if last and (size.value == -1 or keeps_count(tracing, node, size, merged)):
        return Layout(len(target), axis, merged.parts)
    return None


def _behind_unchanged(tracing: Tracing, node: gs.Node, layout: Layout, target: Sequence[Size]) -> Layout | None:
    """Return the new layout where as many entries as before are behind the channels."""
    positions = tracing.positions(node.inputs[0].name)
    if positions is None:
        return None
    merged = layout.repeated(positions)
    if target and target[-1].value == -1 and _columns(node) == merged.size:
        return Layout(len(target), len(target) - 1, merged.parts)
    behind = 1
    for axis in range(len(target) - 1, -1, -1):
        if behind == positions and keeps_count(tracing, node, target[axis], layout):
            return Layout(len(target), axis, layout.parts)
        if axis == len(target) - 1 and keeps_count(tracing, node, target[axis], merged):
            return Layout(len(target), axis, merged.parts)
        number = numbers(target)[axis]
        if number is None or number < 1:
            return None
        behind *= number
    return None


def _is(tracing: Tracing, size: Size, name: str, dimensions: Sequence[int | str | None], axis: int) -> bool:
    """Whether a number is the size of an axis of the tensor ``name``."""
    if size.counts == (name, axis):
        return True
    known = dimensions[axis]
    if size.counts is not None and known is not None:
        return (tracing.dimensions(size.counts[0]) or ())[size.counts[1] :][:1] == (known,)
    return size.value is not None and size.value == known


def _positions(tracing: Tracing, node: gs.Node, layout: Layout) -> int | None:
    """Return the number of entries of a channel, from the matrix that multiplies them if sizes are left open."""
    positions = tracing.positions(node.inputs[0].name)
    if positions is not None:
        return positions
    columns = _columns(node)
    return None if columns is None or columns % layout.size else columns // layout.size


def _columns(node: gs.Node) -> int | None:
    """Return the number of columns of the matrix that multiplies a node's output, perhaps behind an activation."""
    for _ in range(8):
        readers = list(node.outputs[0].outputs)
        if not readers:
            return None
        node = readers[0]
        if is_product(node):
            shape = node.inputs[1].shape if isinstance(node.inputs[1], gs.Constant) else None
            if shape is None or len(shape) != 2:
                return None
            return int(shape[1 if node.attrs.get("transB", 0) else 0])
        if node.op not in (*UNARY, *BROADCAST, "Dropout"):
            return None
    return None
