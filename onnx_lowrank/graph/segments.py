"""A network cut into pieces that can be run one after the other.

A cut is a position in ``network.nodes``: in front of the node with that index. The tensors that cross it, its live
tensors, have to be kept between two pieces. Those that can be computed from constants alone are not kept: each piece
computes them again. The same goes for those that cannot be kept, such as sequences: what they are made from is kept.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx

from onnx_lowrank.graph.network import Network
from onnx_lowrank.graph.protos import typed
from onnx_lowrank.graph.traverse import varying_tensors


def live_tensors(network: Network, cut: int, unkept: Collection[str] = ()) -> tuple[str, ...]:
    """Return the names of the tensors that cross a cut.

    Parameters
    ----------
    network
        Normalised, with its nodes in topological order.
    cut
        0 to ``len(network.nodes)``.
    unkept
        The names of tensors that cannot be kept. A node that makes one of them runs again in every piece that reads any
        of its outputs.

    Returns
    -------
    tuple of str
        The tensors that ``nodes[cut:]`` read (also from inside the bodies of If and Loop) and that are inputs of the
        model or made from them before the cut: inputs first, the others in the order in which they are made. Outputs
        of the model that no node reads any more are not among them.
    """
    varying = varying_tensors(network)
    read = {name for node in network.nodes[cut:] for name in network.reads(node)}
    again = made_with(network, unkept)
    for node in reversed(network.nodes[:cut]) if again else ():
        if any(tensor.name in read and tensor.name in again for tensor in node.outputs):
            read.update(network.reads(node))
    at_hand = [tensor.name for tensor in network.inputs]
    at_hand += [tensor.name for node in network.nodes[:cut] for tensor in node.outputs]
    return tuple(name for name in at_hand if name in read and name in varying and name not in again)


def made_with(network: Network, names: Collection[str]) -> set[str]:
    """Return the names of all tensors that the nodes which make one of ``names`` make."""
    makers = (node for node in network.nodes if any(tensor.name in names for tensor in node.outputs)) if names else ()
    return {tensor.name for node in makers for tensor in node.outputs if tensor.name}


def segment(
    network: Network,
    start: int,
    stop: int,
    outputs: Sequence[str],
    dtypes: Mapping[str, np.dtype[Any]],
    unkept: Collection[str] = (),
) -> onnx.ModelProto:
    """Make a model that runs ``nodes[start:stop]``.

    Parameters
    ----------
    network
        It is not changed.
    start, stop
        Cuts: ``0 <= start <= stop <= len(network.nodes)``.
    outputs
        The tensors wanted, such as ``live_tensors(network, stop)``. Those that are live at ``start`` already are left
        out of the model: the caller holds their arrays. The model has no outputs if that is true of all.
    dtypes
        Element types by the names of tensors, at least for the live tensors at ``start``.
    unkept
        As for ``live_tensors``.

    Returns
    -------
    onnx.ModelProto
        Its inputs are those of ``live_tensors(network, start, unkept)``, in this order, that its nodes read; nodes that
        ``outputs`` do not need are left out.

    Raises
    ------
    ValueError
        If a wanted tensor cannot be computed from what is live at ``start`` by the nodes before ``stop``.
    """
    live = live_tensors(network, start, unkept)
    wanted = [name for name in dict.fromkeys(outputs) if name not in set(live)]
    kept = varying_tensors(network) - made_with(network, unkept)
    needed, read = _needed(network, wanted, set(live))
    for index in needed:
        names = [tensor.name for tensor in network.nodes[index].outputs]
        if index >= stop or (index < start and not kept.isdisjoint(names)):
            raise ValueError(f"the piece from node {start} to {stop} cannot compute {names[0]!r}, made by node {index}")
    return network.piece(
        [network.nodes[index] for index in needed],
        [typed(name, dtypes[name]) for name in live if name in read],
        [typed(name, dtypes.get(name)) for name in wanted],
    )


def state_ranks(model: onnx.ModelProto, ranks: Mapping[str, int]) -> None:
    """State how many axes the inputs of a piece have; ONNX Runtime asks for it where a Scan reads them."""
    for value in model.graph.input:
        axes = value.type.tensor_type.shape.dim
        axes.extend(onnx.TensorShapeProto.Dimension() for _ in range(ranks[value.name] - len(axes)))


def whole(network: Network, outputs: Sequence[str]) -> onnx.ModelProto:
    """Make the model with other outputs, to tap tensors inside it.

    Parameters
    ----------
    network
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
    needed, _ = _needed(network, wanted, {tensor.name for tensor in network.inputs})
    return network.piece(
        [network.nodes[index] for index in needed],
        [network.value_info(tensor.name) or typed(tensor.name, tensor.dtype) for tensor in network.inputs],
        [network.value_info(name) or typed(name, None) for name in wanted],
    )


def _needed(network: Network, wanted: Iterable[str], given: set[str]) -> tuple[list[int], set[str]]:
    """Return the indices of the nodes that make ``wanted`` from ``given``, in order, and all names they read."""
    maker = {tensor.name: index for index, node in enumerate(network.nodes) for tensor in node.outputs if tensor.name}
    constants = network.constants()
    needed: set[int] = set()
    read: set[str] = set()
    stack = list(wanted)
    while stack:
        name = stack.pop()
        if name in given or name in constants:
            continue
        if name not in maker:
            raise ValueError(f"the piece cannot compute {name!r}: no node makes it, and it is not given")
        if maker[name] not in needed:
            needed.add(maker[name])
            names = network.reads(network.nodes[maker[name]])
            read.update(names)
            stack.extend(names)
    return sorted(needed), read
