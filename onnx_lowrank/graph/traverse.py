"""Questions about the order of a network: who reads a tensor, what depends on it, which node makes it."""

from collections import Counter
from collections.abc import Collection, Iterable

import onnx_graphsurgeon as gs

from onnx_lowrank.graph.chance import ALWAYS_RANDOM, random_functions
from onnx_lowrank.graph.network import Network


def position(network: Network, tensor: str) -> int:
    """Return the index in ``network.nodes`` of the node that makes a tensor.

    Raises
    ------
    KeyError
        If no node makes it.
    """
    for index, node in enumerate(network.nodes):
        if any(output.name == tensor for output in node.outputs):
            return index
    raise KeyError(tensor)


def count_readers(network: Network) -> Counter[str]:
    """Count the readers of every tensor; the model's outputs count as readers."""
    readers = Counter(name for node in network.nodes for name in network.reads(node))
    readers.update(tensor.name for tensor in network.outputs)
    return readers


def behind(network: Network, sources: Iterable[str]) -> set[str]:
    """Return the names of the tensors that depend on one of ``sources``, these included."""
    dependent = set(sources)
    for node in network.nodes:
        if not dependent.isdisjoint(network.reads(node)):
            dependent.update(tensor.name for tensor in node.outputs if tensor.name)
    return dependent


def varying_tensors(network: Network) -> set[str]:
    """Return the names of the tensors that depend on an input of the model, or on chance."""
    varying = {tensor.name for tensor in network.inputs}
    random = random_functions(network.source.functions)
    for node in network.nodes:
        if _draws(node, random) or not varying.isdisjoint(network.reads(node)):
            varying.update(tensor.name for tensor in node.outputs if tensor.name)
    return varying


def _draws(node: gs.Node, random: Collection[str]) -> bool:
    """Whether a node draws random numbers, itself, in its bodies or in a function that it calls."""
    inside = (inner for body in node.subgraphs(recursive=True) for inner in body.nodes)
    return any(each.op in ALWAYS_RANDOM or each.op in random for each in (node, *inside))
