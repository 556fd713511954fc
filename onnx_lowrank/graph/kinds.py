"""The kinds of nodes: told apart by operator, domain and constants, and by how they move axes."""

import re

import numpy as np
import onnx_graphsurgeon as gs

from onnx_lowrank.graph.tensors import FLOATS

STANDARD = (None, "", "ai.onnx")
"""The ways to write the domain of the standard operators."""

_CONVOLUTION = re.compile(r"Conv(?![a-z])")
"""The operators FusedConv, ConvTranspose, QLinearConv, NhwcConv and the like, but not Convert."""


def is_conv(node: gs.Node) -> bool:
    """Whether the node is a Conv of the standard domain."""
    return node.op == "Conv" and node.domain in STANDARD


def is_transposed(node: gs.Node) -> bool:
    """Whether the node is a ConvTranspose of the standard domain."""
    return node.op == "ConvTranspose" and node.domain in STANDARD


def is_plain_convolution(node: gs.Node) -> bool:
    """Whether the node is a Conv or a ConvTranspose of the standard domain."""
    return is_conv(node) or is_transposed(node)


def is_convolution(node: gs.Node) -> bool:
    """Whether the node is a convolution of any kind and domain."""
    return _CONVOLUTION.search(node.op) is not None


def is_product(node: gs.Node) -> bool:
    """Whether the node is a Gemm or a MatMul of the standard domain."""
    return node.op in ("Gemm", "MatMul") and node.domain in STANDARD


def is_dense(node: gs.Node) -> bool:
    """Whether the node is a fully connected layer: a Gemm, or a MatMul by a constant."""
    return is_product(node) and (node.op == "Gemm" or isinstance(node.inputs[1], gs.Constant))


def is_inference_norm(node: gs.Node, opset: int) -> bool:
    """Whether a node is a BatchNormalization that uses the stored statistics.

    Before opset 7 the attribute ``is_test`` says so, before opset 14 a single output, and since then
    ``training_mode``.
    """
    if node.op != "BatchNormalization" or node.domain not in STANDARD or len(node.inputs) != 5:
        return False
    one_output = sum(bool(tensor.name) for tensor in node.outputs) == 1
    trains = node.attrs.get("training_mode", 0) != 0 or (opset < 7 and node.attrs.get("is_test", 0) == 0)
    return one_output and not trains and node.attrs.get("spatial", 1) == 1


def moved_axes(node: gs.Node, element: np.dtype[np.generic], rank: int) -> tuple[int, ...] | None:
    """Return how a node that changes no value moves the axes: axis i of its output is axis ``result[i]`` of its input.

    Parameters
    ----------
    node
        Any node.
    element, rank
        The type of its input's values, and the number of its input's axes.

    Returns
    -------
    tuple of int or None
        None for a node that does anything but move axes.
    """
    if node.domain not in STANDARD or len(node.inputs) != 1 or len(node.outputs) != 1:
        return None
    if node.op == "Identity" or (node.op == "Cast" and node.attrs.get("to") == FLOATS.get(element)):
        return tuple(range(rank))
    if node.op == "Transpose":
        axes = tuple(node.attrs.get("perm", range(rank - 1, -1, -1)))
        return axes if len(axes) == rank else None
    return None
