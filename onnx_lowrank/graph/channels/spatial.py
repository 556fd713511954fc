"""Nodes that change the other axes and leave every channel to itself: pooling, means, padding, resizing, cutting."""

from collections.abc import Iterable, Sequence

import onnx_graphsurgeon as gs

from onnx_lowrank.graph.channels.layout import Layout
from onnx_lowrank.graph.channels.places import Extent
from onnx_lowrank.graph.channels.tracing import Size, Tracing, label

POOLS = ("AveragePool", "GlobalAveragePool", "GlobalLpPool", "GlobalMaxPool", "LpPool", "MaxPool")

REDUCTIONS = (
    *("ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd"),
    *("ReduceSum", "ReduceSumSquare"),
)


def pool(tracing: Tracing, node: gs.Node) -> Layout | str | None:
    """Follow a pooling."""
    layout = tracing.layout(node.inputs[0])
    if layout and (layout.axis != 1 or sum(bool(tensor.name) for tensor in node.outputs) > 1):
        return f"{label(node)} is not followed"
    return layout


def reduction(tracing: Tracing, node: gs.Node) -> Layout | str | None:
    """Follow a mean, sum or the like over axes other than the channels'."""
    layout = tracing.layout(node.inputs[0])
    if layout is None:
        return None
    axes = _axes(tracing.whole_numbers(node, "axes", 1), layout)
    if not axes or layout.axis in axes:
        return f"{label(node)} mixes channels"
    return layout if node.attrs.get("keepdims", 1) else _without(layout, axes)


def pad(tracing: Tracing, node: gs.Node) -> Layout | str | None:
    """Follow a padding of axes other than the channels'."""
    layout = tracing.layout(node.inputs[0])
    if layout is None:
        return None
    pads = tracing.whole_numbers(node, "pads", 1)
    given = tracing.whole_numbers(node, "axes", 3) if len(node.inputs) > 3 and node.inputs[3].name else None
    axes = _axes(given, layout) if given else list(range(layout.rank))
    if pads is None or len(pads) != 2 * len(axes):
        return f"{label(node)} is not followed"
    padded = {axis for index, axis in enumerate(axes) if pads[index] or pads[len(axes) + index]}
    return f"{label(node)} adds channels" if layout.axis in padded else layout


def resize(tracing: Tracing, node: gs.Node) -> Layout | str | None:
    """Follow a Resize or Upsample of axes other than the channels'."""
    layout = tracing.layout(node.inputs[0])
    if layout is None:
        return None
    policy = node.attrs.get("keep_aspect_ratio_policy", "stretch")
    if node.attrs.get("coordinate_transformation_mode") == "tf_crop_and_resize" or policy != "stretch":
        return f"{label(node)} is not followed"
    given = node.attrs.get("axes")
    axes = _axes(given, layout) if given else list(range(layout.rank))
    scales, sizes = _resize_operands(tracing, node)
    index = axes.index(layout.axis) if layout.axis in axes else None
    hold_counts(tracing, node, sizes or (), index)
    if index is None:
        return layout
    if scales and len(scales) == len(axes) and scales[index].value == 1:
        return layout
    if sizes and len(sizes) == len(axes) and keeps_count(tracing, node, sizes[index], layout):
        return layout
    return f"{label(node)} may resize channels"


def _resize_operands(tracing: Tracing, node: gs.Node) -> tuple[tuple[Size, ...] | None, tuple[Size, ...] | None]:
    """Return the scales and the sizes of a Resize, as far as they can be followed."""
    if "scales" in node.attrs:
        return tuple(Size(value=float(scale)) for scale in node.attrs["scales"]), None
    first = 1 if node.op == "Upsample" or tracing.network.opset < 11 else 2
    found = [
        tracing.shape_of(node, operand) if operand < len(node.inputs) and node.inputs[operand].name else None
        for operand in (first, first + 1)
    ]
    return found[0], found[1]


