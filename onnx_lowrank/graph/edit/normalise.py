"""The model in the one form that the rest of the package reads.

Exporters put weights in many places and leave normalisations and biases beside the convolution. Afterwards every
constant weight and bias of a Conv is a ``gs.Constant``, and what follows a Conv and is affine in every channel is part
of it (see ``fold``). Nothing else is simplified; only nodes that nobody needs after these two edits are removed.
"""

import onnx
import onnx_graphsurgeon as gs

from onnx_lowrank.graph.constants import ComputedConstants
from onnx_lowrank.graph.edit.fold import fold
from onnx_lowrank.graph.edit.unread import remove_unread
from onnx_lowrank.graph.kinds import STANDARD, is_conv, is_product
from onnx_lowrank.graph.protos import import_graph
from onnx_lowrank.graph.tensors import FLOATS, make_constant, taken_names, unique


def normalise(proto: onnx.ModelProto, *, gemm: bool = False) -> gs.Graph:
    """Import a model, lift the weights of its convolutions and fold what follows them.

    Parameters
    ----------
    proto
        With its weights in memory and its nodes in topological order. It is not changed, and the graph refers to its
        arrays: do not change it afterwards either.
    gemm
        Whether to lift the weights of Gemm and MatMul, too.

    Returns
    -------
    gs.Graph
        It computes the same, with its nodes still in topological order. Its attribute ``folded`` counts the nodes that
        became part of a convolution.

    Raises
    ------
    ModelError
        If the model cannot be imported.
    """
    graph = import_graph(proto)
    taken = taken_names(graph)
    known = ComputedConstants(graph)
    lifted: dict[str, gs.Constant] = {}
    for node in list(graph.nodes):
        if is_conv(node) or (gemm and is_product(node)):
            _lift(graph, node, known, lifted, taken)
            for add in node.outputs[0].outputs if node.op == "MatMul" else ():
                if add.op == "Add" and add.domain in STANDARD:
                    _lift(graph, add, known, lifted, taken, 0)
    lifted_only = len(graph.nodes)
    for node in list(graph.nodes):
        if is_conv(node):
            fold(graph, node, known, taken)
    graph.folded = lifted_only - len(graph.nodes)
    return graph


def _lift(
    graph: gs.Graph,
    conv: gs.Node,
    known: ComputedConstants,
    lifted: dict[str, gs.Constant],
    taken: set[str],
    first: int = 1,
) -> None:
    for index, tensor in enumerate(conv.inputs):
        if index < first or not tensor.name or isinstance(tensor, gs.Constant):
            continue
        if tensor.name not in lifted:
            values = known.find(tensor)
            if values is None or values.dtype not in FLOATS:
                continue
            constant = make_constant(unique(f"{tensor.name}/constant", taken), values, values.dtype)
            if constant is None:
                continue
            lifted[tensor.name] = constant
        conv.inputs[index] = lifted[tensor.name]
        remove_unread(graph, tensor)
