"""Folding what a convolution's channels are multiplied by and shifted by into its weights.

A batch normalisation, as the operator or as exporters spell it (subtract, multiply, add), is affine in every channel,

    γ · (W∗x + b − μ) / √(σ² + ε) + β  =  (g·W)∗x + g·(b − μ) + β     with g = γ / √(σ² + ε),

and so is the bias that is added for itself. Where the network keeps its channels last, the nodes stand behind a
Transpose, and some exporters put a Cast between any two nodes, to the type that the values already have.
"""

from collections.abc import Sequence

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from onnx_lowrank.graph.constants import STANDARD, find_constant
from onnx_lowrank.graph.tensors import FLOATS, array, dtype, is_sparse, make_constant, unique
from onnx_lowrank.graph.unread import remove_unread

Affine = tuple[NDArray[np.float64], NDArray[np.float64]]
"""(gain, shift), [d] or [1] each: y ↦ gain · y + shift."""


def moved_axes(node: gs.Node, element: np.dtype[np.generic], rank: int) -> tuple[int, ...] | None:
    """How a node that changes no value moves the axes: axis i of its output is axis ``result[i]`` of its input.

    Parameters
    ----------
    node
        Any node with one input that is not constant.
    element, rank
        Of that input.

    Returns
    -------
    tuple of int or None
        None for a node that does anything else.
    """
    if node.domain not in STANDARD or len(node.inputs) != 1 or len(node.outputs) != 1:
        return None
    if node.op == "Identity" or (node.op == "Cast" and node.attrs.get("to") == FLOATS.get(element)):
        return tuple(range(rank))
    if node.op == "Transpose":
        axes = tuple(node.attrs.get("perm", range(rank - 1, -1, -1)))
        return axes if len(axes) == rank else None
    return None


def fold(graph: gs.Graph, conv: gs.Node, taken: set[str]) -> None:
    """Fold what follows a convolution into its weights, as far as it is affine in every channel.

    Parameters
    ----------
    graph
        The nodes that are folded are removed from it; the last tensor of them keeps its name.
    conv
        A Conv of its main graph.
    taken
        All names of the graph; those of the new weights are added.
    """
    weight = conv.inputs[1]
    bias = conv.inputs[2] if len(conv.inputs) > 2 and conv.inputs[2].name else None
    if not isinstance(weight, gs.Constant) or is_sparse(weight) or dtype(weight) not in FLOATS:
        return
    if len(weight.shape) < 3:
        return
    offset = np.zeros(weight.shape[0]) if bias is None else find_constant(bias)
    if offset is None or offset.shape != tuple(weight.shape[:1]):
        return
    element, rank = dtype(weight), len(weight.shape)
    outputs, nodes = {id(tensor) for tensor in graph.outputs}, {id(node) for node in graph.nodes}
    gain, shift = np.ones(1), offset.astype(np.float64)
    tensor, channels = conv.outputs[0], 1
    folded: list[gs.Node] = []
    while len(tensor.outputs) == 1 and id(tensor) not in outputs and id(tensor.outputs[0]) in nodes:
        node = tensor.outputs[0]
        axes = moved_axes(node, element, rank)
        if axes is not None:
            channels = axes.index(channels)
        else:
            affine = _affine(node, tensor, channels, (rank, weight.shape[0]), graph.opset)
            if affine is None:
                break
            with np.errstate(all="ignore"):
                gain, shift = gain * affine[0], shift * affine[0] + affine[1]
            folded.append(node)
        tensor = node.outputs[0]
    if folded and _reweight(conv, gain, shift, taken):
        _remove(graph, folded)


def _affine(node: gs.Node, y: gs.Tensor, channels: int, size: tuple[int, int], opset: int) -> Affine | None:
    """What a node does to y, of size (rank, filters), if it is affine in every channel."""
    if node.domain not in STANDARD:
        return None
    if node.op == "BatchNormalization":
        return (
            _norm(node, size[1]) if node.inputs[0] is y and channels == 1 and is_inference_norm(node, opset) else None
        )
    if node.op not in ("Add", "Sub", "Mul", "Div") or len(node.inputs) != 2 or node.attrs:
        return None
    first = node.inputs[0] is y
    values = _of_channels(node.inputs[1 if first else 0], channels, size)
    if values is None or (node.op == "Div" and not first):
        return None
    with np.errstate(all="ignore"):
        match node.op:
            case "Add":
                gain, shift = np.ones(1), values
            case "Sub":
                gain, shift = (np.ones(1), -values) if first else (-np.ones(1), values)
            case "Mul":
                gain, shift = values, np.zeros(1)
            case _:
                gain, shift = 1 / values, np.zeros(1)
    return gain, shift


