"""Shapes that a network computes for itself: which numbers in them are constant, and which count a tensor's axis.

Exporters spell a Flatten as Shape, Gather, Concat and Reshape. Of each number in such a shape it must be known whether
it counts channels: one that the network computes from the tensor follows by itself when channels go, a constant does
not.
"""

from collections.abc import Callable, Mapping

import onnx_graphsurgeon as gs

from onnx_lowrank.graph.channels.tracing import Size, Tracing

Sizes = tuple[Size, ...]


def follow_shape(tracing: Tracing, node: gs.Node) -> bool:
    """Follow a node that makes a shape, or takes numbers out of one; False where it is no such node."""
    if node.op not in _RULES or not (node.op == "Shape" or any(one.name in tracing.sizes for one in node.inputs)):
        return False
    sizes = _RULES[node.op](tracing, node)
    if sizes is None:
        return False
    tracing.sizes[node.outputs[0].name] = sizes
    return True


def _shape(tracing: Tracing, node: gs.Node) -> Sizes | None:
    name, rank = node.inputs[0].name, tracing.rank(node.inputs[0])
    if rank is None:
        return None
    start, end = node.attrs.get("start", 0), node.attrs.get("end", rank)
    return tuple(Size(counts=(name, axis)) for axis in range(rank)[start:end])


def _first(tracing: Tracing, node: gs.Node) -> Sizes | None:
    return tracing.sizes.get(node.inputs[0].name)


def _gather(tracing: Tracing, node: gs.Node) -> Sizes | None:
    sizes, indices = _first(tracing, node), tracing.constant(node.inputs[1])
    if sizes is None or indices is None or node.attrs.get("axis", 0) != 0:
        return None
    chosen = [int(index) for index in indices.reshape(-1)]
    return tuple(sizes[index] for index in chosen) if all(-len(sizes) <= i < len(sizes) for i in chosen) else None


def _slice(tracing: Tracing, node: gs.Node) -> Sizes | None:
    sizes = _first(tracing, node)
    starts, ends = tracing.whole_numbers(node, "starts", 1), tracing.whole_numbers(node, "ends", 2)
    steps = tracing.whole_numbers(node, "steps", 4) if len(node.inputs) > 4 else (1,)
    if sizes is None or not starts or not ends or not steps:
        return None
    return sizes[starts[0] : ends[0] : steps[0]]


def _concat(tracing: Tracing, node: gs.Node) -> Sizes | None:
    parts = [_operand(tracing, node, index) for index in range(len(node.inputs))]
    return None if any(part is None for part in parts) else tuple(size for part in parts for size in part or ())


def _operand(tracing: Tracing, node: gs.Node, index: int) -> Sizes | None:
    """Return the numbers of an operand; what the network computes otherwise is a number of unknown meaning."""
    found = tracing.shape_of(node, index)
    if found is None:
        dimensions = tracing.dimensions(node.inputs[index].name)
        found = (Size(),) * dimensions[0] if dimensions and isinstance(dimensions[0], int) else None
    return found


_RULES: Mapping[str, Callable[[Tracing, gs.Node], Sizes | None]] = {
    "Shape": _shape,
    "Gather": _gather,
    "Slice": _slice,
    "Concat": _concat,
    "Cast": _first,
    "Identity": _first,
    "Squeeze": _first,
    "Unsqueeze": _first,
}
