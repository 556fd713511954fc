"""Nodes put into topological order, which ONNX demands of a file and ONNX Runtime does not."""

from collections.abc import Mapping, Sequence

import onnx

from onnx_lowrank.errors import ModelError
from onnx_lowrank.graph.protos import bodies, names_from_outside


def sort_nodes(graph: onnx.GraphProto | onnx.FunctionProto, label: str) -> None:
    """Sort the nodes of a graph or function, and of the bodies in it, in place; a graph in order stays as it is.

    A node moves no further than it must: it stands right in front of the first node that needs it.

    Parameters
    ----------
    graph
        The graph. A name that no node makes counts as given.
    label
        The model's name in the error.

    Raises
    ------
    ModelError
        If nodes form a cycle; the text names them.
    """
    for node in graph.node:
        for body in bodies(node):
            sort_nodes(body, label)
    order = _order(graph.node, label)
    if order != list(range(len(order))):
        nodes = [onnx.NodeProto.FromString(graph.node[index].SerializeToString()) for index in order]
        del graph.node[:]
        graph.node.extend(nodes)


def _order(nodes: Sequence[onnx.NodeProto], label: str) -> list[int]:
    """Return the indices of the nodes in topological order."""
    makers: dict[str, int] = {}
    for index, node in enumerate(nodes):
        for name in node.output:
            makers.setdefault(name, index)
    makers.pop("", None)
    order: list[int] = []
    done: set[int] = set()
    for start in range(len(nodes)):
        # By hand and not by recursion: a chain may be longer than Python's stack.
        path = {} if start in done else {start: _makers_of(nodes[start], makers)}
        while path:
            index, needed = next(reversed(path.items()))
            missing = next((maker for maker in needed if maker not in done), None)
            if missing is None:
                done.add(index)
                order.append(index)
                path.popitem()
            elif missing in path:
                raise ModelError(f"{label}: its nodes form a cycle ({_cycle(nodes, path, missing)}); export it again")
            else:
                path[missing] = _makers_of(nodes[missing], makers)
    return order


def _makers_of(node: onnx.NodeProto, makers: Mapping[str, int]) -> list[int]:
    """Return the nodes whose results a node reads, also from inside its bodies, in the order of the nodes."""
    names = [*node.input, *(name for body in bodies(node) for name in names_from_outside(body))]
    return sorted({makers[name] for name in names if name in makers})


def _cycle(nodes: Sequence[onnx.NodeProto], path: Mapping[int, object], first: int) -> str:
    """Return the names of the nodes of the cycle that closes at ``first``, each in front of those that read it."""
    indices = list(path)
    around = [*reversed(indices[indices.index(first) :])]
    names = [nodes[index].name or next(iter(nodes[index].output), "") for index in (around[-1], *around)]
    return " → ".join(map(str, names if len(names) <= 6 else [*names[:4], "…", names[-1]]))
