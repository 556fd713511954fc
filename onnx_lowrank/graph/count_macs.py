"""Multiply-accumulates, counted from the shapes that a run of the model has shown.

    Conv            ∏(weight) · ∏(output height, width, …) · N
    ConvTranspose   ∏(weight) · ∏(input height, width, …) · N
    Gemm, MatMul    ∏(output) · K, with K the length of the dimension that is summed over

Additions of a bias are not counted, nor is any other operator.
"""

import math
from collections.abc import Iterator, Mapping

import onnx_graphsurgeon as gs

from onnx_lowrank.graph.kinds import STANDARD, is_dense

_CONVS = ("Conv", "ConvTranspose")
_PRODUCTS = ("Gemm", "MatMul")


def counted_nodes(graph: gs.Graph) -> tuple[str, ...]:
    """Return the tensors whose shapes `macs_by_output` needs, without repetition.

    Returns
    -------
    tuple of str
        The outputs of all counted nodes of the main graph, and their first two inputs where these are not constant.
    """
    names = {
        tensor.name: None
        for node in _counted(graph)
        for tensor in (*node.inputs[:2], node.outputs[0])
        if not isinstance(tensor, gs.Constant)
    }
    return tuple(names)


def macs_by_output(graph: gs.Graph, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[str, int]]:
    """Count every node.

    Parameters
    ----------
    graph
        It is not changed.
    shapes
        Of the tensors that `counted_nodes` names, as seen in one run.

    Returns
    -------
    dict
        Name of the node's output → (operator, multiply-accumulates), in the order of the nodes.

    Raises
    ------
    KeyError
        If a shape is missing.
    """
    return {node.outputs[0].name: (node.op, _macs(node, shapes)) for node in _counted(graph)}


def dense_outputs(graph: gs.Graph) -> tuple[str, ...]:
    """Return what the fully connected layers of the main graph make: Gemms, and MatMuls by a constant matrix."""
    return tuple(node.outputs[0].name for node in graph.nodes if is_dense(node))


def _counted(graph: gs.Graph) -> Iterator[gs.Node]:
    return (node for node in graph.nodes if node.op in (*_CONVS, *_PRODUCTS) and node.domain in STANDARD)


def _macs(node: gs.Node, shapes: Mapping[str, tuple[int, ...]]) -> int:
    first, second = (
        tuple(tensor.shape) if isinstance(tensor, gs.Constant) else shapes[tensor.name] for tensor in node.inputs[:2]
    )
    output = shapes[node.outputs[0].name]
    if node.op == "Conv":
        return math.prod(second) * math.prod(output[2:]) * output[0]
    if node.op == "ConvTranspose":
        return math.prod(second) * math.prod(first[2:]) * output[0]
    summed = first[0] if node.op == "Gemm" and node.attrs.get("transA", 0) else first[-1]
    return math.prod(output) * summed