def expand(tracing: Tracing, node: gs.Node) -> Layout | str | None:
    """Follow an Expand that repeats a tensor along axes other than the channels'."""
    layout = tracing.layout(node.inputs[0])
    if layout is None:
        return None
    shape = tracing.shape_of(node, 1)
    if shape is None:
        return f"{label(node)} is not followed"
    index = len(shape) - (layout.rank - layout.axis)
    if index >= 0 and shape[index].value != 1 and not keeps_count(tracing, node, shape[index], layout):
        return f"{label(node)} is not followed"
    hold_counts(tracing, node, shape, index)
    more = max(len(shape) - layout.rank, 0)
    return Layout(layout.rank + more, layout.axis + more, layout.parts)


def crop(tracing: Tracing, node: gs.Node) -> Layout | str | None:
    """Follow a Slice of axes other than the channels'."""
    layout = tracing.layout(node.inputs[0])
    if layout is None:
        return None
    axes = tracing.whole_numbers(node, "axes", 3)
    if axes is None and len(node.inputs) <= 3:
        starts = tracing.whole_numbers(node, "starts", 1)
        axes = None if starts is None else tuple(range(len(starts)))
    if axes is None or layout.axis in _axes(axes, layout):
        return f"{label(node)} takes some channels out"
    return layout


def squeeze(tracing: Tracing, node: gs.Node) -> Layout | str | None:
    """Follow a Squeeze of axes other than the channels'."""
    layout = tracing.layout(node.inputs[0])
    if layout is None:
        return None
    given = tracing.whole_numbers(node, "axes", 1)
    dimensions = tracing.dimensions(node.inputs[0].name) or ()
    if given is None and len(node.inputs) < 2 and all(isinstance(size, int) for size in dimensions):
        given = tuple(axis for axis, size in enumerate(dimensions) if size == 1)
    axes = _axes(given or (), layout)
    if not axes or layout.axis in axes:
        return f"{label(node)} is not followed"
    return _without(layout, axes)


def unsqueeze(tracing: Tracing, node: gs.Node) -> Layout | str | None:
    """Follow an Unsqueeze."""
    layout = tracing.layout(node.inputs[0])
    if layout is None:
        return None
    given = tracing.whole_numbers(node, "axes", 1)
    if given is None:
        return f"{label(node)} is not followed"
    rank = layout.rank + len(given)
    new = {axis % rank for axis in given}
    return Layout(rank, [axis for axis in range(rank) if axis not in new][layout.axis], layout.parts)


def transpose(tracing: Tracing, node: gs.Node) -> Layout | str | None:
    """Follow a Transpose."""
    layout = tracing.layout(node.inputs[0])
    if layout is None:
        return None
    axes = list(node.attrs.get("perm", range(layout.rank - 1, -1, -1)))
    return Layout(layout.rank, axes.index(layout.axis), layout.parts)


def keeps_count(tracing: Tracing, node: gs.Node, size: Size, layout: Layout) -> bool:
    """Note a number in a shape that must count the entries of a layout; False where it does not do so for certain."""
    counted = tracing.counts_channels(size)
    if counted is not None:
        return counted.size == layout.size and tracing.meet(layout, counted, f"{label(node)} counts those of others")
    if size.value != layout.size or size.place is None:
        return False
    reader, operand, index = size.place
    # A number among computed ones may only be changed if nobody else reads the shape.
    alone = tracing.readers[reader] == 1 and any(tensor.name == reader for tensor in node.inputs)
    if reader != node.outputs[0].name and not alone:
        return False
    tracing.extents.append(Extent(reader, operand, index, layout))
    return True


def hold_counts(tracing: Tracing, node: gs.Node, sizes: Sequence[Size], besides: int | None) -> None:
    """Let the channels stay that numbers in a shape count, but for the number that counts the channels there."""
    for index, size in enumerate(sizes):
        if index != besides:
            tracing.hold(tracing.counts_channels(size), f"{label(node)} computes with their number")


def _axes(given: Iterable[int] | None, layout: Layout) -> list[int]:
    return [axis % layout.rank for axis in given or ()]


def _without(layout: Layout, axes: Iterable[int]) -> Layout:
    """Return the layout of a tensor that has lost some axes."""
    gone = set(axes)
    before = sum(axis < layout.axis for axis in gone)
    return Layout(layout.rank - len(gone), layout.axis - before, layout.parts)
