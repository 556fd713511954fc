"""The model in the one form that the rest of the package reads.

Exporters put weights in many places and leave BatchNormalization beside the convolution. Afterwards every constant
weight and bias of a Conv is a ``gs.Constant``, and every BatchNormalization that can be is part of the Conv before it:

    γ · (W∗x + b − μ) / √(σ² + ε) + β  =  (g·W)∗x + g·(b − μ) + β     with g = γ / √(σ² + ε)

Nothing else is simplified; only nodes that nobody needs after these two edits are removed.
"""

from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from onnx_lowrank.graph.protos import import_graph
from onnx_lowrank.graph.tensors import FLOATS, array, dtype, is_sparse, make_constant, taken_names, unique

STANDARD = (None, "", "ai.onnx")
"""The ways to write the domain of the standard operators."""

_PLAIN_VALUES = {"value_floats": np.float32, "value_float": np.float32, "value_ints": np.int64, "value_int": np.int64}
"""Attributes of a Constant that hold numbers in place of a tensor, with the types that ONNX gives them."""


def normalise(proto: onnx.ModelProto) -> gs.Graph:
    """Import a model, lift the weights of its convolutions and fold its batch normalisations.

    Parameters
    ----------
    proto
        With its weights in memory and its nodes in topological order. It is not changed, and the graph refers to its
        arrays: do not change it afterwards either.

    Returns
    -------
    gs.Graph
        It computes the same, with its nodes still in topological order.

    Raises
    ------
    ModelError
        If the model cannot be imported.
    """
    graph = import_graph(proto)
    taken = taken_names(graph)
    lifted: dict[str, gs.Constant] = {}
    for node in list(graph.nodes):
        if is_conv(node):
            _lift(graph, node, lifted, taken)
    for node in list(graph.nodes):
        if is_conv(node):
            _fold(graph, node, taken)
    return graph


def is_conv(node: gs.Node) -> bool:
    """Whether the node is a Conv of the standard domain."""
    return node.op == "Conv" and node.domain in STANDARD


def find_constant(tensor: gs.Tensor) -> NDArray[Any] | None:
    """Return the values of a tensor that is constant, also behind Constant, Identity or Cast; None for any other."""
    if isinstance(tensor, gs.Constant):
        return None if is_sparse(tensor) else array(tensor).astype(dtype(tensor), copy=False)
    if len(tensor.inputs) != 1:
        return None
    node = tensor.inputs[0]
    if node.domain not in STANDARD:
        return None
    if node.op == "Constant":
        value = node.attrs.get("value")
        if isinstance(value, gs.Constant):
            return find_constant(value)
        for key, element in _PLAIN_VALUES.items():
            if key in node.attrs:
                return np.asarray(node.attrs[key], element)
        return None
    if node.op not in ("Identity", "Cast"):
        return None
    values = find_constant(node.inputs[0])
    if values is None or node.op == "Identity":
        return values
    wanted = {number: element for element, number in FLOATS.items()}.get(node.attrs["to"])
    with np.errstate(over="ignore"):
        return None if wanted is None else values.astype(wanted)


def _lift(graph: gs.Graph, conv: gs.Node, lifted: dict[str, gs.Constant], taken: set[str]) -> None:
    for index, tensor in enumerate(conv.inputs):
        if index == 0 or not tensor.name or isinstance(tensor, gs.Constant):
            continue
        if tensor.name not in lifted:
            values = find_constant(tensor)
            if values is None or values.dtype not in FLOATS:
                continue
            constant = make_constant(unique(f"{tensor.name}/constant", taken), values, values.dtype)
            if constant is None:
                continue
            lifted[tensor.name] = constant
        conv.inputs[index] = lifted[tensor.name]
        remove_unread(graph, tensor)


def _fold(graph: gs.Graph, conv: gs.Node, taken: set[str]) -> None:
    output = conv.outputs[0]
    if len(output.outputs) != 1 or any(tensor is output for tensor in graph.outputs):
        return
    norm = output.outputs[0]
    if not _is_inference_norm(norm, graph.opset) or norm.inputs[0] is not output:
        return
    if not any(norm is node for node in graph.nodes):
        return  # It stands in the body of an If or Loop.
    weight = conv.inputs[1]
    bias = conv.inputs[2] if len(conv.inputs) > 2 and conv.inputs[2].name else None
    if not isinstance(weight, gs.Constant) or is_sparse(weight) or dtype(weight) not in FLOATS:
        return
    parameters = [find_constant(tensor) for tensor in norm.inputs[1:5]]
    offset = np.zeros(weight.shape[0]) if bias is None else find_constant(bias)
    if any(values is None or values.shape != tuple(weight.shape[:1]) for values in (offset, *parameters)):
        return
    with np.errstate(all="ignore"):  # what is not finite is not folded
        gamma, beta, mean, variance = (np.asarray(parameter, np.float64) for parameter in parameters)
        gain = gamma / np.sqrt(variance + float(norm.attrs.get("epsilon", 1e-5)))
        kernel = array(weight).astype(np.float64) * gain.reshape(-1, *[1] * (len(weight.shape) - 1))
        shift = (np.asarray(offset, np.float64) - mean) * gain + beta
    if not (np.isfinite(kernel).all() and np.isfinite(shift).all()):
        return
    element = dtype(weight)
    new_weight = make_constant(unique(f"{weight.name}/folded", taken), kernel, element)
    base = bias.name if bias is not None else f"{weight.name}/bias"
    new_bias = make_constant(unique(f"{base}/folded", taken), shift, element)
    if new_weight is None or new_bias is None:
        return

    old = list(norm.inputs[1:])
    result = norm.outputs[0]
    conv.inputs = [conv.inputs[0], new_weight, new_bias]
    norm.inputs.clear()
    norm.outputs.clear()
    graph.nodes[:] = [node for node in graph.nodes if node is not norm]
    conv.outputs = [result]
    for tensor in old:
        remove_unread(graph, tensor)


def _is_inference_norm(node: gs.Node, opset: int) -> bool:
    """Whether a node is a BatchNormalization that uses the stored statistics.

    What says so has changed: ``is_test`` before opset 7, a single output before opset 14, ``training_mode`` since.
    """
    if node.op != "BatchNormalization" or node.domain not in STANDARD or len(node.inputs) != 5:
        return False
    one_output = sum(bool(tensor.name) for tensor in node.outputs) == 1
    trains = node.attrs.get("training_mode", 0) != 0 or (opset < 7 and node.attrs.get("is_test", 0) == 0)
    return one_output and not trains and node.attrs.get("spatial", 1) == 1


def remove_unread(graph: gs.Graph, tensor: gs.Tensor) -> None:
    """Remove the nodes that were there only for a tensor which has just lost a reader."""
    outputs = {id(output) for output in graph.outputs}
    stack = [tensor]
    while stack:
        for node in list(stack.pop().inputs):
            if any(made.outputs or id(made) in outputs for made in node.outputs):
                continue
            if not any(node is other for other in graph.nodes):
                continue
            stack.extend(node.inputs)
            node.inputs.clear()
            node.outputs.clear()
            graph.nodes[:] = [other for other in graph.nodes if other is not node]
