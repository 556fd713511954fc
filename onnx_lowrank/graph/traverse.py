"""Questions about the order of a network: who reads a tensor, what depends on it, which node makes it."""

from collections import Counter
from collections.abc import Iterable

from onnx_lowrank.graph.network import Network

_RANDOM = {"RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Multinomial", "Bernoulli"}
"""Operators whose results, if every piece of the network computed them anew, would differ from piece to piece."""


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
    for node in network.nodes:
        if node.op in _RANDOM or not varying.isdisjoint(network.reads(node)):
            varying.update(tensor.name for tensor in node.outputs if tensor.name)
    return varying
