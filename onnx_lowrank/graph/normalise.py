"""The model in the one form that the rest of the package reads.

Exporters put weights in many places and leave BatchNormalization beside the convolution. Afterwards every constant
weight and bias of a Conv is a ``gs.Constant``, and whatever scales and shifts its channels is part of the Conv before
it, be it a BatchNormalization or an Add, Sub, Mul or Div of constants:

    γ · (W∗x + b − μ) / √(σ² + ε) + β  =  (g·W)∗x + g·(b − μ) + β     with g = γ / √(σ² + ε)
    (W∗x + b) · g + s                  =  (g·W)∗x + g·b + s

Nothing else is simplified; only nodes that nobody needs after these two edits are removed.
"""

import math
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from onnx_lowrank.graph.computed import STANDARD, ComputedConstants
from onnx_lowrank.graph.protos import import_graph
from onnx_lowrank.graph.tensors import FLOATS, array, dtype, is_sparse, make_constant, taken_names, unique


def normalise(proto: onnx.ModelProto) -> gs.Graph:
    """Import a model, lift the weights of its convolutions and fold what scales and shifts their channels.

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
    known = ComputedConstants(graph)
    lifted: dict[str, gs.Constant] = {}
    for node in list(graph.nodes):
        if is_conv(node):
            _lift(graph, node, known, lifted, taken)
    for node in list(graph.nodes):
        if is_conv(node):
            while _fold(graph, node, known, taken):
                pass
    return graph


def is_conv(node: gs.Node) -> bool:
    """Whether the node is a Conv of the standard domain."""
    return node.op == "Conv" and node.domain in STANDARD


def _lift(
    graph: gs.Graph, conv: gs.Node, known: ComputedConstants, lifted: dict[str, gs.Constant], taken: set[str]
) -> None:
    for index, tensor in enumerate(conv.inputs):
        if index == 0 or not tensor.name or isinstance(tensor, gs.Constant):
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


def _fold(graph: gs.Graph, conv: gs.Node, known: ComputedConstants, taken: set[str]) -> bool:
    """Fold the one node that reads a convolution's response into it; False where that cannot be."""
    output = conv.outputs[0]
    if len(output.outputs) != 1 or any(tensor is output for tensor in graph.outputs):
        return False
    node = output.outputs[0]
    if not any(node is other for other in graph.nodes):
        return False  # It stands in the body of an If or Loop.
    weight = conv.inputs[1]
    bias = conv.inputs[2] if len(conv.inputs) > 2 and conv.inputs[2].name else None
    if not isinstance(weight, gs.Constant) or is_sparse(weight) or dtype(weight) not in FLOATS:
        return False
    offset = np.zeros(weight.shape[0]) if bias is None else known.find(bias)
    affine = _affine(node, output, weight.shape, graph.opset, known)
    if offset is None or affine is None:
        return False
    gain, shift = affine
    with np.errstate(invalid="ignore", over="ignore"):
        kernel = array(weight).astype(np.float64) * gain.reshape(-1, *[1] * (len(weight.shape) - 1))
        moved = offset.astype(np.float64) * gain + shift
    if not (np.isfinite(kernel).all() and np.isfinite(moved).all()):
        return False
    element = dtype(weight)
    new_weight: gs.Constant | None = weight
    if not (gain == 1).all():
        new_weight = make_constant(unique(f"{weight.name}/folded", taken), kernel, element)
    base = bias.name if bias is not None else f"{weight.name}/bias"
    new_bias = make_constant(unique(f"{base}/folded", taken), moved, element)
    if new_weight is None or new_bias is None:
        return False

    old = [tensor for tensor in node.inputs if tensor is not output]
    result = node.outputs[0]
    conv.inputs = [conv.inputs[0], new_weight, new_bias]
    node.inputs.clear()
    node.outputs.clear()
    graph.nodes[:] = [other for other in graph.nodes if other is not node]
    conv.outputs = [result]
    for tensor in old:
        remove_unread(graph, tensor)
    return True


Affine: TypeAlias = tuple[NDArray[np.float64], NDArray[np.float64]]
"""The gain and the shift of every channel, [d] each."""


def _affine(
    node: gs.Node, response: gs.Tensor, kernel: Sequence[int], opset: int, known: ComputedConstants
) -> Affine | None:
    """What a node does to the channels of a response where it scales and shifts them, and nothing else."""
    if node.domain not in STANDARD:
        return None
    if _is_inference_norm(node, opset) and node.inputs[0] is response:
        parameters = [known.find(tensor) for tensor in node.inputs[1:5]]
        if any(parameter is None for parameter in parameters):
            return None
        gamma, beta, mean, variance = (np.asarray(parameter, np.float64) for parameter in parameters)
        with np.errstate(invalid="ignore", divide="ignore"):
            gain = gamma / np.sqrt(variance + float(node.attrs.get("epsilon", 1e-5)))
            return gain, beta - mean * gain
    # Before opset 7 the operands were aligned by attributes.
    if node.op not in ("Add", "Sub", "Mul", "Div") or opset < 7 or len(node.inputs) != 2:
        return None
    left = node.inputs[0] is response
    other = node.inputs[1 if left else 0]
    values = None if other is response else _per_channel(known.find(other), kernel)
    if values is None or (node.op == "Div" and not left):
        return None
    ones, zeros = np.ones_like(values), np.zeros_like(values)
    with np.errstate(divide="ignore"):
        return {
            "Add": (ones, values),
            "Sub": (ones, -values) if left else (-ones, values),
            "Mul": (values, zeros),
            "Div": (1 / values, zeros),
        }[node.op]


def _per_channel(values: NDArray[Any] | None, kernel: Sequence[int]) -> NDArray[np.float64] | None:
    """The operand's value for every channel of a response [N, d, …], where it is the same at every place."""
    if values is None or values.ndim > len(kernel):
        return None
    shape = (1,) * (len(kernel) - values.ndim) + values.shape
    if shape[1] not in (1, kernel[0]) or math.prod(shape) != shape[1]:
        return None
    return np.broadcast_to(values.reshape(-1).astype(np.float64), (kernel[0],))


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
