"""Weights and biases stored as integers, with a DequantizeLinear in front of the layer."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from onnx_lowrank.factorise.rounding.columns import RoundedWeights
from onnx_lowrank.graph.network import Network
from onnx_lowrank.graph.quantise.pairs import DEQUANTIZE, make_node
from onnx_lowrank.graph.tensors import unique
from onnx_lowrank.graph.traverse import position

Array = NDArray[Any]

LARGEST_BIAS = 2**30
"""The largest code of a bias; a sum of products beside it has to fit in 32 bits as well."""


@dataclass(frozen=True)
class IntegerLayer:
    """A layer in integers.

    Attributes
    ----------
    output
        The tensor that the layer makes.
    weights
        The weights of all filters, [d, number of weights of a filter], in the order of the kernel.
    bias
        [d]; None where the layer has none.
    input_scale
        The scale of what it reads; with the scales of the filters it makes those of the bias. None leaves the bias in
        floating point.
    """

    output: str
    weights: RoundedWeights
    bias: Array | None
    input_scale: float | None


def store_integers(network: Network, layers: Sequence[IntegerLayer]) -> None:
    """Store the weights of layers, and their biases, as integers, in place."""
    taken = network.taken_names()
    for layer in layers:
        _store(network, layer, taken)


@dataclass(frozen=True)
class _Operand:
    """An operand of a layer as integers, with their scales along an axis."""

    index: int
    label: str
    codes: Array
    scales: Array
    axis: int


def _store(network: Network, layer: IntegerLayer, taken: set[str]) -> None:
    node = network.nodes[position(network, layer.output)]
    weight, label, axis = node.inputs[1], node.name or layer.output, 0
    codes = layer.weights.codes.astype(np.int8)
    if node.op == "MatMul" or (node.op == "Gemm" and not node.attrs.get("transB", 0)):
        codes, axis = codes.T, 1
    operands = [_Operand(1, f"{label}.weight", codes.reshape(weight.shape), layer.weights.scales, axis)]
    if layer.bias is not None and layer.input_scale is not None and len(node.inputs) > 2 and node.inputs[2].name:
        scales = (layer.weights.scales * layer.input_scale).astype(np.float32)
        integers = np.rint(layer.bias / scales.astype(np.float64)).clip(-LARGEST_BIAS, LARGEST_BIAS).astype(np.int32)
        operands.append(_Operand(2, f"{label}.bias", integers, scales, 0))  # [d], also where a Gemm has [1, d]
    for operand in operands:
        _dequantise(network, node, operand, taken)


def _dequantise(network: Network, node: gs.Node, operand: _Operand, taken: set[str]) -> None:
    """Let a node read integers in the place of an operand."""
    label, scales = operand.label, operand.scales.astype(np.float32)
    codes = gs.Constant(unique(f"{label}/codes", taken), np.ascontiguousarray(operand.codes))
    scale = gs.Constant(unique(f"{label}/scale", taken), scales)
    zero = gs.Constant(unique(f"{label}/zero_point", taken), np.zeros(len(scales), operand.codes.dtype))
    values = gs.Variable(unique(f"{label}/values", taken), np.float32, operand.codes.shape)
    name = unique(f"{label}/dequantize", taken)
    node.inputs[operand.index] = values
    network.insert(network.index(node), [make_node(DEQUANTIZE, name, [codes, scale, zero], values, axis=operand.axis)])
