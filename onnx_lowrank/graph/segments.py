"""The graph cut into pieces that can be run one after the other.

A cut is a position in ``graph.nodes``: in front of the node with that index. What crosses it, and has to be kept in
memory between two pieces, are its live tensors. Whatever can be computed from constants alone is not kept: each piece
computes it again.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from onnx_lowrank.graph.protos import constants, piece, reads, typed, value_info
from onnx_lowrank.graph.traverse import varying_tensors


def live_tensors(graph: gs.Graph, at: int) -> tuple[str, ...]:
    """Return what crosses the cut in front of node `at`.

    Parameters
    ----------
    graph
        Normalised, with its nodes in topological order.
    at
        0 to ``len(graph.nodes)``.

    Returns
    -------
    tuple of str
        The tensors that ``nodes[at:]`` read (also from inside the bodies of If and Loop) and that are inputs of the
        model or made before `at` from them: inputs first, then in the order in which they are made. Outputs of the
        model that nobody reads any more are not among them.
    """
    varying = varying_tensors(graph)
    read = {name for node in graph.nodes[at:] for name in reads(node)}
    made = [tensor.name for tensor in graph.inputs]
    made += [tensor.name for node in graph.nodes[:at] for tensor in node.outputs]
    return tuple(name for name in made if name in read and name in varying)


def segment(
    graph: gs.Graph, start: int, stop: int, outputs: Sequence[str], dtypes: Mapping[str, np.dtype[Any]]
) -> onnx.ModelProto:
    """Make a model that runs ``nodes[start:stop]``.

    Parameters
    ----------
    graph
        It is not changed.
    start, stop
        Cuts: ``0 <= start <= stop <= len(graph.nodes)``.
    outputs
        The tensors wanted, such as ``live_tensors(graph, stop)``. Those that are live at `start` already are left
        out of the model: the caller holds their arrays. The model has no outputs if that is true of all.
    dtypes
        Element types, at least of the live tensors at `start`.

    Returns
    -------
    onnx.ModelProto
        Its inputs are those of ``live_tensors(graph, start)``, in this order, that the nodes in it read; nodes that
        `outputs` do not need are left out.

    Raises
    ------
    ValueError
        If a wanted tensor cannot be computed from what is live at `start` by the nodes before `stop`.
    """
    live = live_tensors(graph, start)
    wanted = [name for name in dict.fromkeys(outputs) if name not in set(live)]
    varying = varying_tensors(graph)
    kept, read = _needed(graph, wanted, set(live))
    for index in kept:
        names = [tensor.name for tensor in graph.nodes[index].outputs]
        if index >= stop or (index < start and not varying.isdisjoint(names)):
            raise ValueError(f"the piece from node {start} to {stop} cannot compute {names[0]!r}, made by node {index}")
    inputs = [typed(name, dtypes[name]) for name in live if name in read]
    ends = [typed(name, dtypes.get(name)) for name in wanted]
    return piece(graph, [graph.nodes[index] for index in kept], inputs, ends)


def whole(graph: gs.Graph, outputs: Sequence[str]) -> onnx.ModelProto:
    """Make the model with other outputs, to tap tensors inside it.

    Parameters
    ----------
    graph
        It is not changed.
    outputs
        Any of its tensors; each becomes an output once, in this order. Where the original does not state its type,
        neither does the model: ONNX Runtime infers it.

    Returns
    -------
    onnx.ModelProto
        With all inputs of the original; nodes that no output needs are left out.

    Raises
    ------
    ValueError
        If there is no such tensor.
    """
    wanted = list(dict.fromkeys(outputs))
    names = [tensor.name for tensor in graph.inputs]
    kept, _ = _needed(graph, wanted, set(names))
    inputs = [value_info(graph, tensor.name) or typed(tensor.name, tensor.dtype) for tensor in graph.inputs]
    taps = [value_info(graph, name) or typed(name, None) for name in wanted]
    return piece(graph, [graph.nodes[index] for index in kept], inputs, taps)


def _needed(graph: gs.Graph, wanted: Iterable[str], given: set[str]) -> tuple[list[int], set[str]]:
    """Return the indices of the nodes that make `wanted` from `given`, in order, and all names they read."""
    maker = {tensor.name: index for index, node in enumerate(graph.nodes) for tensor in node.outputs if tensor.name}
    known = constants(graph)
    kept: set[int] = set()
    read: set[str] = set()
    stack = list(wanted)
    while stack:
        name = stack.pop()
        if name in given or name in known:
            continue
        if name not in maker:
            raise ValueError(f"the piece cannot compute {name!r}: no node makes it, and it is not given")
        if maker[name] not in kept:
            kept.add(maker[name])
            names = reads(graph.nodes[maker[name]])
            read.update(names)
            stack.extend(names)
    return sorted(kept), read
