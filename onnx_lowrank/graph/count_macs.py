"""Multiply-accumulates, counted from the shapes that a run of the model has shown.

    Conv            ∏(weight) · ∏(output height, width, …) · N
    ConvTranspose   ∏(weight) · ∏(input height, width, …) · N
    Gemm, MatMul    ∏(output) · K, where K is the length of the dimension that is summed over

Additions of a bias are not counted, nor is any other operator.
"""

import math
from collections.abc import Iterator, Mapping

import onnx_graphsurgeon as gs

from onnx_lowrank.graph.kinds import STANDARD, is_dense
from onnx_lowrank.graph.network import Network

CONVOLUTIONS = ("Conv", "ConvTranspose")
"""The operators whose costs are those of convolutions."""

_PRODUCTS = ("Gemm", "MatMul")


def counted_tensors(network: Network) -> tuple[str, ...]:
    """Return the names of the tensors whose shapes ``macs_by_output`` needs, each once.

    Returns
    -------
    tuple of str
        The outputs of all counted nodes of the main graph, and their first two inputs where these are not constant.
    """
    names = {
        tensor.name: None
        for node in _counted(network)
        for tensor in (*node.inputs[:2], node.outputs[0])
        if not isinstance(tensor, gs.Constant)
    }
    return tuple(names)


def macs_by_output(network: Network, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[str, int]]:
    """Count the multiply-accumulates of every convolution and matrix product of the main graph.

    Parameters
    ----------
    network
        It is not changed.
    shapes
        The shapes, in one run, of the tensors that ``counted_tensors`` names.

    Returns
    -------
    dict
        The operator and its multiply-accumulates by the name of the node's output, in the order of the nodes.

    Raises
    ------
    KeyError
        If a shape is missing.
    """
    return {node.outputs[0].name: (node.op, _macs(node, shapes)) for node in _counted(network)}


def dense_outputs(network: Network) -> tuple[str, ...]:
    """Return the outputs of the fully connected layers of the main graph: of Gemms, and of MatMuls by a constant."""
    return tuple(node.outputs[0].name for node in network.nodes if is_dense(node))


def _counted(network: Network) -> Iterator[gs.Node]:
    return (node for node in network.nodes if node.op in (*CONVOLUTIONS, *_PRODUCTS) and node.domain in STANDARD)


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
