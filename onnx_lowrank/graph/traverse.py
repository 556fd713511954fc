"""Walking through a graph: who reads, what stands behind, what varies."""

from collections import Counter
from collections.abc import Iterable

import onnx_graphsurgeon as gs

from onnx_lowrank.graph.protos import reads


def count_readers(graph: gs.Graph) -> Counter[str]:
    """Count who reads every tensor: nodes, and the model's outputs."""
    readers = Counter(name for node in graph.nodes for name in reads(node))
    readers.update(tensor.name for tensor in graph.outputs)
    return readers


def behind(graph: gs.Graph, sources: Iterable[str]) -> set[str]:
    """Return the names of the tensors that depend on one of ``sources``, these included."""
    changed = set(sources)
    for node in graph.nodes:
        if not changed.isdisjoint(reads(node)):
            changed.update(tensor.name for tensor in node.outputs if tensor.name)
    return changed


# Computed anew in every piece, these would differ from piece to piece.
_RANDOM = {"RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Multinomial", "Bernoulli"}


def position(graph: gs.Graph, tensor: str) -> int:
    """Return the index in ``graph.nodes`` of the node that makes a tensor.

    Raises
    ------
    KeyError
        If no node makes it.
    """
    for index, node in enumerate(graph.nodes):
        if any(made.name == tensor for made in node.outputs):
            return index
    raise KeyError(tensor)


def varying_tensors(graph: gs.Graph) -> set[str]:
    """Return the names of the tensors that depend on an input of the model, or on chance."""
    varying = {tensor.name for tensor in graph.inputs}
    for node in graph.nodes:
        if node.op in _RANDOM or not varying.isdisjoint(reads(node)):
            varying.update(tensor.name for tensor in node.outputs if tensor.name)
    return varying