def _of_channels(tensor: gs.Tensor, channels: int, size: tuple[int, int]) -> NDArray[np.float64] | None:
    """A constant, [d] or [1], if it differs along the channels alone and makes the other operand no larger."""
    rank, filters = size
    values = find_constant(tensor)
    if values is None or values.ndim > rank or values.dtype not in FLOATS:
        return None
    shape = (1,) * (rank - values.ndim) + values.shape
    if any(extent != 1 for axis, extent in enumerate(shape) if axis != channels) or shape[channels] not in (1, filters):
        return None
    return values.astype(np.float64).reshape(-1)


def _norm(norm: gs.Node, filters: int) -> Affine | None:
    parameters = [find_constant(tensor) for tensor in norm.inputs[1:5]]
    if any(parameter is None or parameter.shape != (filters,) for parameter in parameters):
        return None
    with np.errstate(all="ignore"):  # what is not finite is not folded
        gamma, beta, mean, variance = (np.asarray(parameter, np.float64) for parameter in parameters)
        gain = gamma / np.sqrt(variance + float(norm.attrs.get("epsilon", 1e-5)))
        return gain, beta - mean * gain


def is_inference_norm(node: gs.Node, opset: int) -> bool:
    """Whether a node is a BatchNormalization that uses the stored statistics.

    What says so has changed: ``is_test`` before opset 7, a single output before opset 14, ``training_mode`` since.
    """
    if node.op != "BatchNormalization" or node.domain not in STANDARD or len(node.inputs) != 5:
        return False
    one_output = sum(bool(tensor.name) for tensor in node.outputs) == 1
    trains = node.attrs.get("training_mode", 0) != 0 or (opset < 7 and node.attrs.get("is_test", 0) == 0)
    return one_output and not trains and node.attrs.get("spatial", 1) == 1


def _reweight(conv: gs.Node, gain: NDArray[np.float64], shift: NDArray[np.float64], taken: set[str]) -> bool:
    """Give the convolution the new weights; False, and nothing is changed, where its type cannot hold them."""
    weight = conv.inputs[1]
    filters, element = weight.shape[0], dtype(weight)
    with np.errstate(all="ignore"):
        kernel = array(weight).astype(np.float64) * gain.reshape(-1, *[1] * (len(weight.shape) - 1))
    if not (np.isfinite(kernel).all() and np.isfinite(shift).all()):
        return False
    bias = conv.inputs[2].name if len(conv.inputs) > 2 and conv.inputs[2].name else f"{weight.name}/bias"
    new_weight = make_constant(unique(f"{weight.name}/folded", taken), kernel, element)
    new_bias = make_constant(unique(f"{bias}/folded", taken), np.broadcast_to(shift, (filters,)), element)
    if new_weight is None or new_bias is None:
        return False
    conv.inputs = [conv.inputs[0], new_weight, new_bias]
    return True


def _remove(graph: gs.Graph, folded: Sequence[gs.Node]) -> None:
    """Take nodes of one operand out of the graph: whatever makes the operand makes their output instead."""
    gone = {id(node) for node in folded}
    graph.nodes[:] = [node for node in graph.nodes if id(node) not in gone]
    for node in folded:
        operand = next(tensor for tensor in node.inputs if not _is_constant(tensor))
        constants = [tensor for tensor in node.inputs if tensor is not operand]
        maker, result = operand.inputs[0], node.outputs[0]
        node.inputs.clear()
        node.outputs.clear()
        maker.outputs = [result]
        for tensor in constants:
            remove_unread(graph, tensor)


def _is_constant(tensor: gs.Tensor) -> bool:
    return find_constant(tensor) is not None
